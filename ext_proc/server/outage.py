"""What a worker does while Redis does not answer: admit what the rules allow, remember it on disk, bring it back later.

A request that was admitted without Redis carries `store_failed` in its ticket. Its hold and its resolution go to the
worker's outage journal and are replayed by id when Redis is back. Where another worker resolves it, its resolution may
reach Redis before the hold does: the ledger keeps it and charges it when the hold is restored.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from ext_proc.ledger.interface import Code, HoldReply, HoldRequest, Measure, Resolution
from ext_proc.ledger.outage import EventLog, LocalAllowance, replay
from ext_proc.ledger.realms_ledger import StoreLedger
from ext_proc.policy.snapshot import OnStoreFailure
from ext_proc.telemetry.metrics import Metrics

_LOG = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
REPLAY_SECONDS: Final = 10.0
"""How long after Redis is back every worker has surely brought what it kept. Until then the log does not settle such a
request by its own estimate: what meter read of it may still be on its way."""


class Outage:
    """The outage journal of one worker, and its share of what may be admitted without Redis."""

    def __init__(self, ledger: StoreLedger, metrics: Metrics, directory: Path) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._allowance = LocalAllowance()
        self._log = EventLog(directory, "outage")
        self._admitted: set[str] = set()  # ids in the journal that Redis does not know yet
        self._entries = sum(1 for _ in self._log.read())  # what a predecessor of this name left behind is replayed too
        self._available_since: float | None = None

    def admit(self, request: HoldRequest, wish: OnStoreFailure) -> HoldReply | None:
        """The answer of a hold without Redis: the first plan in full, or None where the rules refuse."""
        plan = request.plans[0]
        if wish is OnStoreFailure.REFUSE:
            return None
        if wish is OnStoreFailure.LOCAL and not self._allowance.admit(plan, plan.output_max):
            return None
        self._log.append_hold(request, 0, plan.output_max)
        self._entries += 1
        self._admitted.add(request.hold_id)
        for posting in plan.postings:
            if posting.deciding and posting.account.measure is Measure.COST:
                held = posting.fixed + posting.per_output_milli * plan.output_max // 1_000
                self._metrics.fail_open(posting.account.rule_id, held)
        return HoldReply(Code.HELD, output_limit=plan.output_max, realms=self._ledger.realms_of(request))

    def keep(self, resolution: Resolution) -> bool:
        """Keep the resolution of a request that was admitted without Redis; False where it may go to Redis at once."""
        if self._ledger.is_available and resolution.hold_id not in self._admitted:
            return False
        self._log.append_resolution(resolution)
        self._entries += 1
        return True

    def is_over_for(self, ended_at: float) -> bool:
        """Whether every worker has brought what it kept of a request that ended then, in the event loop's seconds.

        This worker may not have noticed a short outage, so the request's own end counts too.
        """
        since = self._available_since
        return since is not None and asyncio.get_running_loop().time() > max(since, ended_at) + REPLAY_SECONDS

    async def run(self) -> None:
        """Replay the journal whenever Redis is back."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """One look: replay what there is, once Redis answers."""
        if not self._ledger.is_available:
            self._available_since = None
            return
        if self._available_since is None:
            self._available_since = asyncio.get_running_loop().time()
        if self._entries:
            await self._replay()

    def close(self) -> None:
        """Close the file; what it holds is replayed by the next worker of this name."""
        self._log.close()

    async def _replay(self) -> None:
        """Bring the journal to Redis. What is appended meanwhile is replayed next time."""
        before = self._entries
        done = await replay(self._log, self._ledger)
        if not done.complete or self._entries != before:
            return
        self._log.clear()
        self._entries = 0
        self._admitted.clear()
        self._allowance.recovered()
        _LOG.warning("Redis is back: %d holds and %d resolutions of the outage are in it", done.restored, done.settled)
