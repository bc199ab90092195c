"""What the soak remembers of each request: as its client saw it, as the provider billed it, as the journal has it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Expected(StrEnum):
    """How a kind of request is meant to end."""

    ANSWERED = "answered"  # whole, with usage
    UNCOUNTED = "uncounted"  # whole, without usage
    FAILED = "failed"  # the provider's error, or no answer of it
    CUT = "cut"  # by the provider, after some output
    LEFT = "left"  # by the client
    REFUSED = "refused"  # by us
    LIMITED = "limited"  # by us or not: a rate decides


@dataclass(slots=True)
class Sent:
    """A request as its client saw it. Times are seconds of one clock."""

    id: str
    kind: str
    expected: Expected
    statuses: frozenset[int]  # that are no surprise
    cost_center: str
    began: float
    ended: float = 0.0
    status: int = 0  # 0: no answer
    whole: bool = False  # the answer came to its end
    error: str = ""


@dataclass(frozen=True, slots=True)
class Billed:
    """One answer as the provider made it. `nanodollars` is None where it did not come to its end."""

    id: str
    outcome: str
    nanodollars: int | None


@dataclass(frozen=True, slots=True)
class Posted:
    """One journal entry: how one attempt of a request was charged. Amounts of a correction are differences."""

    id: str
    hold_id: str
    cost_center: str
    basis: str
    is_correction: bool
    hold_nanodollars: int
    charge_nanodollars: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Disruption:
    """Something that was killed or stopped: what, by what, from when until the stack served again."""

    service: str  # worker, redis, envoy
    signal: str  # SIGKILL, SIGTERM
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Balance:
    """One account at the end."""

    rule: str
    cost_center: str | None
    spent: int
    held: int
