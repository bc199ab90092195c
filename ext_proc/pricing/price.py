"""The price of one target at one time: rates, in tiers by the size of the prompt.

A price travels in the ticket, so that whoever settles charges what was promised at admission, whatever the price book
says by then. `encode`/`decode` are its compact text form.
"""

from __future__ import annotations

from dataclasses import dataclass

from ext_proc.pricing.usage import USAGE_FIELDS, Rates, Usage, charge_nanodollars


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates that apply to the *whole* request once its input passes `above_input_tokens`."""

    above_input_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Price:
    """Tiers in rising order, the first at 0; `version` names the catalogue or private entry it came from."""

    tiers: tuple[Tier, ...]
    version: str

    def __post_init__(self) -> None:
        assert self.tiers, "a price has at least one tier"
        assert self.tiers[0].above_input_tokens == 0, "the first tier covers every request"

    @property
    def is_free(self) -> bool:
        """Whether nothing can ever be charged: such a model passes an exhausted cost budget."""
        return all(not (getattr(tier.rates, name) or 0) for tier in self.tiers for name in USAGE_FIELDS)

    def rates_for(self, usage: Usage) -> Rates:
        """The tier this usage falls in (the threshold compares all input, cached or not)."""
        input_tokens = usage.input_tokens
        chosen = self.tiers[0].rates
        for tier in self.tiers[1:]:
            if input_tokens > tier.above_input_tokens:
                chosen = tier.rates
        return chosen

    def charge_nanodollars(self, usage: Usage) -> int:
        """What this usage costs."""
        return charge_nanodollars(usage, self.rates_for(usage))

    def dearest_input_rate(self) -> int:
        """Pico-dollars of the dearest way an input token could be billed: what a hold assumes."""
        return max(
            max(r.input_uncached, r.cache_read, r.cache_write_5m, r.cache_write_1h, r.audio_in, r.image_in)
            for r in (tier.rates for tier in self.tiers)
        )

    def dearest_output_rate(self) -> int:
        """Pico-dollars of the dearest way an output token could be billed."""
        return max(
            max(r.output, r.reasoning or 0, r.audio_out, r.image_out) for r in (tier.rates for tier in self.tiers)
        )

    def dearest_request_rate(self) -> int:
        """Pico-dollars of the dearest flat charge per request."""
        return max(tier.rates.requests for tier in self.tiers)
