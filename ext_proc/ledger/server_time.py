"""What time it is on Redis, as far as its answers tell. Pure: the process's own monotonic clock comes in as a value."""

from __future__ import annotations

_AGE_US = 10_000_000
"""How long an answer counts at least, twice that at most: clocks drift apart by less than a millisecond in it."""

_STEP_US = 5_000_000
"""An answer that is this much behind is no late reading: Redis time has stepped back, or another server answers."""


class ServerTime:
    """Redis time by this process's monotonic clock, both in microseconds.

    An answer names the time at which it was given, and is read later: a moment on an idle event loop, up to a deadline
    on a busy one. So each answer shows how far Redis is ahead of us, or less; the one that shows most is nearest.
    """

    def __init__(self) -> None:
        self._ahead_us: int | None = None  # the most of this age
        self._ahead_before_us: int | None = None  # the most of the age before
        self._age_began_us = 0

    def heard(self, redis_us: int, monotonic_us: int) -> None:
        """An answer that was given at `redis_us` has been read now."""
        ahead_us = redis_us - monotonic_us
        known_us = self._most_us()
        if known_us is None or ahead_us < known_us - _STEP_US:
            self._ahead_us, self._ahead_before_us, self._age_began_us = ahead_us, None, monotonic_us
        elif monotonic_us - self._age_began_us >= _AGE_US:
            self._ahead_us, self._ahead_before_us, self._age_began_us = ahead_us, self._ahead_us, monotonic_us
        elif self._ahead_us is None or ahead_us > self._ahead_us:
            self._ahead_us = ahead_us

    def at_us(self, monotonic_us: int) -> int | None:
        """Redis time now; None before the first answer."""
        ahead_us = self._most_us()
        return None if ahead_us is None else monotonic_us + ahead_us

    def _most_us(self) -> int | None:
        if self._ahead_us is None or self._ahead_before_us is None:
            return self._ahead_us
        return max(self._ahead_us, self._ahead_before_us)
