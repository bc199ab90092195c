"""Carries resolutions to the ledger, in the background, never in a response's way, and counts what was charged.

Meter, the log and an abandoned admission hand their resolutions in here. The ledger keeps what Redis does not take at
once and brings it there later; what it cannot bring before the hold's lease ends, expiry charges in full.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

from ext_proc.exchange.effects import Resolve
from ext_proc.ledger.interface import Basis, Code, Ledger, Resolution
from ext_proc.server.outage import Outage
from ext_proc.telemetry.metrics import Metrics

_Work = Coroutine[None, None, None]

RECENT_MAX: Final = 20_000
"""How many resolved ids a worker remembers, so that the log need not ask Redis again what this worker's meter has
already settled. Forgetting one costs a repeated call, nothing else."""

_COUNTED: Final = frozenset({Code.SETTLED, Code.RELEASED, Code.CORRECTED, Code.UNAVAILABLE})
"""Answers after which a resolution counts: UNAVAILABLE means that the ledger has it, and Redis not yet."""


class Settler:
    """The resolutions of one worker."""

    def __init__(
        self,
        ledger: Ledger,
        metrics: Metrics,
        outage: Outage,
        lease_seconds: int,
        *,
        settled: Sequence[Callable[[Resolve], None]] = (),
    ) -> None:
        self._settled = settled
        self._ledger = ledger
        self._outage = outage
        self._metrics = metrics
        self._lease_seconds = lease_seconds
        self._recent: dict[str, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def knows(self, hold_id: str) -> bool:
        """Whether this worker itself has resolved, or is resolving, this hold."""
        return hold_id in self._recent

    def settle(self, resolve: Resolve) -> None:
        """Resolve a hold and count what it cost."""
        self._start(self._settle(resolve), resolve.resolution.hold_id)

    def release(self, resolution: Resolution) -> None:
        """Give back a hold that was never forwarded; there is nothing to count but the release."""
        self._start(self._release(resolution), resolution.hold_id)

    def renew(self, hold_ids: Sequence[str]) -> None:
        """Push the leases of requests that are still running."""
        self._spawn(self._renew(tuple(hold_ids)))

    async def drain(self) -> None:
        """Wait until everything handed in has been delivered, or given up."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, work: _Work, hold_id: str) -> None:
        self._recent[hold_id] = None
        if len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]
        self._spawn(work)

    def _spawn(self, work: _Work) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, resolve: Resolve) -> None:
        ticket, resolution = resolve.ticket, resolve.resolution
        if ticket.store_failed and self._outage.keep(resolution):
            code = Code.UNAVAILABLE
        else:
            code = await self._deliver(resolution)
        if code not in _COUNTED:
            return
        self._metrics.settled(basis=resolution.basis.value)
        for note in self._settled:
            note(resolve)
        if resolution.basis is Basis.RELEASED:
            return
        charge = resolution.charge
        self._metrics.charged(
            labels=ticket.labels,
            model=ticket.target,
            cost_nanodollars=charge.cost_nanodollars,
            input_tokens=charge.input_tokens,
            output_tokens=charge.output_tokens,
            basis=resolution.basis.value,
            operation=ticket.operation,
        )
        if resolve.usage_missing:
            self._metrics.usage_missing(ticket.target)
        if resolution.basis is Basis.REPORTED:
            for direction, learned, held, used in (
                ("input", ticket.learned_input, ticket.input_tokens, charge.input_tokens),
                ("output", ticket.learned_output, ticket.output_limit, charge.output_tokens),
            ):
                self._metrics.estimate_error(
                    model=ticket.target,
                    direction=direction,
                    learned=learned,
                    estimated_tokens=held,
                    reported_tokens=used,
                )

    async def _release(self, resolution: Resolution) -> None:
        if await self._deliver(resolution) in _COUNTED:
            self._metrics.settled(basis=Basis.RELEASED.value)

    async def _deliver(self, resolution: Resolution) -> Code:
        started = time.perf_counter()  # uvloop's own clock ticks in milliseconds
        reply = await self._ledger.resolve(resolution)
        seconds = time.perf_counter() - started
        self._metrics.ledger_call(operation="resolve", code=reply.code.value, seconds=seconds)
        return reply.code

    async def _renew(self, hold_ids: tuple[str, ...]) -> None:
        await self._ledger.renew(hold_ids, self._lease_seconds * 1_000)
