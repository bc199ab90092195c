"""The price of one target at one time: rates, in tiers by the size of the prompt, and by the service tier that served.

A price travels in the ticket, so that whoever settles charges what was promised at admission, whatever the price book
says by then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

from ext_proc.pricing.usage import (
    NO_USAGE,
    NOT_TOKENS,
    PICODOLLARS_PER_NANODOLLAR,
    UNITS,
    USAGE_FIELDS,
    Rates,
    Usage,
    charge_nanodollars,
    nanodollars,
    picodollars,
    sum_tokens,
)

INPUT_KINDS = frozenset({
    "input_uncached", "cache_read", "cache_read_audio", "cache_read_image", "cache_write_5m", "cache_write_1h",
    "audio_in", "image_in", "video_in", "tool_prompt",
})  # fmt: skip
"""The rates an input token can be billed at. A request that cannot reach all of them says so, and is held for less."""


PRICES_REMEMBERED = 1024
"""Bounds what is remembered of prices that were computed from others."""

BATCH_TIER = "batch"
DEFAULT_TIERS = ("default", "standard")
"""What OpenAI and Anthropic call the service tier of a request that asked for none."""

HELD_MS_PER_OUTPUT_TOKEN = 17
HELD_MS_PER_REQUEST = 1_000
"""Where the time of serving has a price, a hold assumes so much: 60 tokens a second, after a second of reading. Nothing
bounds the real time but the route's time limit, so a settle may exceed its hold."""

_GEO_TENTHS: Mapping[str | None, int] = {"us": 11}
"""Anthropic's published multiple of all token prices where inference is kept in a place, in tenths."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates that apply to the *whole* request once its input passes `above_input_tokens`."""

    above_input_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Price:
    """Tiers in rising order, the first at 0; `version` names the catalogue or private entry it came from.

    `marginal`: the tiers do not re-price the whole request. It is charged as if it were split at their thresholds, in
    proportion to its input. `service_tiers` are the same model's tiers by the service tier that served (`flex`,
    `priority`, `batch`, …); a service tier that is not there costs what the standard one costs.
    """

    tiers: tuple[Tier, ...]
    version: str
    marginal: bool = False
    service_tiers: tuple[tuple[str, tuple[Tier, ...]], ...] = ()

    def __post_init__(self) -> None:
        for tiers in (self.tiers, *(tiers for _, tiers in self.service_tiers)):
            assert tiers, "a price has at least one tier"
            assert tiers[0].above_input_tokens == 0, "the first tier covers every request"

    @property
    def is_free(self) -> bool:
        """Whether nothing can ever be charged: such a model passes an exhausted cost budget."""
        listed = (*self.tiers, *(tier for _, tiers in self.service_tiers for tier in tiers))
        return all(not (getattr(tier.rates, name) or 0) for tier in listed for name in USAGE_FIELDS)

    def bills(self, names: Collection[str]) -> bool:
        """Whether any of these kinds of unit has a price."""
        return any(getattr(tier.rates, name) for tier in self.tiers for name in names)

    def is_countable(self, units: Collection[str]) -> bool:
        """Whether an API that counts these of the units (`UNITS`), and tokens, can be charged by this price.

        A price per minute of audio charges nothing for a chat.
        """
        first = self.tiers[0].rates
        return (
            bool(first.input_uncached or first.output)
            or self.is_free
            or self.bills([name for name in USAGE_FIELDS if name not in UNITS or name in units])
        )

    def served_by(self, service_tier: str | None) -> Self:
        """The price of a service tier alone: what was asked for bounds a hold, what served prices the charge."""
        for name, tiers in self.service_tiers:
            if name == service_tier:
                return replace(self, tiers=tiers, service_tiers=())
        return replace(self, service_tiers=()) if self.service_tiers else self

    def __hash__(self) -> int:
        """Of what tells prices apart most often: a hash of every rate would cost more than what it helps to find."""
        rates = self.tiers[0].rates
        return hash((self.version, rates.input_uncached, rates.output, len(self.service_tiers)))

    @lru_cache(maxsize=PRICES_REMEMBERED)  # noqa: B019 - prices are few and live as long as the price book
    def asked_for(self, service_tier: str | None) -> Self:
        """The price as a request that asks for this service tier is held at it.

        Its rates become the standard ones; an answer that names another tier, the default one included, is still
        charged at that tier's. Batch rates are left out: no answer to a request of its own has them.
        """
        others = tuple(entry for entry in self.service_tiers if entry[0] != BATCH_TIER)
        for name, tiers in self.service_tiers:
            if name == service_tier:
                defaults = tuple((default, self.tiers) for default in DEFAULT_TIERS)
                return replace(self, tiers=tiers, service_tiers=(*others, *defaults))
        return replace(self, service_tiers=others) if others != self.service_tiers else self

    def rates_for(self, usage: Usage) -> Rates:
        """The tier this usage falls in (the threshold compares all input, cached or not)."""
        input_tokens = usage.input_tokens
        chosen = self.tiers[0].rates
        for tier in self.tiers[1:]:
            if input_tokens > tier.above_input_tokens:
                chosen = tier.rates
        return chosen

    def served_in(self, geo: str | None) -> Self:
        """The price where the answer was made, in the same service tiers: tokens cost more in some places."""
        if geo not in _GEO_TENTHS:
            return self
        tenths = _GEO_TENTHS[geo]
        return replace(
            self,
            tiers=_scaled(self.tiers, tenths),
            service_tiers=tuple((name, _scaled(tiers, tenths)) for name, tiers in self.service_tiers),
        )

    @property
    def counts_time(self) -> bool:
        """Whether the time that a request is served has a price."""
        return any(tier.rates.served_ms for tier in self.tiers)

    def charge_nanodollars(self, usage: Usage, parts: Sequence[Usage] = ()) -> int:
        """What this usage costs. `parts`: it is made of these inferences, and each is in a tier by itself."""
        if self.marginal and usage.input_tokens > 0:
            return self._marginal_charge(usage)
        if not parts:
            return charge_nanodollars(usage, self.rates_for(usage))
        tokens = [replace(part, **dict.fromkeys(NOT_TOKENS, 0)) for part in parts]
        total = sum(picodollars(part, self.rates_for(part)) for part in tokens)
        total += picodollars(sum_tokens(usage, ()), self.tiers[0].rates)
        return nanodollars(total)

    def dearest_input_rate(self, input_tokens: int | None = None, kinds: Collection[str] = INPUT_KINDS) -> int:
        """Pico-dollars of the dearest way an input token could be billed: what a hold assumes.

        `input_tokens` bounds the prompt, and so the tiers it can reach; `kinds` are the rates it can reach.
        """
        dearest: int = max(getattr(rates, kind) for rates in self._reachable(input_tokens) for kind in kinds)
        return dearest

    def dearest_output_rate(self, input_tokens: int | None = None) -> int:
        """Pico-dollars of the dearest way an output token could be billed, the time it takes to write it included."""
        return max(
            max(r.output, r.reasoning or 0, r.audio_out, r.image_out) + r.served_ms * HELD_MS_PER_OUTPUT_TOKEN
            for r in self._reachable(input_tokens)
        )

    def dearest_request_rate(self) -> int:
        """Pico-dollars of the dearest flat charge per request, the time before its first token included."""
        return max(tier.rates.requests + tier.rates.served_ms * HELD_MS_PER_REQUEST for tier in self.tiers)

    def units_picodollars(self, units: Usage) -> int:
        """What a request costs besides its tokens, as far as it is known before, at the dearest of the tiers."""
        if units is NO_USAGE:
            return 0
        listed = [(name, count) for name in NOT_TOKENS if (count := getattr(units, name))]
        dearest: int = max(sum(count * getattr(tier.rates, name) for name, count in listed) for tier in self.tiers)
        return dearest

    def _reachable(self, input_tokens: int | None) -> list[Rates]:
        return [
            tier.rates
            for tier in self.tiers
            if input_tokens is None or tier.above_input_tokens == 0 or input_tokens > tier.above_input_tokens
        ]

    def _marginal_charge(self, usage: Usage) -> int:
        """Each tier's share of the input, at that tier's rates for the whole usage; rounded half up, once."""
        total = usage.input_tokens
        ends = [tier.above_input_tokens for tier in self.tiers[1:]] + [total]
        weighted = 0
        for tier, end in zip(self.tiers, ends, strict=True):
            share = min(end, total) - tier.above_input_tokens
            if share > 0:
                weighted += share * picodollars(usage, tier.rates)
        divisor = total * PICODOLLARS_PER_NANODOLLAR
        return (2 * weighted + divisor) // (2 * divisor)


def _scaled(tiers: tuple[Tier, ...], tenths: int) -> tuple[Tier, ...]:
    """Token rates times so many tenths, rounded up to a pico-dollar."""

    def scale(rates: Rates) -> Rates:
        listed = {name: getattr(rates, name) for name in USAGE_FIELDS if name not in NOT_TOKENS}
        return replace(rates, **{name: -(-rate * tenths // 10) for name, rate in listed.items() if rate is not None})

    return tuple(replace(tier, rates=scale(tier.rates)) for tier in tiers)
