"""What a worker does while Redis does not answer: admit what the rules allow, remember it on disk, bring it back later.

A request that was admitted without Redis carries `store_failed` in its ticket. Its hold and its resolution go to the
worker's outage journal, in order, and are replayed by id when Redis is back. A resolution that another worker's hold
belongs to waits a little longer, so that the hold is there first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ext_proc.ledger.interface import Code, HoldReply, HoldRequest, Measure, Resolution
from ext_proc.ledger.outage import EventLog, LocalAllowance, replay
from ext_proc.ledger.redis_ledger import RedisLedger
from ext_proc.policy.snapshot import OnStoreFailure
from ext_proc.telemetry.metrics import Metrics

_LOG = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
FOREIGN_GRACE_SECONDS: Final = 5.0
"""How long after Redis is back a worker waits before it brings resolutions of holds that other workers admitted."""


class Outage:
    """The outage journal of one worker, and its share of what may be admitted without Redis."""

    def __init__(self, ledger: RedisLedger, metrics: Metrics, directory: Path) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._allowance = LocalAllowance()
        self._own = EventLog(directory, "outage")
        self._foreign = EventLog(directory, "outage-foreign")
        self._admitted: set[str] = set()  # ids in the own journal that Redis does not know yet
        # What a predecessor of this name left behind is replayed too.
        self._own_entries = sum(1 for _ in self._own.read())
        self._foreign_entries = sum(1 for _ in self._foreign.read())
        self._available_since: float | None = None

    def admit(self, request: HoldRequest, wish: OnStoreFailure) -> HoldReply | None:
        """The answer of a hold without Redis: the first plan in full, or None where the rules refuse."""
        plan = request.plans[0]
        if wish is OnStoreFailure.REFUSE:
            return None
        if wish is OnStoreFailure.LOCAL and not self._allowance.admit(plan, plan.output_max):
            return None
        self._own.append_hold(request, 0, plan.output_max)
        self._own_entries += 1
        self._admitted.add(request.hold_id)
        for posting in plan.postings:
            if posting.deciding and posting.account.measure is Measure.COST:
                held = posting.fixed + posting.per_output_milli * plan.output_max // 1_000
                self._metrics.fail_open(posting.account.rule_id, held)
        return HoldReply(Code.HELD, output_limit=plan.output_max)

    def keep(self, resolution: Resolution) -> bool:
        """Keep the resolution of a request that was admitted without Redis; False where Redis knows its hold by now."""
        if resolution.hold_id in self._admitted:
            self._own.append_resolution(resolution)
            self._own_entries += 1
            return True
        if self._available_since is not None and not self._is_fresh():
            return False
        self._foreign.append_resolution(resolution)
        self._foreign_entries += 1
        return True

    @property
    def is_over(self) -> bool:
        """Whether Redis has been back for long enough that every worker has brought what it kept."""
        since = self._available_since
        return since is not None and asyncio.get_running_loop().time() > since + 2 * FOREIGN_GRACE_SECONDS

    async def run(self) -> None:
        """Replay the journals whenever Redis is back."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """One look: replay what there is, when it is time."""
        if not self._ledger.is_available:
            self._available_since = None
            return
        if self._available_since is None:
            self._available_since = asyncio.get_running_loop().time()
        if self._own_entries:
            self._own_entries = await self._replay(self._own, lambda: self._own_entries)
            if not self._own_entries:
                self._admitted.clear()
                self._allowance.recovered()
        if self._foreign_entries and not self._is_fresh():
            self._foreign_entries = await self._replay(self._foreign, lambda: self._foreign_entries)

    def close(self) -> None:
        """Close the files; what they hold is replayed by the next worker of this name."""
        self._own.close()
        self._foreign.close()

    def _is_fresh(self) -> bool:
        """Whether Redis came back so lately that other workers may still be bringing their holds."""
        assert self._available_since is not None, "asked only while Redis answers"
        return asyncio.get_running_loop().time() < self._available_since + FOREIGN_GRACE_SECONDS

    async def _replay(self, log: EventLog, entries: Callable[[], int]) -> int:
        """Bring a journal to Redis; how many entries are left. What is appended meanwhile is replayed next time."""
        before = entries()
        done = await replay(log, self._ledger)
        if not done.complete or entries() != before:
            return entries()
        log.clear()
        _LOG.warning("Redis is back: %d holds and %d resolutions of the outage are in it", done.restored, done.settled)
        return 0
