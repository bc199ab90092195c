"""Accounts as people and programs see them: pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from ext_proc.ledger.interface import AccountBalance, Measure, Period, Window, WindowKind
from ext_proc.ledger.units import rfc3339, unit_name
from ext_proc.pricing.money import dollars

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class State(StrEnum):
    """How far an account is spent. Open holds do not count: they may be given back."""

    OK = "ok"
    SOFT = "soft"  # 75 %
    CONSTRAINED = "constrained"  # 90 %
    EXHAUSTED = "exhausted"  # 100 %


_PERCENT_OF_STATE = ((100, State.EXHAUSTED), (90, State.CONSTRAINED), (75, State.SOFT))


def state_of(spent: int, cap: int) -> State:
    """The state at this much spent. A cap of zero is exhausted from the start."""
    for percent, state in _PERCENT_OF_STATE:
        if spent * 100 >= cap * percent:
            return state
    return State.OK


def account_json(balance: AccountBalance) -> dict[str, object]:
    """One account of `/v1/budgets`. Amounts are integers in the unit's smallest step (nano-dollars, tokens, requests);
    the `_usd` fields are dollars for cost units and null for others.
    """
    is_cost = balance.measure is Measure.COST
    return {
        "rule": balance.rule,
        "template": balance.template,
        "bucket": dict(balance.bucket),
        "unit": unit_name(balance.measure, balance.window),
        "window_start": _time(balance.window_start_us),
        "window_end": _time(balance.window_end_us),
        "cap": balance.cap,
        "spent": balance.spent,
        "held": balance.held,
        "cap_usd": dollars(balance.cap) if is_cost else None,
        "spent_usd": dollars(balance.spent) if is_cost else None,
        "held_usd": dollars(balance.held) if is_cost else None,
        "state": state_of(balance.spent, balance.cap).value,
    }


def account_from_json(account: Mapping[str, object]) -> AccountBalance:
    """The inverse of `account_json`, for the command line. What the JSON does not tell (the time zone, the document)
    is left empty. Raises KeyError, TypeError or ValueError where it is not such an account.
    """
    measure, _, period = str(account["unit"]).rpartition("_per_")
    bucket = account["bucket"]
    if not isinstance(bucket, Mapping):
        raise TypeError("a bucket is an object")
    window = Window(WindowKind.LIFETIME) if period == "lifetime" else Window(WindowKind.CALENDAR, Period(period))
    return AccountBalance(
        rule=str(account["rule"]),
        template=str(account["template"]),
        document="",
        document_type="",
        bucket=tuple((str(key), None if value is None else str(value)) for key, value in bucket.items()),
        measure=Measure(measure),
        window=window,
        window_start_us=_time_us(account["window_start"]),
        window_end_us=_time_us(account["window_end"]),
        cap=int(str(account["cap"])),
        spent=int(str(account["spent"])),
        held=int(str(account["held"])),
    )


def bucket_text(bucket: tuple[tuple[str, str | None], ...]) -> str:
    """`cost_center=search, user=(none)`; '' for the one shared bucket of a rule that has none."""
    return ", ".join(f"{key.removeprefix('metadata.')}={'(none)' if value is None else value}" for key, value in bucket)


def _time(time_us: int | None) -> str | None:
    return None if time_us is None else rfc3339(time_us)


def _time_us(text: object) -> int | None:
    if text is None:
        return None
    since = datetime.fromisoformat(str(text)) - _EPOCH
    return since // timedelta(microseconds=1)
