"""Envoy as a service: its configuration written, its readiness asked, its connections drained before SIGTERM, which
cuts whatever still runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from ext_proc.envoy_config import EnvoyConfigError, EnvoySettings, render, render_tokens
from ext_proc.envoy_config.drain import drain
from ext_proc.envoy_config.filters import WORKERS_CLUSTER
from ext_proc.envoy_config.tokens import TOKENS_FILTER
from ext_proc.server.envoy_clusters import write_known
from ext_proc.supervisor.addresses import Address
from ext_proc.supervisor.errors import ServiceFailedError
from ext_proc.supervisor.lifecycle import ServiceLimits
from ext_proc.supervisor.processes import ChildProcess
from ext_proc.supervisor.services import poll
from ext_proc.supervisor.spawning import ProcessSpec, plain_environment
from ext_proc.supervisor.state_dir import StateDir
from ext_proc.supervisor.upstream_clusters import UpstreamClusters, write_followed

_ADMIN_SECONDS = 2.0
_RECONFIGURE_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class _Followed:
    """A part of the configuration that Envoy takes from a file, and the counters of its decisions."""

    what: str
    taken: str
    rejected: str


_CLUSTERS = _Followed(
    "accounts and chains", "cluster_manager.cds.update_success", "cluster_manager.cds.update_rejected"
)
_TOKENS = _Followed(
    "token issuers",
    f"extension_config_discovery.http_filter.{TOKENS_FILTER}.config_reload",
    f"extension_config_discovery.http_filter.{TOKENS_FILTER}.config_fail",
)


@dataclass(frozen=True, slots=True)
class EnvoyPlace:
    """Where Envoy is and how wide it runs. `threads`: its worker threads, one per core."""

    binary: Path
    listen: Address
    threads: int
    drain_seconds: float


class EnvoyService:
    """One Envoy process on a rendered configuration. `settings` is asked at each start."""

    name = "envoy"

    def __init__(self, place: EnvoyPlace, settings: Callable[[], EnvoySettings], state: StateDir) -> None:
        self.limits = ServiceLimits(start_seconds=60.0, stop_seconds=place.drain_seconds + 5.0)
        self._place = place
        self._settings = settings
        self._admin_socket = state.socket("envoy-admin.sock")
        self._state = state
        self._started = False
        self._clusters = UpstreamClusters(state.path / "envoy-clusters.yaml")
        self._tokens_file = state.path / "envoy-tokens.yaml"

    def spec(self) -> ProcessSpec:
        """Without hot restart: its shared memory and base id would clash with other Envoys of the machine."""
        settings = replace(self._settings(), admin=f"unix:{self._admin_socket}")
        self._clusters.write(settings, time.monotonic())
        self._tell_workers()
        write_followed(self._tokens_file, render_tokens(settings))
        followed = replace(settings, clusters_file=str(self._clusters.path), tokens_file=str(self._tokens_file))
        self._state.envoy_config.write_text(render(followed))
        self._admin_socket.unlink(missing_ok=True)
        self._started = True
        argv = (
            *(str(self._place.binary), "--config-path", str(self._state.envoy_config), "--disable-hot-restart"),
            *("--concurrency", str(self._place.threads), "--log-level", "warning"),
        )
        return ProcessSpec(self.name, argv, self._state.logs / "envoy.log", environment=_environment())

    async def reconfigure(self) -> None:
        """Bring Envoy where the policies lead now, without a restart; return when it has taken the change up.

        Raises SupervisorError where it cannot be told, or does not take it.
        """
        if not self._started:
            return  # its start will say it
        settings = self._settings()
        await self._tell(_CLUSTERS, lambda: self._clusters.write(settings, time.monotonic()))
        # After the clusters: one of them may be where an issuer publishes its keys.
        await self._tell(_TOKENS, lambda: write_followed(self._tokens_file, render_tokens(settings)))
        self._tell_workers()

    async def _tell(self, part: _Followed, write: Callable[[], bool]) -> None:
        """Write a file that Envoy follows and wait for its decision, if that changed the file."""
        async with self._admin() as admin:

            async def counts() -> tuple[int, int]:
                return await _stat(admin, part.taken), await _stat(admin, part.rejected)

            try:
                before = await counts()
                if not write():
                    return

                async def decided() -> bool:
                    return await counts() != before

                async with asyncio.timeout(_RECONFIGURE_SECONDS):
                    await poll(decided)
                if (await counts())[1] != before[1]:
                    raise ServiceFailedError(f"Envoy does not take the changed {part.what}; see its log")
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise ServiceFailedError(f"Envoy cannot be told of changed {part.what}: {error!r}") from None

    def _tell_workers(self) -> None:
        write_known(self._state.path, self._clusters.accounts, self._clusters.chains)

    async def ready(self, child: ChildProcess) -> None:
        """Live, at least one worker found healthy by Envoy's own check, and the listener accepts."""
        del child
        async with self._admin() as admin:

            async def serves() -> bool:
                try:
                    return await _is_live(admin) and await _admit_answers(admin) and await self._accepts()
                except (aiohttp.ClientError, OSError, TimeoutError):
                    return False

            await poll(serves)

    async def quiesce(self) -> None:
        """Refuse new connections, let running requests finish, and their records be sent. At most `drain_seconds`."""
        admin, seconds = f"unix:{self._admin_socket}", self._place.drain_seconds
        with contextlib.suppress(EnvoyConfigError):  # it answers no more: what ran there is settled by what passed
            await asyncio.to_thread(drain, admin, notice_seconds=0, limit_seconds=seconds)

    def _admin(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            base_url="http://envoy",
            connector=aiohttp.UnixConnector(str(self._admin_socket)),
            timeout=aiohttp.ClientTimeout(total=_ADMIN_SECONDS),
        )

    async def _accepts(self) -> bool:
        _, writer = await asyncio.open_connection(*self._place.listen.reachable)
        writer.close()
        await writer.wait_closed()
        return True


def _environment() -> dict[str, str]:
    """Of credentials the AWS ones alone, and what leads to them: Envoy signs for Bedrock, and nobody else does."""
    return plain_environment() | {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


async def _is_live(admin: aiohttp.ClientSession) -> bool:
    async with admin.get("/ready") as answer:
        return answer.status == 200  # noqa: PLR2004 - HTTP OK


async def _admit_answers(admin: aiohttp.ClientSession) -> bool:
    return await _stat(admin, f"cluster.{WORKERS_CLUSTER}.membership_healthy") > 0


async def _stat(admin: aiohttp.ClientSession, name: str) -> int:
    """A gauge or counter of Envoy. Raises ServiceFailedError where Envoy does not have it: then our names are wrong."""
    async with admin.get("/stats", params={"format": "json", "filter": f"^{name.replace('.', '[.]')}$"}) as answer:
        stats = json.loads(await answer.text())["stats"]
    if not stats:
        raise ServiceFailedError(f"Envoy has no stat {name}")
    return int(stats[0]["value"])
