"""Every error of the ledger. What can be expected is a result code, not an error: these are broken expectations."""

from __future__ import annotations


class LedgerError(Exception):
    """The base: never raised as it is."""


class UnknownTimezoneError(LedgerError):
    """A window names a time zone that the tz database does not have. The policy loader refuses such a rule first."""


class LayoutError(LedgerError):
    """Other workers on this Redis split the ledger differently: one account would be kept twice."""

    def __init__(self, theirs: str, ours: str, lapses_seconds: int) -> None:
        super().__init__(
            f"gateway-settings: ledger: this Redis is in use with {theirs}, and this policy set says {ours}. "
            f"Say the same, or stop every worker, wait {lapses_seconds} seconds and start anew"
        )


class StoreError(LedgerError):
    """Redis answered with an error. Inside the ledger only: a caller sees `Code.UNAVAILABLE`."""


class StoreUnreachableError(StoreError):
    """The connection broke, or could not be made. Inside the ledger only, as `StoreError`."""


class StoreTimeoutError(StoreUnreachableError):
    """Redis was asked and did not answer in time."""


class ScriptUnknownError(StoreError):
    """Redis does not have the script (it restarted, failed over or was told to forget): send it again."""


class NotAskedError(StoreUnreachableError):
    """The breaker is open: nothing was sent."""
