"""What `tollgate prices show | diff | lint` print: pure functions from price books to lines.

A target is (account, provider, model). Rates are shown as dollars per million tokens or characters (per thousand
searches and requests, per hour of serving, per minute of audio, per image), which is how every price page writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from decimal import Decimal

from ext_proc.pricing.book import PriceBook
from ext_proc.pricing.price import Price, Tier
from ext_proc.pricing.usage import Rates

Target = tuple[str, str, str]

_SHOWN_PER = {"searches": 1_000, "requests": 1_000, "audio_ms": 60_000, "images": 1}
_TOKENS_SHOWN = 1_000_000
_MS_PER_HOUR = 3_600_000
_CENTS_OF_A_CENT = Decimal("0.0001")
_LIKE = {
    "cache_read": "input_uncached",
    "cache_read_audio": "cache_read",
    "cache_read_image": "cache_read",
    "cache_write_5m": "input_uncached",
    "cache_write_1h": "cache_write_5m",
    "audio_in": "input_uncached",
    "image_in": "input_uncached",
    "video_in": "input_uncached",
    "tool_prompt": "input_uncached",
    "reasoning": "output",
    "audio_out": "output",
    "image_out": "output",
    "video_out": "output",
}
"""A rate that equals its neighbour's is not worth a word."""


@dataclass(frozen=True, slots=True)
class Line:
    """One target's price, or why there is none."""

    target: Target
    text: str

    def __str__(self) -> str:
        account, _, model = self.target
        return f"{account}/{model}: {self.text}"


def show(book: PriceBook, targets: Iterable[Target], at_us: int) -> tuple[Line, ...]:
    """Every target's price at a moment."""
    return tuple(Line(target, describe(_price(book, target, at_us))) for target in targets)


def diff(before: tuple[PriceBook, int], after: tuple[PriceBook, int], targets: Iterable[Target]) -> tuple[Line, ...]:
    """The targets whose price differs between two books, each at its moment. Versions alone are no difference."""
    changed = []
    for target in targets:
        old, new = (_price(book, target, at_us) for book, at_us in (before, after))
        if _terms(old) != _terms(new):
            changed.append(Line(target, f"{describe(old)} → {describe(new)}"))
    return tuple(changed)


def lint(book: PriceBook, targets: Iterable[Target], at_us: int) -> tuple[Line, ...]:
    """The targets whose price an operator should look at: none at all, or a private one dearer or cheaper than public.

    A private price that is below a tenth or above ten times the public one is usually a unit mistaken for another.
    """
    found = []
    for target in targets:
        account, provider, model = target
        price = _price(book, target, at_us)
        public = book.price(provider, model, at_us)
        if price is None:
            found.append(Line(target, "has no known price; give it a `cost`, or the unpriced policy decides"))
        elif public is not None and _terms(price) != _terms(public):
            for name in ("input_uncached", "output"):
                mine, theirs = getattr(price.tiers[0].rates, name), getattr(public.tiers[0].rates, name)
                if mine and theirs and not theirs <= 10 * mine <= 100 * theirs:
                    text = f"{_dollars(mine, name)} for {name} is far from the public {_dollars(theirs, name)}"
                    found.append(Line(target, f"{text}; check the unit of {account}'s `cost`"))
    return tuple(found)


def describe(price: Price | None) -> str:
    """A price in one line: what differs from plain input and output rates, tier by tier."""
    if price is None:
        return "unpriced"
    if price.is_free:
        return f"free ({price.version})"
    parts = [_tiers(price.tiers)]
    parts += [f"{name}: {_tiers(tiers)}" for name, tiers in price.service_tiers if tiers != price.tiers]
    mode = ", marginal tiers" if price.marginal else ""
    return f"{' | '.join(parts)} ({price.version}{mode})"


def _tiers(tiers: tuple[Tier, ...]) -> str:
    first, *rest = (_rates(tier.rates) for tier in tiers)
    above = (f"above {tier.above_input_tokens:,} {text}" for tier, text in zip(tiers[1:], rest, strict=True))
    return "; ".join((first, *above))


def _rates(rates: Rates) -> str:
    shown = [f"input {_dollars(rates.input_uncached, 'input_uncached')}", f"output {_dollars(rates.output, 'output')}"]
    for name in (field.name for field in fields(Rates)):
        value = getattr(rates, name)
        neighbour = getattr(rates, _LIKE[name]) if name in _LIKE else 0
        if name not in {"input_uncached", "output"} and value not in {None, neighbour}:
            shown.append(f"{name} {_dollars(value, name)}")
    return ", ".join(shown)


def _dollars(picodollars: int, name: str) -> str:
    amount = Decimal(picodollars * _SHOWN_PER.get(name, _TOKENS_SHOWN)) / 10**12
    if name == "served_ms":  # a rate per millisecond is rounded; per hour it shows
        amount = (Decimal(picodollars * _MS_PER_HOUR) / 10**12).quantize(_CENTS_OF_A_CENT)
    return f"${amount.normalize():f}"


def _price(book: PriceBook, target: Target, at_us: int) -> Price | None:
    account, provider, model = target
    return book.price(provider, model, at_us, account=account)


def _terms(price: Price | None) -> object:
    return price and (price.tiers, price.marginal, price.service_tiers)
