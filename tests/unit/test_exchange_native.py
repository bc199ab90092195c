"""Which answers Envoy's own parsers are given to read, and what an end record then settles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ext_proc.dialects import registry
from ext_proc.exchange.admission import Admission
from ext_proc.exchange.effects import AskHold, Forward, Resolve
from ext_proc.exchange.events import EndRecord, HoldAnswered, RequestBody, RequestHead
from ext_proc.exchange.settlement import Settlement, settles_at_once
from ext_proc.exchange.terms import Terms
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger import ids
from ext_proc.ledger.interface import (
    AccountSpec,
    AccountState,
    Basis,
    Code,
    HoldReply,
    Measure,
    Resolution,
    Stamp,
    Window,
    WindowKind,
)
from ext_proc.policy.loader import load

NOW_US = 1_780_000_000_000_000
RECORD = EndRecord(
    status=200,
    sent_upstream=True,
    answered=True,
    client_gone=False,
    timed_out=False,
    upstream_failed=False,
    upstream_body_bytes=4_000,
    duration_us=900_000,
    first_byte_us=100_000,
)
CHAT = {"model": "gpt-4o-mini", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello."}]}
CLAUDE = {"model": "claude-sonnet-4-6", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello."}]}
EMBED = {"model": "text-embedding-3-small"}
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


@pytest.fixture(scope="module")
def terms(tmp_path_factory: pytest.TempPathFactory) -> Terms:
    """Terms where Envoy's own parsers are there."""
    directory: Path = tmp_path_factory.mktemp("policies")
    (directory / "policy.yaml").write_text("name: none\ntype: gateway-budget-config\nrules: []\n")
    return Terms.of(load(directory), lease_ms=120_000, native=True)


def ticket_of(terms: Terms, path: str, body: Mapping[str, Any], *, states: tuple[AccountState, ...] = ()) -> Ticket:
    """The ticket of a request that is admitted. `states`: of the accounts it is held on, with its hold."""
    admission = Admission(terms, ids.mint(NOW_US, b"12345678"), "req_1")
    admission.receive(RequestHead("POST", path, (), NOW_US))
    effects = admission.receive(RequestBody(json.dumps(body).encode(), NOW_US))
    (ask,) = [effect for effect in effects if isinstance(effect, AskHold)]
    output_limit = ask.request.plans[0].output_max
    granted = HoldReply(Code.HELD, Stamp(NOW_US, "e", 1), plan_index=0, output_limit=output_limit, states=states)
    (forward,) = [effect for effect in admission.receive(HoldAnswered(granted)) if isinstance(effect, Forward)]
    assert Ticket.decode(forward.ticket.encode()) == forward.ticket
    return forward.ticket


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/messages", CLAUDE),
        ("/v1/messages", {**CLAUDE, "stream": True}),
        ("/v1/responses", {"model": "gpt-4o-mini", "input": "Hello.", "stream": True}),
        ("/v1/embeddings", {**EMBED, "input": ["one", "two"]}),
    ],
)
def test_what_envoy_can_read_is_left_to_envoy(terms: Terms, path: str, body: Mapping[str, Any]) -> None:
    """Plain answers, and streams whose usage is the client's to see, pass no Python."""
    assert ticket_of(terms, path, body).native
    assert not ticket_of(replace(terms, native=False), path, body).native


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/chat/completions", {**CHAT, "logprobs": True}),
        ("/v1/chat/completions", {**CHAT, "modalities": ["text", "audio"]}),
        ("/v1/chat/completions", {**CHAT, "max_tokens": 1_000_000}),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": [PICTURE]}]}),
        ("/v1/responses", {"model": "gpt-4o-mini", "input": "Hello.", "tools": [{"type": "web_search"}]}),
        ("/v1/embeddings", {**EMBED, "input": ["text"] * 500}),
        ("/v1/messages", {**CLAUDE, "context_management": {"edits": [{"type": "compact_20260112"}]}}),
        ("/v1beta/models/gemini-2.5-flash:generateContent", {"contents": [{"parts": [{"text": "Hello."}]}]}),
    ],
    ids=["hidden usage", "logprobs", "audio", "long", "picture", "search", "many vectors", "compaction", "arrays"],
)
def test_what_envoy_cannot_read_goes_through_meter(terms: Terms, path: str, body: Mapping[str, Any]) -> None:
    """What must be hidden, counted in an array, or may be too large to keep, is metered."""
    assert not ticket_of(terms, path, body).native


ROOMY, TIGHT = (70, 10), (81, 10)
"""What is spent and held of a cap of 100: the last hold again fits beside it, and does not."""


@pytest.mark.parametrize(
    ("amounts", "native"),
    [
        ([(ROOMY, Measure.COST, True)], True),
        ([(TIGHT, Measure.COST, True)], False),
        ([(ROOMY, Measure.COST, True), (TIGHT, Measure.TOKENS, True)], False),
        ([(TIGHT, Measure.COST, False)], True),
        ([(TIGHT, Measure.REQUESTS, True)], True),
    ],
    ids=["room", "tight", "one of two", "tracking", "requests"],
)
def test_where_the_next_request_waits_for_this_charge_meter_settles(
    terms: Terms, amounts: list[tuple[tuple[int, int], Measure, bool]], native: bool
) -> None:
    """Near the end of a budget the charge comes with the answer's last byte, not with the record after it: whoever asks
    again at once must not be refused for a hold that is over. A settle frees nothing of an account that only tracks, or
    that counts requests.
    """
    states = tuple(
        AccountState(
            AccountSpec("budget", "b", "r", "r", (), measure, Window(WindowKind.LIFETIME), cap=100),
            deciding,
            spent,
            held,
            window_start_us=None,
            window_end_us=None,
        )
        for (spent, held), measure, deciding in amounts
    )
    assert ticket_of(terms, "/v1/chat/completions", CHAT, states=states).native is native


def test_of_a_compressed_answer_the_record_waits_for_meter(terms: Terms) -> None:
    """Envoy's own parsers do not inflate, so such an answer passes meter, which knows more than its record."""
    ticket = ticket_of(terms, "/v1/chat/completions", CHAT)

    assert settles_at_once(ticket, RECORD)
    assert not settles_at_once(ticket, replace(RECORD, encoded=True))
    assert not settles_at_once(replace(ticket, native=False), RECORD)


def resolve(ticket: Ticket, record: EndRecord) -> tuple[Resolution, bool]:
    """What a record settles, and whether usage was missing."""
    (effect,) = Settlement(ticket).receive(record)
    assert isinstance(effect, Resolve)
    return effect.resolution, effect.usage_missing


def test_a_record_with_usage_settles_what_was_reported(terms: Terms) -> None:
    """Plain counts, and the object of an event as text, settle alike: to the price of what the provider reported."""
    ticket = ticket_of(terms, "/v1/chat/completions", CHAT)
    plain = {"usage.prompt_tokens": 1_000.0, "usage.completion_tokens": 10.0, "model": "gpt-4o-mini-2024-07-18"}
    streamed = {"usage": '{"prompt_tokens": 1000, "completion_tokens": 10}', "model": "gpt-4o-mini-2024-07-18"}

    for reported in (plain, streamed):
        resolution, missing = resolve(ticket, replace(RECORD, reported=reported))
        assert resolution.basis is Basis.REPORTED
        assert resolution.charge.cost_nanodollars == 1_000 * 150 + 10 * 600
        assert json.loads(resolution.detail)["reported_model"] == "gpt-4o-mini-2024-07-18"
        assert not missing


def test_a_cut_stream_keeps_the_input_that_was_reported(terms: Terms) -> None:
    """Anthropic reports the input first: a client that leaves is charged that, and output by what passed."""
    ticket = ticket_of(terms, "/v1/messages", {**CLAUDE, "stream": True})
    cut = replace(RECORD, client_gone=True, reported={"message.usage": '{"input_tokens": 77, "output_tokens": 1}'})
    resolution, missing = resolve(ticket, cut)

    assert resolution.basis is Basis.ESTIMATED
    assert resolution.charge.input_tokens == 77
    assert resolution.charge.output_tokens == 4_000 // 200
    assert not missing


def test_an_answer_that_reports_nothing_is_estimated_and_counted(terms: Terms) -> None:
    """A whole 2xx without usage is charged by its bytes, and said to lack usage."""
    resolution, missing = resolve(ticket_of(terms, "/v1/chat/completions", CHAT), RECORD)

    assert resolution.basis is Basis.ESTIMATED
    assert resolution.charge.output_tokens == 100
    assert missing


def test_an_error_releases_whatever_else_its_body_says(terms: Terms) -> None:
    """A provider error without usage is given back; one that bills its input is charged that."""
    ticket = ticket_of(terms, "/v1/chat/completions", CHAT)

    assert resolve(ticket, replace(RECORD, status=500))[0].basis is Basis.RELEASED
    billed = resolve(
        ticket, replace(RECORD, status=400, reported={"usage.prompt_tokens": 9.0, "usage.completion_tokens": 0.0})
    )[0]
    assert billed.basis is Basis.REPORTED
    assert billed.charge.cost_nanodollars == 9 * 150


@pytest.mark.parametrize("reported", [{"usage": "text"}, {"usage": "{"}, {"usage": 3.0, "usage.prompt_tokens": 4.0}])
def test_odd_values_are_no_usage(reported: dict[str, object]) -> None:
    """Whatever a provider writes where usage should stand, a reading is made of it and nothing is raised."""
    assert registry.dialect("openai-chat").native_reading(reported).usage is None
