"""Units and caps: `cost_per_week` → what an account counts and when it starts anew; dollars → nano-dollars.

A cap is an integer in the measure's smallest step and at most 2^53 − 1, because the ledger's scripts compare doubles.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

from ext_proc.ledger.interface import Measure, Period, Window, WindowKind

NANODOLLARS_PER_DOLLAR = 1_000_000_000
MAX_CAP = 2**53 - 1
MAX_DOLLARS = Decimal(MAX_CAP) / NANODOLLARS_PER_DOLLAR


@dataclass(frozen=True, slots=True)
class Unit:
    """What `limit_to` counts."""

    measure: Measure
    kind: WindowKind
    period: Period | None = None

    def window(self, timezone: str) -> Window:
        """The window of an account in this unit; the zone matters for calendar periods only."""
        return Window(self.kind, self.period, timezone if self.kind is WindowKind.CALENDAR else "UTC")


_COUNTED = (Measure.COST, Measure.TOKENS, Measure.INPUT_TOKENS, Measure.OUTPUT_TOKENS, Measure.REQUESTS)
_CALENDAR = (Period.HOUR, Period.DAY, Period.WEEK, Period.MONTH, Period.QUARTER)
_SLIDING = (Period.MINUTE, Period.HOUR, Period.DAY)

BUDGET_UNITS = MappingProxyType(
    {f"{m}_per_{p}": Unit(m, WindowKind.CALENDAR, p) for m in _COUNTED for p in _CALENDAR}
    | {f"{m}_per_lifetime": Unit(m, WindowKind.LIFETIME) for m in _COUNTED}
)
"""`cost_per_day`, `tokens_per_lifetime`, …: the units of budgets."""

RATE_UNITS = MappingProxyType(
    {"requests_per_second": Unit(Measure.REQUESTS, WindowKind.SLIDING, Period.SECOND)}
    | {f"{m}_per_{p}": Unit(m, WindowKind.SLIDING, p) for m in _COUNTED if m is not Measure.COST for p in _SLIDING}
    | {"concurrent_requests": Unit(Measure.CONCURRENT, WindowKind.OPEN)}
)
"""`requests_per_minute`, `concurrent_requests`, …: the units of rate limits."""


def cap_problem(limit: Decimal, measure: Measure) -> tuple[str, str] | None:
    """Why a written limit cannot be a cap: (problem, cure), or None where it can."""
    if limit < 0:
        return f"{limit:f} is negative", "write 0 to refuse everything, or a positive limit"
    steps = limit * NANODOLLARS_PER_DOLLAR if measure is Measure.COST else limit
    if steps > MAX_CAP:
        largest = f"{MAX_DOLLARS} USD" if measure is Measure.COST else str(MAX_CAP)
        return f"{limit:f} is more than the ledger counts exactly", f"write at most {largest}"
    if steps != steps.to_integral_value():
        if measure is Measure.COST:
            return f"{limit:f} is finer than a nano-dollar", "write at most nine decimals"
        return f"{limit:f} is a fraction", f"write a whole number of {measure.replace('_', ' ')}"
    return None


def cap_of(limit: Decimal, measure: Measure) -> int:
    """A limit in the measure's smallest step; `cap_problem` has passed it."""
    steps = limit * NANODOLLARS_PER_DOLLAR if measure is Measure.COST else limit
    return int(steps)
