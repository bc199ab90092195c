"""Units by the names people write: `cost_per_week`, `tokens_per_minute`, `concurrent_requests`."""

from __future__ import annotations

from datetime import UTC, datetime

from ext_proc.ledger.interface import AccountSpec, Measure, Window, WindowKind
from ext_proc.pricing.money import dollars


def unit_name(measure: Measure, window: Window) -> str:
    """The unit as a policy writes it."""
    if window.kind is WindowKind.OPEN:
        return Measure.CONCURRENT.value
    period = "lifetime" if window.period is None else window.period.value
    return f"{measure.value}_per_{period}"


def amount_text(account: AccountSpec, amount: int) -> str:
    """An amount in the account's step, as people write it: `$12.50`, `1,200 tokens`."""
    if account.measure is Measure.COST:
        return dollars(amount)
    noun = "requests" if account.measure is Measure.CONCURRENT else account.measure.value.replace("_", " ")
    return f"{amount:,} {noun.removesuffix('s') if amount == 1 else noun}"


def rfc3339(time_us: int) -> str:
    """A time as RFC 3339 in UTC: whole seconds as such, microseconds otherwise."""
    seconds, micros = divmod(time_us, 1_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{micros:06d}Z" if micros else f"{text}Z"
