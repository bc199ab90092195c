"""Calendar tables: what a person reads off a wall calendar, to the microsecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.ledger.errors import UnknownTimezoneError
from ext_proc.ledger.interface import Period, Window, WindowKind
from ext_proc.ledger.windows import HOUR_US, WindowCache, calendar_bounds

BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"
LORD_HOWE = "Australia/Lord_Howe"
HAVANA = "America/Havana"


def us(text: str) -> int:
    """An ISO time with its offset, as UTC microseconds."""
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


# period, time zone, an instant in the window, the window's start and end
TABLE = """
hour     UTC              2026-03-01T10:59:59.999999+00:00  2026-03-01T10:00:00+00:00  2026-03-01T11:00:00+00:00
hour     UTC              2026-03-01T11:00:00+00:00         2026-03-01T11:00:00+00:00  2026-03-01T12:00:00+00:00
hour     Asia/Kolkata     2026-03-01T10:29:59+05:30         2026-03-01T10:00:00+05:30  2026-03-01T11:00:00+05:30
hour     Europe/Berlin    2026-03-29T01:59:59+01:00         2026-03-29T01:00:00+01:00  2026-03-29T03:00:00+02:00
hour     Europe/Berlin    2026-10-25T02:30:00+02:00         2026-10-25T02:00:00+02:00  2026-10-25T02:00:00+01:00
hour     Europe/Berlin    2026-10-25T02:30:00+01:00         2026-10-25T02:00:00+01:00  2026-10-25T03:00:00+01:00
hour     America/New_York 2026-03-08T01:59:59.999999-05:00  2026-03-08T01:00:00-05:00  2026-03-08T03:00:00-04:00
hour     America/New_York 2026-03-08T03:00:00-04:00         2026-03-08T03:00:00-04:00  2026-03-08T04:00:00-04:00
hour     America/New_York 2026-11-01T01:59:59.999999-04:00  2026-11-01T01:00:00-04:00  2026-11-01T01:00:00-05:00
hour     America/New_York 2026-11-01T01:00:00-05:00         2026-11-01T01:00:00-05:00  2026-11-01T02:00:00-05:00
hour     Australia/Lord_Howe 2026-04-05T01:45:00+11:00      2026-04-05T01:00:00+11:00  2026-04-05T01:30:00+10:30
hour     Australia/Lord_Howe 2026-04-05T01:45:00+10:30      2026-04-05T01:30:00+10:30  2026-04-05T02:00:00+10:30
day      Europe/Berlin    2026-03-29T12:00:00+02:00         2026-03-29T00:00:00+01:00  2026-03-30T00:00:00+02:00
day      Europe/Berlin    2026-10-25T12:00:00+01:00         2026-10-25T00:00:00+02:00  2026-10-26T00:00:00+01:00
day      America/New_York 2026-03-08T12:00:00-04:00         2026-03-08T00:00:00-05:00  2026-03-09T00:00:00-04:00
day      America/New_York 2026-11-01T12:00:00-05:00         2026-11-01T00:00:00-04:00  2026-11-02T00:00:00-05:00
day      America/Havana   2026-11-01T00:30:00-05:00         2026-11-01T00:00:00-04:00  2026-11-02T00:00:00-05:00
day      UTC              2028-02-29T23:59:59.999999+00:00  2028-02-29T00:00:00+00:00  2028-03-01T00:00:00+00:00
week     UTC              2026-12-31T12:00:00+00:00         2026-12-28T00:00:00+00:00  2027-01-04T00:00:00+00:00
week     UTC              2027-01-03T23:59:59.999999+00:00  2026-12-28T00:00:00+00:00  2027-01-04T00:00:00+00:00
week     UTC              2027-01-04T00:00:00+00:00         2027-01-04T00:00:00+00:00  2027-01-11T00:00:00+00:00
week     Europe/Berlin    2026-03-29T12:00:00+02:00         2026-03-23T00:00:00+01:00  2026-03-30T00:00:00+02:00
week     America/New_York 2026-10-31T12:00:00-04:00         2026-10-26T00:00:00-04:00  2026-11-02T00:00:00-05:00
month    Europe/Berlin    2026-03-15T00:00:00+01:00         2026-03-01T00:00:00+01:00  2026-04-01T00:00:00+02:00
month    America/New_York 2026-11-30T23:59:59.999999-05:00  2026-11-01T00:00:00-04:00  2026-12-01T00:00:00-05:00
month    UTC              2028-02-29T12:00:00+00:00         2028-02-01T00:00:00+00:00  2028-03-01T00:00:00+00:00
month    UTC              2026-02-28T23:59:59.999999+00:00  2026-02-01T00:00:00+00:00  2026-03-01T00:00:00+00:00
month    UTC              2026-12-31T23:59:59.999999+00:00  2026-12-01T00:00:00+00:00  2027-01-01T00:00:00+00:00
quarter  UTC              2026-05-31T00:00:00+00:00         2026-04-01T00:00:00+00:00  2026-07-01T00:00:00+00:00
quarter  Europe/Berlin    2026-12-31T23:59:59.999999+01:00  2026-10-01T00:00:00+02:00  2027-01-01T00:00:00+01:00
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize(("period", "timezone", "at", "start", "end"), ROWS, ids=[f"{r[0]}-{r[2]}" for r in ROWS])
def test_window_is_the_calendar_s(period: str, timezone: str, at: str, start: str, end: str) -> None:
    """Each row's instant lies in the window that a calendar on the wall of that time zone shows."""
    assert calendar_bounds(Period(period), timezone, us(at)) == (us(start), us(end))


@pytest.mark.parametrize(
    ("timezone", "day", "hours"),
    [
        (BERLIN, "2026-03-29T12:00:00+02:00", 23),
        (BERLIN, "2026-10-25T12:00:00+01:00", 25),
        (NEW_YORK, "2026-03-08T12:00:00-04:00", 23),
        (NEW_YORK, "2026-11-01T12:00:00-05:00", 25),
        (BERLIN, "2026-06-01T12:00:00+02:00", 24),
    ],
)
def test_day_of_a_clock_change_is_one_day(timezone: str, day: str, hours: int) -> None:
    """A day on which clocks change has 23 or 25 hours and is one window (T27)."""
    start_us, end_us = calendar_bounds(Period.DAY, timezone, us(day))
    assert (end_us - start_us) // HOUR_US == hours


@given(
    period=st.sampled_from((Period.HOUR, Period.DAY, Period.WEEK, Period.MONTH, Period.QUARTER)),
    timezone=st.sampled_from((BERLIN, NEW_YORK, LORD_HOWE, HAVANA, "UTC", "Asia/Kathmandu", "America/St_Johns")),
    at_us=st.integers(us("2020-01-01T00:00:00+00:00"), us("2037-12-31T00:00:00+00:00")),
)
def test_windows_tile_time(period: Period, timezone: str, at_us: int) -> None:
    """Windows follow each other without a gap or an overlap: both ends of one belong to it and its neighbours."""
    start_us, end_us = calendar_bounds(period, timezone, at_us)
    assert start_us <= at_us < end_us
    assert calendar_bounds(period, timezone, start_us) == (start_us, end_us)
    assert calendar_bounds(period, timezone, end_us - 1) == (start_us, end_us)
    assert calendar_bounds(period, timezone, end_us)[0] == end_us


@given(at_us=st.integers(us("2020-01-01T00:00:00+00:00"), us("2037-12-31T00:00:00+00:00")))
def test_hours_follow_clock_changes_everywhere(at_us: int) -> None:
    """Near any clock change of a zone that shifts by half an hour, hours still tile time and start on a local hour."""
    start_us, end_us = calendar_bounds(Period.HOUR, LORD_HOWE, at_us)
    zone = ZoneInfo(LORD_HOWE)
    local = datetime.fromtimestamp(start_us // 1_000_000, zone)
    assert local.minute in (0, 30)
    assert 0 < end_us - start_us <= HOUR_US


def test_cache_asks_again_when_the_window_has_ended() -> None:
    """The cached window is used up to its last microsecond and never after, nor before its first."""
    cache = WindowCache()
    window = Window(WindowKind.CALENDAR, Period.DAY)
    first = cache.bounds(window, us("2026-03-01T10:00:00+00:00"))
    assert first is not None
    assert cache.bounds(window, first[1] - 1) == first
    second = cache.bounds(window, first[1])
    assert second is not None
    assert second[0] == first[1]
    assert cache.bounds(window, first[1] - 1) == first


def test_kinds_without_bounds_have_none() -> None:
    """Lifetime, sliding and open windows have no calendar."""
    for kind in (WindowKind.LIFETIME, WindowKind.SLIDING, WindowKind.OPEN):
        assert WindowCache().bounds(Window(kind, Period.HOUR), 0) is None


def test_unknown_time_zone_is_an_error_of_ours() -> None:
    """A name that is not in the tz database is named in the error."""
    with pytest.raises(UnknownTimezoneError, match="Europe/Atlantis"):
        calendar_bounds(Period.DAY, "Europe/Atlantis", 0)
