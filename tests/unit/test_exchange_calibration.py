"""What answers teach, which holds it sizes, and which it never touches."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace

import pytest

from ext_proc.dialects.interface import Reading
from ext_proc.exchange import charging
from ext_proc.exchange.bounds import HOLD_BYTES_PER_TOKEN_MILLI
from ext_proc.exchange.calibration import Calibration, Key, Learned, learned, observed
from ext_proc.exchange.effects import Forward
from ext_proc.exchange.events import EndRecord, RequestHead, ResponseHead
from ext_proc.exchange.explain import Explanation, explain
from ext_proc.exchange.explain_json import as_json
from ext_proc.exchange.explain_text import as_text
from ext_proc.exchange.terms import Terms
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger.ids import minted_us
from ext_proc.ledger.interface import Resolution
from ext_proc.pricing.usage import Usage
from tests.policy_kit import snapshot

NOW_US = 1_779_000_000_000_000
TARGET = "openai-main/gpt-4o-mini"
BUDGETS = (
    "name: b\ntype: gateway-budget-config\nrules:\n  - {{id: all, when: {{}}, limit_to: 10, unit: cost_per_day{}}}\n"
)
PROMPT = "All work and no play makes Jack a dull boy. " * 100
DEFAULT_OUTPUT = 1_024


def admitted(calibration: Calibration | None = None, *, rule: str = "", **fields: object) -> Explanation:
    """A request, judged by an empty ledger."""
    terms = Terms.of(snapshot(BUDGETS.format(rule)), lease_ms=1_000)
    if calibration is not None:
        terms = replace(terms, calibration=calibration)
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": PROMPT}], **fields}
    head = RequestHead("POST", "/v1/chat/completions", (), NOW_US)
    return asyncio.run(explain(head, json.dumps(body).encode(), terms))


def ticket_of(found: Explanation) -> Ticket:
    assert isinstance(found.outcome, Forward)
    return found.outcome.ticket


def answered(ticket: Ticket, tokens: int, output: int, *, seconds: int = 2, cut: bool = False) -> Resolution:
    """The ticket's attempt, answered with this usage after so long."""
    now_us = minted_us(ticket.hold_id) + seconds * 1_000_000
    usage = Usage(input_uncached=tokens, output=output, requests=1)
    reading = Reading(usage, output_known=True, finished=not cut)
    return charging.by_reading(ticket, ResponseHead(200, "application/json", "", now_us), reading, now_us, cut=cut)


def taught(ticket: Ticket, tokens: int, output: int, *, times: int = 100) -> Calibration:
    """What the same answer teaches, so many times."""
    counts: dict[Key, Counter[str]] = {}
    for key, name in observed(ticket, answered(ticket, tokens, output)):
        counts.setdefault(key, Counter())[name] += times
    return Calibration({key: learned(named) for key, named in counts.items()})


def test_a_hold_converges_to_what_is_used() -> None:
    """After a hundred answers a hold is near what they used, above it, and says that it was learned."""
    before = admitted()
    after = admitted(taught(ticket_of(before), tokens=1_000, output=300))

    assert before.ways[0].candidate.bounds.input.bytes_per_token_milli == HOLD_BYTES_PER_TOKEN_MILLI
    assert ticket_of(before).output_limit == DEFAULT_OUTPUT
    assert 1_000 <= ticket_of(after).input_tokens <= 1_100
    assert 300 <= ticket_of(after).output_limit <= 330
    assert ticket_of(after).learned_input
    assert ticket_of(after).learned_output
    assert not ticket_of(before).learned_input
    assert not ticket_of(before).learned_output


def test_explain_says_whether_an_estimate_was_learned() -> None:
    """Text and JSON tell a learned figure from a default."""
    before = admitted()
    after = admitted(taught(ticket_of(before), tokens=1_000, output=300))

    assert "bytes per token (learned)" in as_text(after)
    assert "learned from earlier answers" in as_text(after)
    assert "learned" not in as_text(before)
    assert "default_output_tokens" in as_text(before)
    told = [json.loads(json.dumps(as_json(found)))["ways"][0] for found in (before, after)]
    assert [(way["input"]["learned"], way["output"]["learned"]) for way in told] == [(False, False), (True, True)]


@pytest.mark.parametrize(
    ("tokens", "output", "input_held", "output_held"),
    [
        pytest.param(1, 1, len(PROMPT) // 6, DEFAULT_OUTPUT // 4, id="answers that make it look cheap"),
        pytest.param(10**9, 10**9, len(PROMPT), DEFAULT_OUTPUT * 16, id="answers that make it look dear"),
    ],
)
def test_odd_answers_move_a_hold_only_within_its_bounds(
    tokens: int, output: int, input_held: int, output_held: int
) -> None:
    """However many answers say nonsense, a hold has a floor and a ceiling."""
    ticket = ticket_of(admitted(taught(ticket_of(admitted()), tokens, output, times=10**9)))

    assert input_held <= ticket.input_tokens <= input_held + 50
    assert ticket.output_limit == output_held


def test_a_strict_hold_never_uses_what_was_learned() -> None:
    """Under `admission: strict` bounds and the limit written into the request are the same, whatever was learned."""
    calibration = taught(ticket_of(admitted()), tokens=1, output=1, times=10**6)
    rule = ", admission: strict"

    assert ticket_of(admitted(calibration, rule=rule)) == ticket_of(admitted(rule=rule))
    assert ticket_of(admitted(rule=rule)).input_tokens >= len(PROMPT)


def test_a_request_s_own_limit_is_held_for_whatever_was_learned() -> None:
    """A limit is a promise of the provider; how long answers usually get is none."""
    calibration = taught(ticket_of(admitted()), tokens=1_000, output=300)

    assert ticket_of(admitted(calibration, max_tokens=5_000)).output_limit == 5_000


def test_the_traffic_s_own_answers_come_before_the_model_s() -> None:
    """What falls on the same rules is a better guide than everything that goes to a model."""
    ticket = ticket_of(admitted())
    own, every = (ticket.target, ticket.traffic), (ticket.target, "")
    both = Calibration({every: Learned(output_tokens=400), own: Learned(output_tokens=800)})

    assert ticket_of(admitted(both)).output_limit == 800
    assert ticket_of(admitted(Calibration({every: Learned(output_tokens=400)}))).output_limit == 400


def test_what_tells_nothing_teaches_nothing() -> None:
    """Cut answers teach nothing, limited ones no length, and prompts with more than text no bytes per token."""
    ticket = ticket_of(admitted())
    limited = ticket_of(admitted(max_tokens=10))
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]
    pictured = ticket_of(admitted(messages=image))
    kinds = {name[0] for _, name in observed(limited, answered(limited, 1_000, 10))}

    assert {name[0] for _, name in observed(ticket, answered(ticket, 1_000, 300))} == set("ios")
    assert observed(ticket, answered(ticket, 1_000, 300, cut=True)) == ()
    assert kinds == {"i"}
    assert "i" not in {name[0] for _, name in observed(pictured, answered(pictured, 1_000, 300))}
    assert limited.traffic == ""
    assert pictured.prompt_bytes == 0


def test_a_few_answers_are_not_enough() -> None:
    """A default stays until enough answers have told."""
    assert ticket_of(admitted(taught(ticket_of(admitted()), 1_000, 300, times=31))) == ticket_of(admitted())


def test_an_estimated_charge_goes_by_what_was_learned() -> None:
    """Of an answer that told no usage, text and time are turned into tokens at the target's own figures."""
    ticket = ticket_of(admitted(max_tokens=10_000))
    known = Learned(charge_bytes_per_token_milli=2_000, tokens_per_second=200)
    now_us = minted_us(ticket.hold_id)
    head, silent = ResponseHead(200, "application/json", "", now_us), Reading(output_bytes=8_000)
    record = EndRecord(
        status=0,
        sent_upstream=True,
        answered=False,
        client_gone=True,
        timed_out=False,
        upstream_failed=False,
        upstream_body_bytes=0,
        duration_us=10_000_000,
        first_byte_us=None,
    )

    assert charging.by_reading(ticket, head, silent, now_us, cut=False).charge.output_tokens == 2_000
    assert charging.by_reading(ticket, head, silent, now_us, cut=False, learned=known).charge.output_tokens == 4_000
    assert charging.by_record(ticket, record).charge.output_tokens == 600
    assert charging.by_record(ticket, record, known).charge.output_tokens == 2_000
