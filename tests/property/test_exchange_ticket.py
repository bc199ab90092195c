"""The ticket survives its journey, and stays small."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from ext_proc.exchange.ticket import Ticket
from ext_proc.pricing.book import PriceBook
from ext_proc.pricing.price import Price, Tier
from ext_proc.pricing.usage import USAGE_FIELDS, Rates

RATE = st.integers(0, 10**10)
RATES = st.fixed_dictionaries(
    {name: RATE for name in USAGE_FIELDS if name != "reasoning"}, optional={"reasoning": st.none() | RATE}
).map(lambda rates: Rates(**rates))  # type: ignore[arg-type]  # only `reasoning` may be None
TIERS = st.lists(RATES, min_size=1, max_size=3).map(
    lambda rates: tuple(Tier(index * 200_000, each) for index, each in enumerate(rates))
)
PRICES = st.builds(
    Price,
    tiers=TIERS,
    version=st.text(max_size=30),
    marginal=st.booleans(),
    service_tiers=st.lists(st.tuples(st.sampled_from(["flex", "priority"]), TIERS), max_size=2).map(tuple),
)
TEXT = st.text(max_size=60)


def ticket(price: Price, **fields: object) -> Ticket:
    known: dict[str, object] = {
        "hold_id": "01a1fc579a42f5e781263d7a353d.1",
        "dialect": "anthropic-messages",
        "operation": "chat",
        "requested_model": "claude-sonnet-4-6",
        "target": "anthropic-main/claude-sonnet-4-6",
        "price": price,
        "input_tokens": 123_456,
        "output_limit": 64_000,
        "verdict": "downgrade",
        "stream": True,
        "hide_usage": False,
    }
    return Ticket(**{**known, **fields})  # type: ignore[arg-type]  # fields by name


@given(
    price=PRICES,
    model=TEXT,
    labels=st.lists(TEXT, max_size=4),
    flags=st.tuples(*[st.booleans()] * 6),
    realms=st.sampled_from(((), ("0",), ("t15", "0"))),
)
def test_a_ticket_is_read_as_it_was_written(
    price: Price, model: str, labels: list[str], flags: tuple[bool, ...], realms: tuple[str, ...]
) -> None:
    """Whoever settles sees the figures admission promised."""
    stream, hide, failed, native, learned_input, learned_output = flags
    written = ticket(
        price,
        requested_model=model,
        labels=tuple(labels),
        would_refuse=("a", "b"),
        stream=stream,
        hide_usage=hide,
        store_failed=failed,
        native=native,
        learned_input=learned_input,
        learned_output=learned_output,
        prompt_bytes=40_000,
        traffic="0123456789ab",
        realms=realms,
    )

    assert Ticket.decode(written.encode()) == written


def test_the_tickets_of_public_models_stay_within_a_kibibyte() -> None:
    """A ticket is sent to meter with every message, so even a model with many service tiers must not bloat it."""
    book = PriceBook()
    now_us = time.time_ns() // 1_000
    models = [
        ("openai", "gpt-5"),
        ("openai", "gpt-4o"),
        ("anthropic", "claude-sonnet-4-6"),
        ("gemini", "gemini-2.5-pro"),
    ]

    for provider, model in models:
        price = book.price(provider, model, now_us)
        assert price is not None
        labels = ("x" * 64, "y" * 40, "search")
        full = ticket(
            price.asked_for(None),
            labels=labels,
            prompt_bytes=1_000_000,
            traffic="0123456789ab",
            realms=("t127", "0"),
        )
        assert len(full.encode().encode()) <= 1024
