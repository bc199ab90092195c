"""One run of a stack, from the first child to the last, with what is told to people and probes meanwhile."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Sequence

from aiohttp import web

from ext_proc.supervisor.console import Console
from ext_proc.supervisor.parts import Policies
from ext_proc.supervisor.runner import Observer, Runner
from ext_proc.supervisor.services import Service
from ext_proc.supervisor.state_dir import StateDir
from ext_proc.telemetry.metrics import forget_worker


class Session:
    """Runs services and the admin API over one ledger."""

    def __init__(self, policies: Policies, state: StateDir, redis_url: str, console: Console) -> None:
        self._policies = policies
        self._state = state
        self._redis_url = redis_url
        self._console = console
        self._is_ready = False

    async def run(self, stages: Sequence[Sequence[Service]], admin_socket: socket.socket, *, ready: str) -> str | None:
        """Until everything is gone; why it failed, or None. Prints `tollgate ready …` when traffic is accepted."""

        def announce() -> None:
            self._is_ready = True
            sys.stdout.write(f"tollgate ready {ready}\n")
            sys.stdout.flush()

        def child_gone(name: str, pid: int) -> None:
            del name
            forget_worker(self._state.metrics, pid)

        runner = Runner(stages, self._state, Observer(self._console.say, announce, child_gone))
        async with self._admin(admin_socket):
            return await runner.run()

    @contextlib.asynccontextmanager
    async def _admin(self, bound: socket.socket) -> AsyncIterator[None]:
        app = web.Application()
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        await web.SockSite(runner, bound).start()
        try:
            yield
        finally:
            await runner.cleanup()
