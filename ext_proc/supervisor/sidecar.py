"""The sidecar alone, as `tollgate serve` runs it beside an Envoy that someone else runs.

As `stack.py` without Redis, mock provider and Envoy: what these need is not imported.
"""

from __future__ import annotations

import contextlib

from ext_proc.supervisor.addresses import bind, bound_address
from ext_proc.supervisor.console import Console
from ext_proc.supervisor.errors import OptionError
from ext_proc.supervisor.options import ServeOptions
from ext_proc.supervisor.parts import WorkerPlaces, build_workers, load_policies
from ext_proc.supervisor.price_watch import PriceWatch
from ext_proc.supervisor.redis_server import check_reachable
from ext_proc.supervisor.session import Greeting, Session
from ext_proc.supervisor.state_dir import StateDir
from ext_proc.supervisor.warm_workers import WarmWorkers


async def run_sidecar(options: ServeOptions, warm: WarmWorkers, console: Console) -> str | None:
    """Until it is told to stop; why it failed, or None. Raises SupervisorError before anything runs."""
    sidecar = options.sidecar
    policies = load_policies(sidecar)
    places = _serving_places(options)
    await check_reachable(options.redis_url)
    with contextlib.ExitStack() as kept:
        admin_socket = kept.enter_context(bind(sidecar.admin, "--admin"))
        state = kept.enter_context(StateDir(sidecar.state_dir))
        for unix_socket in places.unix_sockets:
            kept.callback(unix_socket.unlink, missing_ok=True)
        console.say(f"policies in {sidecar.policies}, state in {state.path}")
        if policies.routing.mocked:
            lacking = ", ".join(policies.routing.mocked)
            console.say(f"no credential for {lacking}: the provider will refuse what is sent there")
        upstreams = dict(policies.routing.upstreams)
        workers = build_workers(sidecar, places, state, redis_url=options.redis_url, upstreams=lambda: upstreams)
        prices = PriceWatch(sidecar.catalogue, state.catalogue)
        session = Session(policies.watch, prices, state, options.redis_url, console)
        admin = bound_address(admin_socket)
        grpc = ",".join(places.addresses.values())
        return await session.run([[*workers]], warm, admin_socket, Greeting(f"grpc={grpc} admin={admin.url}"))


def _serving_places(options: ServeOptions) -> WorkerPlaces:
    """Where the workers of a sidecar listen. Raises OptionError."""
    if options.grpc_listen is not None:
        if options.sidecar.workers != 1:
            raise OptionError(
                f"--workers {options.sidecar.workers}: over TCP one worker serves; run more replicas, or use "
                "--socket-dir"
            )
        with bind(options.grpc_listen, "--grpc-listen") as probe:
            return WorkerPlaces({"w0": str(bound_address(probe))})
    assert options.socket_dir is not None
    if not options.socket_dir.is_dir():
        raise OptionError(f"--socket-dir {options.socket_dir}: there is no such directory")
    return WorkerPlaces.in_directory(options.socket_dir.absolute(), options.sidecar.workers)
