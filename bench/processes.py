"""Processes that a benchmark starts: on free ports, pinned where asked, ended with all that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.errors import BenchError

START_SECONDS = 90.0
STOP_SECONDS = 40.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pinned(command: list[str], core: int | None) -> list[str]:
    """The command, on one core."""
    return command if core is None else ["taskset", "-c", str(core), *command]


@contextlib.contextmanager
def running(
    command: list[str],
    *,
    stdout: int = subprocess.DEVNULL,
    errors: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A process for the length of a block, and all that it started."""
    own = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_TOKEN"))}
    own.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode; a checkout writes it once
    with contextlib.ExitStack() as files:
        stderr = subprocess.DEVNULL if errors is None else files.enter_context(errors.open("w"))
        process = subprocess.Popen(
            command, stdout=stdout, stderr=stderr, text=True, env={**own, **(environment or {})}, start_new_session=True
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def first_line(process: subprocess.Popen[str]) -> str:
    """What it prints first: that it is ready, or nothing where it ended."""
    assert process.stdout is not None
    return process.stdout.readline()


def wait_for(url: str, process: subprocess.Popen[str], log: Path) -> None:
    """Until it answers."""
    give_up_at = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            raise BenchError(f"it ended with status {process.returncode}: {log.read_text()[-2000:]}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(url, timeout=2).close()
            return
        time.sleep(0.1)
    raise BenchError(f"nothing answered at {url}: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[str]:
    """The URL of a Redis of one's own, without persistence."""
    path = directory / "redis.sock"
    beside_python = Path(sys.executable).parent / "redis-server"
    binary = str(beside_python) if beside_python.exists() else "redis-server"
    with running([binary, "--port", "0", "--unixsocket", str(path), "--save", ""]) as process:
        while not path.exists():
            if process.poll() is not None:
                raise BenchError(f"{binary} ended with status {process.returncode}")
            time.sleep(0.05)
        yield f"unix://{path}"
