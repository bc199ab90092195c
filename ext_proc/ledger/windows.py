"""When windows begin and end.

Calendar windows follow the wall clock of the rule's time zone: a day of 23 or 25 hours is one day, a week starts on
Monday, a month on the 1st, a quarter in January, April, July and October. An hour is an hour that passed: the one
that a clock shows twice in autumn is two windows. Bounds are half open, in UTC microseconds, so every instant lies in
exactly one window of a kind.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ext_proc.ledger.errors import UnknownTimezoneError
from ext_proc.ledger.interface import Period, Window, WindowKind

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US

SLIDING_US = {
    Period.SECOND: SECOND_US,
    Period.MINUTE: 60 * SECOND_US,
    Period.HOUR: HOUR_US,
    Period.DAY: DAY_US,
}
"""How long a sliding window remembers."""

Bounds = tuple[int, int]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def calendar_bounds(period: Period, timezone: str, now_us: int) -> Bounds:
    """The calendar window that holds `now_us`: (start, end), start ≤ now < end.

    Raises UnknownTimezoneError.
    """
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UnknownTimezoneError(f"no time zone {timezone!r} in the tz database") from error
    if period is Period.HOUR:
        return _hour_bounds(zone, now_us)
    first, after = _DATES[period](_local(zone, now_us).date())
    return _midnight_us(zone, first), _midnight_us(zone, after)


def _local(zone: tzinfo, at_us: int) -> datetime:
    return (_EPOCH + timedelta(microseconds=at_us)).astimezone(zone)


def _midnight_us(zone: tzinfo, day: date) -> int:
    """The instant a local day begins. Where midnight is skipped (fold 0 of a gap) that is the transition itself; where
    it comes twice, the first.
    """
    return (datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)


def _day(today: date) -> tuple[date, date]:
    return today, today + timedelta(days=1)


def _week(today: date) -> tuple[date, date]:
    monday = today - timedelta(days=today.weekday())
    return monday, monday + timedelta(days=7)


def _month(today: date) -> tuple[date, date]:
    return _months(today.year, today.month, 1)


def _quarter(today: date) -> tuple[date, date]:
    return _months(today.year, today.month - (today.month - 1) % 3, 3)


def _months(year: int, month: int, count: int) -> tuple[date, date]:
    after = month - 1 + count
    return date(year, month, 1), date(year + after // 12, after % 12 + 1, 1)


_DATES: dict[Period, Callable[[date], tuple[date, date]]] = {
    Period.DAY: _day,
    Period.WEEK: _week,
    Period.MONTH: _month,
    Period.QUARTER: _quarter,
}


def _hour_bounds(zone: tzinfo, now_us: int) -> Bounds:
    """The local hour, cut where the offset changes inside it (Lord Howe shifts by half an hour)."""
    local = _local(zone, now_us)
    start_us = now_us - (local.minute * 60 + local.second) * SECOND_US - local.microsecond
    end_us = start_us + HOUR_US
    offset = local.utcoffset()
    if _local(zone, start_us).utcoffset() != offset:
        start_us = _transition_us(zone, start_us, now_us)
    if _local(zone, end_us - 1).utcoffset() != offset:
        end_us = _transition_us(zone, now_us, end_us - 1)
    return start_us, end_us


def _transition_us(zone: tzinfo, before_us: int, after_us: int) -> int:
    """The first instant in (before, after] with the offset of `after`."""
    offset = _local(zone, after_us).utcoffset()
    while after_us - before_us > 1:
        middle_us = (before_us + after_us) // 2
        if _local(zone, middle_us).utcoffset() == offset:
            after_us = middle_us
        else:
            before_us = middle_us
    return after_us


class WindowCache:
    """The current window of each (period, time zone): the hot path asks the calendar once per window, not per request.

    Bounded by the time zones that rules name.
    """

    def __init__(self) -> None:
        self._bounds: dict[tuple[Period, str], Bounds] = {}

    def bounds(self, window: Window, now_us: int) -> Bounds | None:
        """(start, end) of a calendar window at `now_us`; None for the kinds that have no bounds."""
        if window.kind is not WindowKind.CALENDAR:
            return None
        assert window.period is not None, "a calendar window has a period"
        key = (window.period, window.timezone)
        known = self._bounds.get(key)
        if known is None or not known[0] <= now_us < known[1]:
            known = self._bounds[key] = calendar_bounds(window.period, window.timezone, now_us)
        return known
