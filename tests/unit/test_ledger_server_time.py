"""The estimate of Redis time: late readings never hold it back, and a clock that was set is followed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ext_proc.ledger.server_time import ServerTime

SECOND_US = 1_000_000
BOOT_US = 1_700_000_000 * SECOND_US
"""Redis time when our monotonic clock was at nothing."""


def test_nothing_is_known_before_the_first_answer() -> None:
    """Without an answer there is no estimate; with one it goes on with our clock."""
    time = ServerTime()
    assert time.at_us(5) is None

    time.heard(BOOT_US + 5, 5)

    assert time.at_us(SECOND_US) == BOOT_US + SECOND_US


@given(late_us=st.lists(st.integers(0, 400_000), min_size=1, max_size=100), step_us=st.integers(1, 2 * SECOND_US))
def test_late_readings_do_not_hold_it_back(late_us: list[int], step_us: int) -> None:
    """However late answers are read, the estimate is never ahead of Redis, and as near as the best of ten seconds."""
    time, now_us, read = ServerTime(), 0, []
    for late in late_us:
        now_us += step_us
        time.heard(BOOT_US + now_us - late, now_us)
        read.append((now_us, late))

        estimate = time.at_us(now_us)

        assert estimate is not None
        best_us = min(late for at, late in read if at > now_us - 10 * SECOND_US)
        assert BOOT_US + now_us - best_us <= estimate <= BOOT_US + now_us


def test_a_clock_that_drifts_or_was_set_back_is_followed() -> None:
    """A little behind counts after twenty seconds at the latest, many seconds at once; what is ahead, at once."""
    time = ServerTime()
    time.heard(BOOT_US, 0)
    for second in range(1, 25):
        time.heard(BOOT_US + second * SECOND_US - 300_000, second * SECOND_US)
    assert time.at_us(25 * SECOND_US) == BOOT_US + 25 * SECOND_US - 300_000

    time.heard(BOOT_US + 26 * SECOND_US - 3_600 * SECOND_US, 26 * SECOND_US)
    assert time.at_us(26 * SECOND_US) == BOOT_US + 26 * SECOND_US - 3_600 * SECOND_US

    time.heard(BOOT_US + 27 * SECOND_US, 27 * SECOND_US)
    assert time.at_us(27 * SECOND_US) == BOOT_US + 27 * SECOND_US
