"""What an attempt is charged where more than token counts matter: several models, places, and time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ext_proc.dialects.interface import Part, Reading
from ext_proc.exchange import charging
from ext_proc.exchange.events import EndRecord, RequestHead, ResponseHead
from ext_proc.exchange.proposal import Proposal, propose
from ext_proc.exchange.terms import Terms
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger.ids import mint
from ext_proc.ledger.interface import Basis, Resolution
from ext_proc.pricing.price import Price, Tier
from ext_proc.pricing.usage import Rates, Usage
from tests.policy_kit import snapshot

MINTED_US = 1_767_225_600_000_000
HOLD_ID = mint(MINTED_US, b"8 bytes.")
RATES = Rates(input_uncached=3_000_000, output=15_000_000)
BUDGET = """
name: budgets
type: gateway-budget-config
rules: [{id: all, when: {}, limit_to: 100, unit: cost_per_month}]
"""
USAGE = Usage(input_uncached=500, output=50, requests=1)


def ticket(rates: Rates = RATES) -> Ticket:
    return Ticket(
        hold_id=HOLD_ID,
        dialect="anthropic-messages",
        operation="chat",
        requested_model="m",
        target="main/m",
        price=Price((Tier(0, rates),), "v"),
        input_tokens=600,
        output_limit=100,
        verdict="pass",
        stream=False,
        hide_usage=False,
    )


def resolved(reading: Reading, rates: Rates = RATES, after_ms: int = 1_500) -> tuple[Resolution, dict[str, Any]]:
    """The resolution of a whole answer that ended so long after admission, and its part of the journal entry."""
    head = ResponseHead(200, "application/json", "", MINTED_US + 1_000)
    resolution = charging.by_reading(ticket(rates), head, reading, MINTED_US + after_ms * 1_000, cut=False)
    return resolution, json.loads(resolution.detail)


def test_tokens_of_another_model_make_the_charge_an_estimate() -> None:
    """The ticket has one model's price: what another one used is charged at it, said so, and counted as estimated."""
    own, other = Part(Usage(input_uncached=400, output=30), "m"), Part(Usage(input_uncached=100, output=20), "n")
    reading = Reading(USAGE, output_known=True, finished=True, served_model="m", parts=(own, other))

    resolution, detail = resolved(reading)
    alone, _ = resolved(replace(reading, parts=(own, own)))

    assert resolution.charge.cost_nanodollars == alone.charge.cost_nanodollars + 100 * 3_000 - 400 * 3_000 - 10 * 15_000
    assert resolution.basis is Basis.ESTIMATED
    assert detail["other_models"] == ["n"]
    assert alone.basis is Basis.REPORTED


def test_the_place_that_served_prices_the_charge() -> None:
    """The journal names the place, and the rates in it are those that were charged."""
    resolution, detail = resolved(Reading(USAGE, output_known=True, finished=True, geo="us"))

    assert resolution.charge.cost_nanodollars == 500 * 3_300 + 50 * 16_500
    assert detail["geo"] == "us"
    assert detail["rates_picodollars"]["output"] == 16_500_000


@pytest.mark.parametrize("seen", ["body", "record"])
def test_time_is_charged_where_it_has_a_price(seen: str) -> None:
    """Whoever settles, the milliseconds that an attempt took are in its usage and its charge, and nowhere else."""
    rates = Rates(served_ms=4_000_000)
    if seen == "body":
        resolution, detail = resolved(Reading(USAGE, output_known=True, finished=True), rates)
    else:
        record = EndRecord(
            status=200,
            sent_upstream=True,
            answered=True,
            client_gone=False,
            timed_out=False,
            upstream_failed=False,
            upstream_body_bytes=400,
            duration_us=1_500_999,
            first_byte_us=1_000,
        )
        resolution = charging.by_record(ticket(rates), record)
        detail = json.loads(resolution.detail)

    assert resolution.charge.cost_nanodollars == 1_500 * 4_000
    assert detail["usage"]["served_ms"] == 1_500
    assert "served_ms" not in resolved(Reading(USAGE, output_known=True))[1]["usage"]


def test_a_hold_assumes_the_place_that_is_asked_for() -> None:
    """`inference_geo: us` is held at what it will cost; without it, at the plain rates."""

    def held_nanodollars(**more: object) -> int:
        asked = {
            "model": "claude-sonnet-4-6",
            "max_tokens": 10,
            "messages": [{"role": "user", "content": "hi"}],
            **more,
        }
        head = RequestHead("POST", "/v1/messages", (), now_us=MINTED_US)
        terms = Terms.of(snapshot(BUDGET), lease_ms=1_000)
        proposal = propose(head, json.dumps(asked).encode(), terms, HOLD_ID, "req_1")
        assert isinstance(proposal, Proposal)
        (posting,) = proposal.hold.plans[0].postings
        return posting.fixed * 1_000 + posting.per_output_milli * 10

    assert held_nanodollars(inference_geo="us") * 10 == held_nanodollars() * 11
