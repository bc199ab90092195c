"""What one account holds at one moment: enough to judge the next hold on it somewhere else.

`MemoryLedger.stand` takes a standing over, so that a request can be judged against live balances without a trace there.
"""

from __future__ import annotations

from dataclasses import dataclass

from ext_proc.ledger.interface import TopConsumer


@dataclass(frozen=True, slots=True)
class Slot:
    """What fell at one time of a sliding window."""

    at_us: int
    spent: int
    held: int


@dataclass(frozen=True, slots=True)
class Standing:
    """One account: `spent` and `held` in its step; of a sliding window they are the sums of its `slots`."""

    spent: int = 0
    held: int = 0
    slots: tuple[Slot, ...] = ()
    latched: bool = False
    top: tuple[TopConsumer, ...] = ()  # the largest first
