"""The names that the data file of genai-prices builds its values from, building ours. See the package's docstring.

Arguments that we have no use for (descriptions, how a provider reports usage) are taken and dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, time
from decimal import Decimal

from ext_proc.pricing.entries import Clause, Constraint, Entry, Listed, Model, Tiered, Variant
from ext_proc.pricing.entries import Provider as Ours

__all__ = [
    "ArrayMatch",
    "ClauseAnd",
    "ClauseContains",
    "ClauseEndsWith",
    "ClauseEquals",
    "ClauseOr",
    "ClauseRegex",
    "ClauseStartsWith",
    "ConditionalPrice",
    "ModelInfo",
    "ModelPrice",
    "PriceVariant",
    "Provider",
    "StartDateConstraint",
    "Tier",
    "TieredPrices",
    "TimeOfDateConstraint",
    "UsageExtractor",
    "UsageExtractorMapping",
]


def Provider(
    *, id: str, models: Iterable[Model], fallback_model_providers: Iterable[str] | None = None, **_: object
) -> Ours:
    """A provider."""
    return Ours(id, tuple(models), tuple(fallback_model_providers or ()))


def ModelInfo(
    *,
    id: str,
    match: Clause,
    prices: Listed | list[Entry] | None = None,
    price_variants: list[Variant] | None = None,
    context_window: int | None = None,
    deprecated: bool | None = None,
    **_: object,
) -> Model:
    """A model. Without conditions its prices are one entry."""
    entries = tuple(prices) if isinstance(prices, list) else (Entry(prices or {}),)
    return Model(id, match, entries, tuple(price_variants or ()), context_window, bool(deprecated))


def ModelPrice(**listed: Decimal | Tiered | None) -> Listed:
    """What is listed."""
    return {key: dollars for key, dollars in listed.items() if dollars is not None}


def TieredPrices(*, base: Decimal, tiers: Iterable[tuple[int, Decimal]]) -> Tiered:
    """Dollars by the size of the prompt."""
    return Tiered(base, tuple(sorted(tiers)))


def Tier(*, start: int, price: Decimal) -> tuple[int, Decimal]:
    """One of them."""
    return start, price


def ConditionalPrice(*, prices: Listed, constraint: Constraint = None) -> Entry:
    """What is listed for some of the time."""
    return Entry(prices, constraint)


def PriceVariant(*, when: Mapping[str, str], prices: Listed, constraint: Constraint = None) -> Variant:
    """What is listed for requests that were served in some way."""
    return Variant(when, prices, constraint)


def StartDateConstraint(*, start_date: date) -> Constraint:
    """From a day on."""
    return start_date


def TimeOfDateConstraint(*, start_time: time, end_time: time) -> Constraint:
    """Between two times of each day."""
    return start_time, end_time


def ClauseEquals(*, equals: str) -> Clause:
    """A name."""
    return Clause("equals", equals)


def ClauseContains(*, contains: str) -> Clause:
    """Names that have it somewhere."""
    return Clause("contains", contains)


def ClauseStartsWith(*, starts_with: str) -> Clause:
    """Names that begin so."""
    return Clause("starts_with", starts_with)


def ClauseEndsWith(*, ends_with: str) -> Clause:
    """Names that end so."""
    return Clause("ends_with", ends_with)


def ClauseRegex(*, regex: str) -> Clause:
    """Names in which it is found."""
    return Clause("regex", regex)


def ClauseOr(*, or_: Iterable[Clause]) -> Clause:
    """One of them holds."""
    return Clause("or", tuple(or_))


def ClauseAnd(*, and_: Iterable[Clause]) -> Clause:
    """All of them hold."""
    return Clause("and", tuple(and_))


def UsageExtractor(**_: object) -> None:
    """How a provider reports usage: our dialects know."""


def UsageExtractorMapping(**_: object) -> None:
    """As above."""


def ArrayMatch(**_: object) -> None:
    """As above."""
