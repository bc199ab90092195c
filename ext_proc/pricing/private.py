"""Private prices: what a policy author writes under `cost`, read exactly and refused where it is unclear.

```yaml
cost:
  per_1000_tokens: {input: 0.003, output: 0.015, cache_read: 0.0003, cache_write: 0.00375,
                    input_tiers: [{from: 200000, cost_per_token: 0.000006}]}
  per_request: 0.002
```

Numbers are dollars. A tier's `from` is a number of input tokens; its rate holds for the whole request once the input
passes it, or, with `tier_mode: marginal`, for the part of the request beyond it. Prices change by adding entries with a
`from` day, never by editing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal, InvalidOperation

from ext_proc.pricing.errors import PricingError
from ext_proc.pricing.price import Price, Tier
from ext_proc.pricing.schedule import Dated, Schedule, start_of_day_us
from ext_proc.pricing.usage import Rates

_PICO_PER_DOLLAR = 10**12
_TOKENS = 1000

_TOKEN_KEYS: dict[str, tuple[str, ...]] = {
    "input": ("input_uncached", "tool_prompt"),
    "output": ("output",),
    "cache_read": ("cache_read", "cache_read_audio", "cache_read_image"),
    "cache_write": ("cache_write_5m", "cache_write_1h"),
    "cache_write_1h": ("cache_write_1h",),
    "audio_input": ("audio_in",),
    "audio_output": ("audio_out",),
    "image_input": ("image_in",),
    "image_output": ("image_out",),
    "video_input": ("video_in",),
    "reasoning": ("reasoning",),
}
"""Which rates a key sets. The order matters: a later, narrower key overrides an earlier one."""

_INPUT_RATES = (
    "input_uncached", "tool_prompt", "cache_read", "cache_read_audio", "cache_read_image", "cache_write_5m",
    "cache_write_1h", "audio_in", "image_in", "video_in",
)  # fmt: skip
_OUTPUT_RATES = ("output", "audio_out", "image_out", "video_out")

_TIER_KEYS = {
    "input_tiers": "input",
    "output_tiers": "output",
    "cache_read_tiers": "cache_read",
    "cache_write_tiers": "cache_write",
}
_UNIT_KEYS = {"per_request": "requests", "per_search": "searches", "per_image": "images"}
_SHARED_KEYS = {"per_minute_of_audio": ("audio_ms", 60_000), "per_million_characters": ("characters", 1_000_000)}
"""Prices of many units together: the rate, and of how many."""

_GPU = "per_gpu_hour"
_TOP_KEYS = frozenset(
    {"per_1000_tokens", "per_1000_embedding_tokens", "from", "tier_mode", _GPU, *_UNIT_KEYS, *_SHARED_KEYS}
)

_MS_PER_HOUR = 3_600_000


def private_price(cost: Mapping[str, object]) -> Schedule:
    """The price a `cost` entry sets, from its day on. Raises `PricingError` naming the field and the cure."""
    for key in cost:
        if key not in _TOP_KEYS:
            raise PricingError(key, f"is not a kind of price that is metered; those are {', '.join(sorted(_TOP_KEYS))}")
    mode = cost.get("tier_mode", "whole_request")
    if mode not in {"whole_request", "marginal"}:
        raise PricingError("tier_mode", f"is {mode!r}; it must be whole_request or marginal")
    units = {rate: _pico(cost[key], key, 1) for key, rate in _UNIT_KEYS.items() if key in cost}
    units |= {rate: _shared_rate(cost[key], key, per) for key, (rate, per) in _SHARED_KEYS.items() if key in cost}
    if _GPU in cost:
        units["served_ms"] = _gpu_rate(_mapping(cost[_GPU], _GPU))
    tokens, field = _token_prices(cost)
    if not tokens and not units:
        raise PricingError("per_1000_tokens", "is missing; give at least one price, 0 for a free model")
    price = Price(tiers=_tiers(tokens, units, field), version=f"private-{_digest(cost)}", marginal=mode == "marginal")
    return Schedule((Dated(price, from_us=_from_us(cost.get("from"), "from")),))


def _gpu_rate(entry: Mapping[str, object]) -> int:
    """Pico-dollars per millisecond of a request, on all the GPUs that serve it: rounded, to within a millionth."""
    gpus = entry.get("gpus", 1)
    if not isinstance(gpus, int) or isinstance(gpus, bool) or gpus < 1:
        raise PricingError(f"{_GPU}.gpus", f"is {gpus!r}; it must be a whole number of GPUs")
    if "rate" not in entry or entry.keys() - {"rate", "gpus"}:
        raise PricingError(_GPU, "must have `rate` (dollars per GPU and hour), and may have `gpus`")
    per_hour = _pico(entry["rate"], f"{_GPU}.rate", 1) * gpus
    return (per_hour + _MS_PER_HOUR // 2) // _MS_PER_HOUR


def _shared_rate(value: object, field: str, per: int) -> int:
    """Pico-dollars of one unit, rounded: a dollar per minute is that to within a millionth."""
    return (_pico(value, field, 1) + per // 2) // per


def _token_prices(cost: Mapping[str, object]) -> tuple[Mapping[str, object], str]:
    """The token prices and the field they stand in."""
    if "per_1000_embedding_tokens" in cost:
        if "per_1000_tokens" in cost:
            raise PricingError("per_1000_embedding_tokens", "stands beside per_1000_tokens; keep one of them")
        return {"input": cost["per_1000_embedding_tokens"]}, "per_1000_embedding_tokens"
    field = "per_1000_tokens"
    return _mapping(cost[field], field) if field in cost else {}, field


def _tiers(tokens: Mapping[str, object], units: Mapping[str, int], field: str) -> tuple[Tier, ...]:
    base: dict[str, int] = {}
    stepped: dict[int, dict[str, int]] = {}
    for key, value in tokens.items():
        if key in _TOKEN_KEYS:
            base[key] = _pico(value, f"{field}.{key}", _TOKENS)
        elif key in _TIER_KEYS:
            for start, rate in _tier_entries(value, f"{field}.{key}"):
                stepped.setdefault(start, {})[_TIER_KEYS[key]] = rate
        else:
            known = ", ".join([*_TOKEN_KEYS, *_TIER_KEYS])
            raise PricingError(f"{field}.{key}", f"is not a kind of token; known are {known}")
    for prices in stepped.values():
        for key in prices:
            if key not in base:
                raise PricingError(f"{field}.{key}", f"is missing; {key}_tiers only raises or lowers it")
    tiers = [Tier(0, _rates(base, units))]
    for start in sorted(stepped):
        base = {**base, **stepped[start]}
        tiers.append(Tier(start, _rates(base, units)))
    return tuple(tiers)


def _tier_entries(value: object, field: str) -> list[tuple[int, int]]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise PricingError(field, "must be a list such as [{from: 200000, cost_per_token: 0.000006}]")
    found: list[tuple[int, int]] = []
    for index, raw in enumerate(value):
        where = f"{field}[{index}]"
        entry = _mapping(raw, where)
        if set(entry) != {"from", "cost_per_token"}:
            raise PricingError(where, "must have exactly the keys `from` (input tokens) and `cost_per_token` (dollars)")
        start = entry["from"]
        if not isinstance(start, int) or isinstance(start, bool) or start <= (found[-1][0] if found else 0):
            raise PricingError(f"{where}.from", f"is {start!r}; it must be a rising number of input tokens above 0")
        found.append((start, _pico(entry["cost_per_token"], f"{where}.cost_per_token", 1)))
    return found


def _rates(base: Mapping[str, int], units: Mapping[str, int]) -> Rates:
    """Rates with what was left out filled from the next larger kind: input for all input, output for all output."""
    plain_in, plain_out = base.get("input", 0), base.get("output", 0)
    rates: dict[str, int | None] = dict.fromkeys(_INPUT_RATES, plain_in)
    rates.update(dict.fromkeys(_OUTPUT_RATES, plain_out))
    for key, names in _TOKEN_KEYS.items():
        if key in base:
            rates.update(dict.fromkeys(names, base[key]))
    return Rates(**{**rates, **units})  # type: ignore[arg-type]  # only `reasoning` may be None, and is never set to it


def _pico(value: object, field: str, per: int) -> int:
    """Dollars per `per` units as integer pico-dollars per unit."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise PricingError(field, f"is {value!r}; it must be a number of dollars")
    try:
        dollars = Decimal(str(value))  # a float's shortest form is what the author wrote
    except InvalidOperation:
        raise PricingError(field, f"is {value!r}; it must be a number of dollars") from None
    if not dollars.is_finite() or dollars < 0:
        raise PricingError(field, f"is {value!r}; it must be zero or more dollars")
    pico = dollars * _PICO_PER_DOLLAR / per
    if pico != pico.to_integral_value():
        raise PricingError(field, f"is {value!r}, finer than a trillionth of a dollar per unit; round it")
    return int(pico)


def _from_us(value: object, field: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            raise PricingError(field, f"is {value!r}; write a date such as 2026-01-31 (UTC)") from None
    if isinstance(value, datetime) or not isinstance(value, date):
        raise PricingError(field, f"is {value!r}; write a date such as 2026-01-31 (UTC)")
    return start_of_day_us(value)


def _mapping(value: object, field: str) -> Mapping[str, object]:
    if isinstance(value, Mapping):
        return value
    raise PricingError(field, f"is {value!r}; it must be a mapping")


def _digest(cost: Mapping[str, object]) -> str:
    """A short name of this price: the same text gives the same name in every process."""
    return hashlib.sha256(repr(sorted(cost.items(), key=lambda item: item[0])).encode()).hexdigest()[:12]
