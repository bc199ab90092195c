"""One run of a stack, from the first child to the last, with what is told to people and probes meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ext_proc.admin import table
from ext_proc.admin.context import AdminContext, Targets, ledger_answers
from ext_proc.identity.administration import Administration
from ext_proc.identity.errors import ServerSecretError
from ext_proc.identity.server_secret import server_secret
from ext_proc.identity.store import IdentityStore
from ext_proc.ledger.realms_ledger import open_ledger
from ext_proc.policy.status_file import read_statuses
from ext_proc.routing.health import Health
from ext_proc.routing.virtual_models import VirtualModels
from ext_proc.server.health_reader import HealthReader
from ext_proc.supervisor.console import Console
from ext_proc.supervisor.errors import SupervisorError
from ext_proc.supervisor.lifecycle import State
from ext_proc.supervisor.policy_watch import PolicyWatch
from ext_proc.supervisor.price_watch import PriceWatch
from ext_proc.supervisor.runner import Observer, Runner
from ext_proc.supervisor.services import Service, poll
from ext_proc.supervisor.state_dir import StateDir
from ext_proc.supervisor.warm_workers import WarmWorkers
from ext_proc.supervisor.workers import is_worker
from ext_proc.telemetry.workers import forget_worker

ADMIN_TOKEN_VARIABLE = "TOLLGATE_ADMIN_TOKEN"  # noqa: S105 - the name of the variable, not its value

_TABLE_SECONDS = 1.0
_TABLE_ACCOUNTS_MAX = 500
_LINES_LEFT_FREE = 8  # of the terminal, for the news above the table


@dataclass(frozen=True, slots=True)
class Greeting:
    """What is said when traffic is accepted: the `ready` part of the one line on stdout, and lines for people."""

    ready: str
    welcome: str = ""


class Session:
    """Runs services, the admin API over one ledger, and on a terminal the live table."""

    def __init__(
        self, policies: PolicyWatch, prices: PriceWatch, state: StateDir, redis_url: str, console: Console
    ) -> None:
        self._policies = policies
        self._prices = prices
        self._state = state
        self._ledger = open_ledger(redis_url, policies.snapshot.settings.realms)
        try:
            self._key_secret = server_secret(state.path)  # before a worker asks for it
        except ServerSecretError as error:
            raise SupervisorError(str(error)) from None
        self._console = console
        self._accepted = False
        self._admin_serves = asyncio.Event()
        self._targets = HealthReader(self._ledger.read)

    async def run(
        self,
        stages: Sequence[Sequence[Service]],
        warm: WarmWorkers,
        admin_socket: socket.socket,
        greeting: Greeting,
    ) -> str | None:
        """Until everything is gone; why it failed, or None."""

        async def announce() -> None:
            await self._admin_serves.wait()
            await poll(lambda: ledger_answers(self._ledger))  # its first call may have met a Redis that was starting
            self._accepted = True
            if greeting.welcome:
                self._console.write(greeting.welcome)
            with contextlib.suppress(OSError):  # nobody has to read it
                sys.stdout.write(f"tollgate ready {greeting.ready}\n")
                sys.stdout.flush()
            if sys.stdout.isatty() and sys.stderr.isatty():
                await self._draw_table()

        def child_gone(_name: str, pid: int) -> None:
            forget_worker(self._state.metrics, pid)

        async def reload() -> None:
            for name in runner.states:
                if is_worker(name):
                    runner.send(name, signal.SIGHUP)
            await self._prices.look(self._console.say, force=True)
            await self._policies.look(self._console.say, force=True)

        # On a terminal a hang-up says that nobody is there any more.
        has_terminal = any(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr) if stream is not None)
        observer = Observer(self._console.say, announce, child_gone, None if has_terminal else reload)
        runner = Runner(stages, self._state, observer, warm)
        await self._ledger.start()
        self._prices.announce(self._console.say)
        following: list[asyncio.Task[None] | asyncio.Task[str | None]] = [
            asyncio.create_task(followed.follow(self._console.say)) for followed in (self._policies, self._prices)
        ]
        try:
            running = asyncio.create_task(runner.run())
            following.append(running)
            await runner.has_begun.wait()
            # Only now: the HTTP library is half of what the supervisor loads, and the workers begin to serve meanwhile.
            from ext_proc.admin.server import admin_api  # noqa: PLC0415

            async with admin_api(self._admin_context(admin_socket, runner), admin_socket):
                self._admin_serves.set()
                return await running
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
            self._console.show("")
            await self._ledger.close()

    def _admin_context(self, bound: socket.socket, runner: Runner) -> AdminContext:
        return AdminContext(
            ledger=self._ledger,
            readiness=lambda: self._readiness(runner),
            metrics_dir=self._state.metrics,
            snapshot_info=self._policy_info,
            policy=self._policy_report,
            catalogue=lambda: self._prices.status,
            catalogue_info=self._prices.info,
            snapshot=lambda: self._policies.snapshot,
            token=os.environ.get(ADMIN_TOKEN_VARIABLE) or None,
            administration=Administration(IdentityStore(self._ledger.read, self._key_secret), self._key_secret),
            loopback=ipaddress.ip_address(bound.getsockname()[0]).is_loopback,
            targets=Targets(lambda: VirtualModels.of(self._policies.snapshot), self._health),
        )

    def _policy_report(self) -> Mapping[str, object]:
        workers = {name: pid for name, pid in self._state.children.items() if is_worker(name)}
        return self._policies.report(read_statuses(self._state.path, workers), running=len(workers))

    def _policy_info(self) -> Mapping[str, str]:
        return {**self._policies.info(), "converged": str(self._policy_report()["converged"]).lower()}

    async def _health(self) -> Health:
        return await self._targets.read(self._ledger.now_us())

    def _readiness(self, runner: Runner) -> Mapping[str, bool | str]:
        """`accepting` decides; what each child is doing, and how often it had to be started again, stands beside it."""
        states = runner.states
        workers_up = any(state is State.UP for name, state in states.items() if is_worker(name))
        envoy_up = states.get("envoy", State.UP) is State.UP
        accepting = self._accepted and not runner.is_stopping and workers_up and envoy_up
        return {"accepting": accepting, **{name: _told(state, runner.restarts[name]) for name, state in states.items()}}

    async def _draw_table(self) -> None:
        while True:
            balances, _ = await self._ledger.balances(rule=None, limit=_TABLE_ACCOUNTS_MAX, cursor="")
            size = shutil.get_terminal_size()
            rows = table.rows_of(balances, self._ledger.now_us())
            rows_max = max(1, size.lines - _LINES_LEFT_FREE)
            self._console.show(table.render(rows, width=size.columns - 1, rows_max=rows_max))
            await asyncio.sleep(_TABLE_SECONDS)


def _told(state: State, restarts: int) -> str:
    return f"{state.value}, restarted {restarts}×" if restarts else state.value
