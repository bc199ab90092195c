"""The price book: one per policy snapshot, asked once per request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields

from ext_proc.pricing.catalogue import Catalogue, shipped
from ext_proc.pricing.price import Price, Tier
from ext_proc.pricing.schedule import Schedule
from ext_proc.pricing.usage import Rates

_CACHE_MAX = 4096
"""Models remembered. Clients choose model names, so the memory is bounded; a full cache is emptied."""

_CEILING_HOLDS_US = 1_800_000_000
"""A ceiling is found anew every half hour: prices change on half hours of the day, or on days."""


class PriceBook:
    """Public prices, overridden by the private ones of provider accounts.

    `private`: account name → model name → `private_price(…)`. `catalogue`: the one that ships, or another. Rates are
    integer pico-dollars. A lookup that was asked before costs one dictionary access and a glance at the dates.
    """

    def __init__(
        self, private: Mapping[str, Mapping[str, Schedule]] | None = None, *, catalogue: Catalogue | None = None
    ) -> None:
        self._catalogue = catalogue = catalogue or shipped()
        self._private = {account: dict(models) for account, models in (private or {}).items()}
        self._known: dict[tuple[str, str], Schedule | None] = {}
        self._ceilings: dict[tuple[str, str, frozenset[str], int], Price] = {}
        self._version = f"{catalogue.version}+{_digest(self._private)}" if self._private else catalogue.version

    @property
    def version(self) -> str:
        """Names the catalogue, and the set of private prices where there is one."""
        return self._version

    def price(self, provider: str, model: str, at_us: int, *, account: str = "") -> Price | None:
        """The price of a model at a moment (Redis time), None where none is known: the unpriced policy decides.

        `account` is the provider account that serves: its private price comes before the public one.
        """
        private = self._private.get(account, {}).get(model)
        if private is not None:
            return private.at(at_us)
        key = (provider, model)
        try:
            schedule = self._known[key]
        except KeyError:
            if len(self._known) >= _CACHE_MAX:
                self._known.clear()
            schedule = self._known[key] = self._catalogue.schedule(provider, model)
        return schedule.at(at_us) if schedule is not None else None

    def ceiling(self, provider: str, at_us: int, *, account: str = "", units: frozenset[str] = frozenset()) -> Price:
        """The provider's dearest known price: of each kind of unit the highest rate any of its models has.

        Private prices of the account count too. Where neither is known (a self-hosted server with no price at all), the
        dearest of the whole catalogue stands in: an unknown model is never cheap by being unknown. Only prices count
        that can charge an API which counts these `units` besides tokens.
        """
        key = (provider, account, units, at_us // _CEILING_HOLDS_US)
        found = self._ceilings.get(key)
        if found is None:
            if len(self._ceilings) >= _CACHE_MAX:
                self._ceilings.clear()
            found = self._ceilings[key] = self._ceiling(provider, at_us, account, units)
        return found

    def context_window(self, provider: str, model: str) -> int | None:
        """How many tokens a model reads at most, None where the catalogue does not say."""
        return self._catalogue.context_window(provider, model)

    def _ceiling(self, provider: str, at_us: int, account: str, units: frozenset[str]) -> Price:
        known = [schedule for _, schedule in self._catalogue.all_schedules(provider)]
        known += self._private.get(account, {}).values()
        prices = [price for schedule in known if (price := schedule.at(at_us)) and price.is_countable(units)]
        if not prices:
            prices = [price for schedule in self._catalogue.whole() if (price := schedule.at(at_us))]
        rates = _dearest(tier.rates for price in prices for tier in price.tiers)
        return Price(tiers=(Tier(0, rates),), version=f"ceiling-{self._version}")


def _dearest(all_rates: Iterable[Rates]) -> Rates:
    listed = list(all_rates)
    highest = {
        field.name: max((getattr(rates, field.name) or 0 for rates in listed), default=0) for field in fields(Rates)
    }
    reasoning = highest["reasoning"]
    return Rates(**{**highest, "reasoning": reasoning if reasoning > highest["output"] else None})  # type: ignore[arg-type]  # only `reasoning` may be None


def _digest(private: Mapping[str, Mapping[str, Schedule]]) -> str:
    text = repr(sorted((account, model, repr(s)) for account, models in private.items() for model, s in models.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
