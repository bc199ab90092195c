"""Target health in Redis: what each worker saw, added up, and read back by all.

No circuit is open in one process only.

Counts are hints, never money: what Redis does not take is dropped, and with nothing known every target is healthy.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from typing import Final

from ext_proc.exchange.effects import Resolve
from ext_proc.exchange.events import EndRecord
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger.channel import RunCommand
from ext_proc.ledger.errors import StoreError
from ext_proc.ledger.interface import Basis
from ext_proc.routing.health import KEPT_SECONDS, SLICE_SECONDS, Health, is_failure, ttft_class
from ext_proc.server.health_reader import CLASS, SEPARATOR, HealthReader, slice_key

REFRESH_SECONDS: Final = 0.5
_EXPIRE_SECONDS: Final = KEPT_SECONDS + 2 * SLICE_SECONDS


class TargetHealth:
    """What one worker saw of the targets of virtual models, on its way to Redis, and what all of them saw."""

    def __init__(self, run: RunCommand, targets: Iterable[str] = ()) -> None:
        self._run = run
        self._reader = HealthReader(run)
        self._targets = frozenset(targets)
        self._seen: Counter[str] = Counter()

    def follow(self, targets: Iterable[str]) -> None:
        """Count for these targets from now on: those of the policies, never names that clients invent."""
        self._targets = frozenset(targets)

    def failed(self, target: str, status: int) -> None:
        """An attempt that another one follows ended so. 0: no answer came."""
        self._add(target, a=1, f=int(is_failure(status)))

    def ended(self, ticket: Ticket, record: EndRecord) -> None:
        """The last attempt of a request ended so. Who hangs up before an answer says nothing about the target."""
        if not record.answered and (record.client_gone or not record.sent_upstream):
            return
        no_answer = not record.answered or (record.upstream_failed and not record.client_gone)
        status = 0 if no_answer else record.status
        self._add(ticket.target, a=1, f=int(is_failure(status)))
        if not is_failure(status) and record.first_byte_us is not None:
            ttft_ms = max(0, record.first_byte_us // 1_000 - ticket.began_ms)
            self._add(ticket.target, t=ttft_ms, n=1, **{f"{CLASS}{ttft_class(ttft_ms)}": 1})

    def settled(self, resolve: Resolve) -> None:
        """A streamed answer that reported its usage: how fast it was written."""
        ticket, resolution = resolve.ticket, resolve.resolution
        if not ticket.stream or resolution.basis is not Basis.REPORTED:
            return
        ending = json.loads(resolution.detail)
        written_ms = ending.get("duration_ms", 0) - (ending.get("ttft_ms") or 0)
        if resolution.charge.output_tokens and written_ms > 0:
            self._add(ticket.target, u=written_ms * 1_000, o=resolution.charge.output_tokens)

    async def refresh(self, now_us: int) -> Health | None:
        """Bring what was seen, take what is known; None where Redis does not answer."""
        seen, self._seen = self._seen, Counter()
        key = slice_key(now_us // 1_000_000 // SLICE_SECONDS)
        try:
            if seen:
                await asyncio.gather(
                    *(self._run("HINCRBY", key, field, count) for field, count in seen.items() if count),
                    self._run("EXPIRE", key, _EXPIRE_SECONDS),
                )
            return await self._reader.read(now_us)
        except StoreError:
            return None

    def _add(self, target: str, **figures: int) -> None:
        if target in self._targets:
            for figure, count in figures.items():
                self._seen[f"{target}{SEPARATOR}{figure}"] += count
