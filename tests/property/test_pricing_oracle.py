"""Our charges against the calculation of genai-prices itself, over its whole catalogue."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

from genai_prices import Usage as OracleUsage
from genai_prices import data_snapshot, types
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_proc.pricing import catalogue
from ext_proc.pricing.usage import Usage

PROVIDERS = data_snapshot.get_snapshot().providers
MODELS = [
    (provider, model)
    for provider in PROVIDERS
    for model in provider.models
    if catalogue.shipped()._schedule(provider.id, model) is not None
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
    entry: tuple[types.Provider, types.ModelInfo], at: datetime, counts: Usage, served: tuple[str, str] | None
) -> None:
    """For any model, moment, usage and way of serving we charge the oracle's dollars, rounded once, half up."""
    provider, model = entry
    at = at.replace(microsecond=0)
    at_us = int(at.timestamp()) * 1_000_000
    schedule = catalogue.shipped()._schedule(provider.id, model)
    assert schedule is not None
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
