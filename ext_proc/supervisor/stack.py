"""The whole stack of `tollgate up`.

Everything that can be checked is checked before the first process starts: options, policies, binaries, ports, a Redis
named by URL. Then Redis and the mock provider start, then the workers, then Envoy. The admin API is in this process:
it serves from when the first child starts until after the last, so that probes see a stack start and drain. Stopping is
the same backwards: Envoy drains, workers settle, Redis writes its file and ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ext_proc.envoy_config import EnvoySettings
from ext_proc.supervisor.addresses import bind, bound_address, reserve
from ext_proc.supervisor.console import Console
from ext_proc.supervisor.cores import usable_cores
from ext_proc.supervisor.envoy import EnvoyPlace, EnvoyService
from ext_proc.supervisor.envoy_parts import build_envoy_settings, find_envoy_binary
from ext_proc.supervisor.options import StackOptions
from ext_proc.supervisor.parts import WorkerPlaces, build_workers, load_policies
from ext_proc.supervisor.price_watch import PriceWatch
from ext_proc.supervisor.redis_server import RedisServer, check_reachable, find_redis_server
from ext_proc.supervisor.services import Service
from ext_proc.supervisor.session import Greeting, Session
from ext_proc.supervisor.state_dir import StateDir
from ext_proc.supervisor.warm_workers import WarmWorkers
from ext_proc.supervisor.welcome import mock_notice, three_requests
from ext_proc.supervisor.workers import MockProvider

_UNKNOWN_YET = "http://127.0.0.1:9"  # stands for the mock provider's URL while the settings are checked


async def run_stack(options: StackOptions, warm: WarmWorkers, console: Console) -> str | None:
    """`tollgate up`, until it is told to stop; why it failed, or None. Raises SupervisorError before anything runs."""
    sidecar = options.sidecar
    policies = load_policies(sidecar)
    envoy_binary = find_envoy_binary()
    redis_binary = await _external_or_embedded(options.redis_url)
    with contextlib.ExitStack() as kept:
        listen, reservation = reserve(options.listen, "--listen")
        kept.callback(reservation.close)
        admin_socket = kept.enter_context(bind(sidecar.admin, "--admin"))
        state = kept.enter_context(StateDir(sidecar.state_dir))
        places = WorkerPlaces.in_directory(state.sockets, sidecar.workers)
        mock = MockProvider(state.logs / "mock-provider.log") if policies.routing.mocked else None
        redis = RedisServer(redis_binary, state) if redis_binary is not None else None
        redis_url = redis.url if redis is not None else str(options.redis_url)

        def upstreams() -> dict[str, str]:
            return policies.routing.with_mock(mock.url if mock is not None else None)

        def envoy_settings(replaced: Mapping[str, str] | None = None) -> EnvoySettings:
            settings = build_envoy_settings(sidecar, policies, places, listen, replaced or upstreams())
            return replace(settings, tls=options.tls)

        envoy_settings(policies.routing.with_mock(_UNKNOWN_YET))  # what Envoy cannot be told is refused before a start
        envoy = EnvoyService(
            EnvoyPlace(envoy_binary, listen, usable_cores(), sidecar.drain_seconds), envoy_settings, state
        )
        stages: list[list[Service]] = [
            [service for service in (redis, mock) if service is not None],
            [*build_workers(sidecar, places, state, redis_url=redis_url, upstreams=upstreams)],
            [envoy],
        ]
        policies.watch.on_change = envoy.reconfigure
        prices = PriceWatch(sidecar.catalogue, state.catalogue)
        session = Session(policies.watch, prices, state, redis_url, console)
        console.say(f"policies in {sidecar.policies}, state in {state.path}")
        if mock is not None:
            console.say(mock_notice(policies.routing, policies.snapshot))
        url = listen.url if options.tls is None else listen.secure_url
        ready = f"listen={url} admin={bound_address(admin_socket).url}"
        return await session.run(stages, warm, admin_socket, Greeting(ready, three_requests(policies.snapshot, url)))


async def _external_or_embedded(redis_url: str | None) -> Path | None:
    """The binary of the embedded Redis; None where --redis names one, which then answers."""
    if redis_url is None:
        return find_redis_server()
    await check_reachable(redis_url)
    return None
