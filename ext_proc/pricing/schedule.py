"""Prices over time: which of a model's prices holds at a moment. Nothing is ever overwritten, only followed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

from ext_proc.pricing.price import Price

_MICROSECONDS = 1_000_000
_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Dated:
    """A price and when it holds: from a moment on, and, where `daily` is set, only between two seconds of the UTC day.

    An interval whose end lies before its start passes midnight.
    """

    price: Price
    from_us: int | None = None
    daily: tuple[int, int] | None = None

    def holds(self, at_us: int) -> bool:
        """Whether this price may be charged at that moment."""
        if self.from_us is not None and at_us < self.from_us:
            return False
        if self.daily is None:
            return True
        second = at_us // _MICROSECONDS % _SECONDS_PER_DAY
        start, end = self.daily
        return start <= second < end if start <= end else second >= start or second < end


@dataclass(frozen=True, slots=True)
class Schedule:
    """All prices of one model in the order they were added: the last that holds is the price."""

    dated: tuple[Dated, ...]

    def at(self, at_us: int) -> Price | None:
        """The price at a moment, None before the first."""
        for entry in reversed(self.dated):
            if entry.holds(at_us):
                return entry.price
        return None


def start_of_day_us(day: date) -> int:
    """UTC midnight of a date."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * _MICROSECONDS
