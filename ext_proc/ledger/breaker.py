"""When to stop waiting for a Redis that does not answer."""

from __future__ import annotations


class Breaker:
    """Opens after so many failures in a row; one success closes it. Pure: who probes, and when, is the ledger's."""

    def __init__(self, failures: int) -> None:
        assert failures > 0, "a breaker that opens before the first failure never closes"
        self._limit = failures
        self._failures = 0

    @property
    def is_open(self) -> bool:
        """Whether calls should be answered `unavailable` without asking."""
        return self._failures >= self._limit

    def failed(self) -> bool:
        """Count a failure; True for the one that opens it."""
        self._failures += 1
        return self._failures == self._limit

    def succeeded(self) -> None:
        """Redis answered, whatever it said."""
        self._failures = 0
