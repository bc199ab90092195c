"""Our charges against the calculation of genai-prices itself, over its whole catalogue."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_UP, Decimal

from genai_prices import Usage as OracleUsage
from genai_prices import data_snapshot, types
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_proc.pricing import published, shipped
from ext_proc.pricing.catalogue import Catalogue
from ext_proc.pricing.schedule import Schedule
from ext_proc.pricing.usage import Usage

PROVIDERS = data_snapshot.get_snapshot().providers
OURS = shipped.read()[0]
MODELS = [
    (provider, model, schedule)
    for provider, ours in zip(PROVIDERS, OURS, strict=True)
    for model, our_model in zip(provider.models, ours.models, strict=True)
    if (schedule := Catalogue(OURS, "oracle", 0)._schedule(ours.id, our_model)) is not None
]
MOMENTS = st.datetimes(min_value=datetime(2024, 1, 1), max_value=datetime(2027, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001  # hypothesis adds the zone
COUNTS = st.integers(0, 300_000)


def is_on_the_grid(price: types.ModelPrice) -> bool:
    """A handful of averaged prices are finer than a pico-dollar per token and rounded by us."""
    for value in vars(price).values():
        listed = (
            [value.base, *(tier.price for tier in value.tiers)] if isinstance(value, types.TieredPrices) else [value]
        )
        if any(amount is not None and amount * 10**6 % 1 for amount in listed):
            return False
    return True


@settings(max_examples=1500, deadline=None)
@given(
    entry=st.sampled_from(MODELS),
    at=MOMENTS,
    counts=st.builds(
        Usage,
        input_uncached=COUNTS,
        cache_read=COUNTS,
        cache_write_5m=COUNTS,
        cache_write_1h=COUNTS,
        output=COUNTS,
        searches=st.integers(0, 5),
        requests=st.just(1),
    ),
    served=st.none()
    | st.sampled_from(
        [
            ("service_tier", "flex"),
            ("service_tier", "priority"),
            ("service_tier", "default"),
            ("processing", "batch"),
            ("speed", "fast"),
        ]
    ),
)
def test_every_charge_equals_the_catalogues_own_calculation(
    entry: tuple[types.Provider, types.ModelInfo, Schedule], at: datetime, counts: Usage, served: tuple[str, str] | None
) -> None:
    """For any model, moment, usage and way of serving we charge the oracle's dollars, rounded once, half up."""
    provider, model, schedule = entry
    at = at.replace(microsecond=0)
    at_us = int(at.timestamp()) * 1_000_000
    price = schedule.at(at_us)
    context = dict([served]) if served else {}
    listed = model.get_prices(at, context)
    if price is None or not is_on_the_grid(listed):
        return
    if listed.cache_write_1h_mtok is None:
        written = counts.cache_write_5m + counts.cache_write_1h
        counts = replace(counts, cache_write_5m=written, cache_write_1h=0)

    oracle = OracleUsage(
        input_tokens=counts.input_tokens,
        cache_read_tokens=counts.cache_read,
        cache_write_tokens=counts.cache_write_5m + counts.cache_write_1h,
        cache_write_1h_tokens=counts.cache_write_1h or None,
        output_tokens=counts.output,
        web_searches=counts.searches,
    )
    calculated = model.calc_price(oracle, provider, genai_request_timestamp=at, price_context=context)
    nanodollars = (calculated.total_price * 10**9).quantize(Decimal(1), rounding=ROUND_HALF_UP)
    assert price.served_by(served and served[1]).charge_nanodollars(counts) == int(nanodollars)


IDS = st.sampled_from([model.id for _, model, _ in MODELS])
NAMES = st.one_of(
    IDS,
    st.builds(lambda model, end: model + end, IDS, st.text(max_size=3)),
    st.builds(lambda model, day: f"{model}-{day:%Y%m%d}", IDS, st.dates(date(1999, 1, 1), date(2100, 1, 1))),
    st.builds(lambda model, digits: f"{model}-20{digits:06}", IDS, st.integers(0, 999_999)),
    st.text(max_size=20),
)


@settings(max_examples=1500, deadline=None)
@given(provider=st.sampled_from(PROVIDERS), name=NAMES, shout=st.booleans())
def test_every_name_means_the_model_the_catalogue_itself_finds(
    provider: types.Provider, name: str, *, shout: bool
) -> None:
    """For any provider and name, known or not, with dates in either form, we find the oracle's model or none."""
    name = name.upper() if shout else name
    by_id = {ours.id: ours for ours in OURS}
    found = by_id[provider.id].find(name, by_id)
    listed = provider.find_model(name, all_providers=PROVIDERS)
    assert (found and (found.id, found.context_window)) == (listed and (listed.id, listed.context_window))


def as_published(value: object) -> object:
    """The JSON that the project makes its package's data from."""
    if isinstance(value, types.ModelPrice):
        return {key: as_published(price) for key, price in vars(value).items()}
    if is_dataclass(value):
        return {field.name.rstrip("_"): as_published(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list):
        return [as_published(item) for item in value]
    return value.isoformat() if isinstance(value, date | time) else value


def test_the_published_form_says_what_the_data_that_ships_says() -> None:
    """Read from either, the catalogue is the same to the last rate, tier, date and clause."""
    raw = json.loads(
        json.dumps(as_published([replace(provider, extractors=None) for provider in PROVIDERS]), default=str)
    )
    assert published.providers(raw) == OURS
