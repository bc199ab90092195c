"""Savings: which requests a cheaper model serves as well, and that the others are left alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from ext_proc.dialects import registry
from ext_proc.dialects.traits import brings_tools, holds_images
from ext_proc.exchange.admission import Admission, State
from ext_proc.exchange.effects import AskHold, AskScore, Forward, GiveBack, Refuse
from ext_proc.exchange.events import RequestBody, RequestHead, ScoreAnswered, StreamEnded
from ext_proc.exchange.explain import Explanation, explain
from ext_proc.exchange.explain_json import as_json
from ext_proc.exchange.explain_text import as_text
from ext_proc.exchange.terms import Terms
from ext_proc.ledger import ids
from ext_proc.ledger.interface import AccountSpec
from ext_proc.ledger.standing import Standing
from ext_proc.policy.documents.savings import Hours, Weekday
from ext_proc.routing.savings import is_within
from ext_proc.server.scorer_client import read_score
from tests.policy_kit import DOLLAR, snapshot

NOW_US = 1_779_000_000_000_000  # Sunday, 2026-05-17, 06:40 UTC
MINI = "openai-main/gpt-4o-mini"
SAVINGS = """
name: routing
type: gateway-load-balancing-config
rules:
  - {id: small, type: priority-based-routing, when: {models: [small]}, load_balance_targets: [
      {target: openai-main/gpt-4.1-nano}, {target: openai-main/gpt-4o-mini, priority: 1}]}
  - {id: chat, type: priority-based-routing, when: {models: [chat]}, load_balance_targets: [
      {target: openai-main/gpt-4o}]}
savings:
  - {id: it, when: {metadata: {priority: low}}%s, swap: {openai-main/gpt-4o: openai-main/gpt-4o-mini, chat: small,
     openai-main/o4-mini: nowhere/gpt-4o-mini}}
"""
BUDGET = """
name: b
type: gateway-budget-config
rules: [{id: all, when: {}, limit_to: 1, unit: cost_per_day%s}]
"""


def terms(rule: str = "", *more: str, budget: str = "") -> Terms:
    """The terms with one saving rule, whose shape is written as it follows `when`."""
    return Terms.of(snapshot(SAVINGS % rule, BUDGET % budget, *more), lease_ms=1_000)


def asked(model: str = "gpt-4o", *, priority: str = "low", **body: Any) -> tuple[RequestHead, bytes]:
    """A chat completion with the tag `priority`."""
    head = RequestHead(
        "POST", "/v1/chat/completions", (("x-tfy-metadata", json.dumps({"priority": priority})),), NOW_US
    )
    content = {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], **body}
    return head, json.dumps(content).encode()


def explained(within: Terms, *request: Any, spent: int = 0, **body: Any) -> Explanation:
    """The request, judged."""

    async def read(accounts: Iterable[AccountSpec], _: int) -> dict[AccountSpec, Standing]:
        return dict.fromkeys(accounts, Standing(spent, 0))

    head, content = asked(*request, **body)
    return asyncio.run(explain(head, content, within, read))


def target(found: Explanation) -> str:
    """What serves a request that passes."""
    assert isinstance(found.outcome, Forward), found.outcome
    return found.outcome.ticket.target


IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]
TOOL = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("shape", "fits", "misses"),
    [
        ("max_input_tokens: 20", {}, {"messages": [{"role": "user", "content": "x" * 100}]}),
        ("min_input_tokens: 40", {"messages": [{"role": "user", "content": "x" * 100}]}, {}),
        ("max_output_tokens: 200", {"n": 2}, {"n": 3}),
        ("max_output_tokens: 200", {}, {"max_tokens": None}),
        ("tools: false", {}, {"tools": TOOL}),
        ("tools: true", {"tools": TOOL}, {}),
        ("images: false", {}, {"messages": IMAGE}),
        ("images: true", {"messages": IMAGE}, {}),
        ("stream: true", {"stream": True}, {}),
        ("stream: false", {}, {"stream": True}),
        ("hours: {days: [sun]}", {}, {"days": None}),
    ],
)
def test_a_request_of_the_shape_is_served_by_the_cheaper_model(
    shape: str, fits: dict[str, Any], misses: dict[str, Any]
) -> None:
    """It is held, priced and told as what serves it; the next request, a little different, is not touched."""
    found = explained(terms(f", request: {{{shape}}}"), **fits)

    assert isinstance(found.outcome, Forward)
    assert found.outcome.answer["resolved_model"] == target(found) == MINI
    assert found.outcome.answer["verdict"] == "downgrade; rule=it"
    assert (found.outcome.ticket.verdict, found.outcome.ticket.verdict_rule) == ("downgrade", "it")
    assert found.outcome.swapped_by == "it"
    assert found.outcome.body is not None
    assert json.loads(found.outcome.body)["model"] == "gpt-4o-mini"
    assert found.proposal is not None
    assert found.proposal.candidates[0].target.price == found.outcome.ticket.price
    if "days" not in misses:
        assert target(explained(terms(f", request: {{{shape}}}"), **misses)) == "openai-main/gpt-4o"
    else:
        assert target(explained(terms(", request: {hours: {days: [mon]}}"))) == "openai-main/gpt-4o"


def test_whom_the_rule_is_not_about_is_left_alone() -> None:
    """Another tag, or a model that the rule does not swap."""
    assert target(explained(terms(), priority="high")) == "openai-main/gpt-4o"
    assert target(explained(terms(), "gpt-4.1")) == "openai-main/gpt-4.1"
    found = explained(terms(), priority="high")
    assert isinstance(found.outcome, Forward)
    assert found.outcome.answer["verdict"] == "pass"


def test_a_virtual_model_gives_way_to_another() -> None:
    """The chain is that of the cheaper virtual model; rules still see the name the client asked for."""
    within = terms(
        "", BUDGET.replace("name: b", "name: c").replace("all, when: {}", "of-chat, when: {models: [chat]}") % ""
    )
    found = explained(within, "chat")
    assert isinstance(found.outcome, Forward)
    assert found.outcome.chain is not None
    assert found.outcome.chain.targets == ("openai-main/gpt-4.1-nano", MINI)
    assert "of-chat" in found.outcome.answer["applied_rules"]
    assert "saving  it: openai-main/gpt-4o gives way to openai-main/gpt-4.1-nano" in as_text(found)
    model: Any = as_json(found)["model"]
    assert model["saving"] == "it"


def test_a_saving_never_costs_an_answer() -> None:
    """Where the cheaper model cannot serve, or a rule of its own refuses it, the request goes on as it came."""
    deny = "name: g\ntype: gateway-guardrail-config\nrules: [{id: d, when: {}, deny_models: [openai-main/gpt-4o-mini]}]"
    spent = BUDGET.replace("name: b", "name: c").replace("all, when: {}", f"mini, when: {{models: [{MINI}]}}")
    assert target(explained(terms(), "o4-mini")) == "openai-main/o4-mini"  # nobody has what it gives way to
    assert target(explained(terms("", deny))) == "openai-main/gpt-4o"
    assert (
        target(explained(terms("", spent.replace("limit_to: 1,", "limit_to: 0.000001,") % ""))) == "openai-main/gpt-4o"
    )
    long = [{"role": "user", "content": "x" * 400_000}]
    assert target(explained(terms(), messages=long)) == "openai-main/gpt-4o"  # the window of both is 128,000 tokens
    refused = explained(terms(budget=", constrained: {action: none}"), spent=DOLLAR).outcome
    assert isinstance(refused, Refuse)
    assert refused.refusal.type == "budget_exceeded"


def test_audit_mode_tells_and_swaps_nothing() -> None:
    """What the rule would have done stands in the verdict, the journal and a metric."""
    found = explained(terms(", audit_mode: true"))
    assert isinstance(found.outcome, Forward)
    assert found.outcome.ticket.target == "openai-main/gpt-4o"
    assert found.outcome.answer["verdict"] == "pass; would_downgrade=it"
    assert "saving  it is in audit mode and would have swapped the model" in as_text(found)


SCORER = ", scorer: {url: 'http://scorer:1/score', at_least: 0.7%s}"


def scored(rule: str, score: float | None) -> str:
    """What serves a request whose scorer answers so."""
    admission = Admission(terms(rule), ids.mint(NOW_US, bytes(8)), "req_1")
    head, body = asked()
    admission.receive(head)
    (ask,) = admission.receive(RequestBody(body, NOW_US))
    assert isinstance(ask, AskScore)
    assert admission.state is State.SCORING
    assert ask.wanted.question["cheaper"] == MINI
    assert "request" not in ask.wanted.question
    (hold,) = admission.receive(ScoreAnswered(score))
    assert isinstance(hold, AskHold)
    return hold.request.plans[0].target


def test_a_scorer_has_the_last_word() -> None:
    """From its score on the request is swapped; without one in time the rule decides, as it says."""
    assert scored(SCORER % "", 0.7) == MINI
    assert scored(SCORER % "", 0.69) == "openai-main/gpt-4o"
    assert scored(SCORER % "", None) == MINI
    assert scored(SCORER % ", otherwise: keep", None) == "openai-main/gpt-4o"


def test_a_scorer_sees_the_body_only_where_the_rule_says_so() -> None:
    """By default it gets figures and tags."""
    admission = Admission(terms(SCORER % ", sends: request"), ids.mint(NOW_US, bytes(8)), "req_1")
    head, body = asked()
    admission.receive(head)
    (ask,) = admission.receive(RequestBody(body, NOW_US))
    assert isinstance(ask, AskScore)
    assert ask.wanted.question["request"] == json.loads(body)
    assert ask.wanted.question["tags"] == {"priority": "low"}


def test_a_client_that_leaves_while_it_is_scored_leaves_nothing_behind() -> None:
    """Nothing was held yet, so nothing is given back."""
    admission = Admission(terms(SCORER % ""), ids.mint(NOW_US, bytes(8)), "req_1")
    head, body = asked()
    admission.receive(head)
    admission.receive(RequestBody(body, NOW_US))
    assert not [effect for effect in admission.receive(StreamEnded(NOW_US)) if isinstance(effect, GiveBack)]
    assert admission.state is State.GONE
    assert not admission.owns_hold


def test_explain_asks_no_scorer_and_says_so() -> None:
    """It has no side effects: the request is judged as without a score."""
    found = explained(terms(SCORER % ""))
    assert target(found) == MINI
    assert "http://scorer:1/score, the scorer of it, is not asked here: as without a score" in as_text(found)


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"score": "high"}', b'{"score": 2}', b'{"score": true}', b'{"score": NaN}']
)
def test_what_is_no_score_is_none(answer: bytes) -> None:
    """Only a number from 0 to 1 is a score, and only with a 200."""
    with pytest.raises(ValueError, match=r".*"):
        read_score(200, answer)
    with pytest.raises(ValueError, match="answered 500"):
        read_score(500, b'{"score": 1}')
    assert read_score(200, b'{"score": 0.5}') == 0.5


def at(day: int, hour: int, minute: int = 0) -> int:
    """A moment of May 2026 in UTC: the 16th is a Saturday."""
    return ((20_589 + day - 16) * 86_400 + hour * 3_600 + minute * 60) * 1_000_000


def test_hours_are_those_of_the_time_zone() -> None:
    """Berlin is two hours ahead in May; a night belongs to the day it begins on; the end is outside."""
    night = Hours(from_="22:00", to="06:00", timezone="Europe/Berlin")
    saturday = Hours(from_="22:00", to="06:00", days=(Weekday.SATURDAY,), timezone="Europe/Berlin")
    day = Hours(from_="09:00", to="17:00")
    assert [is_within(night, at(16, hour)) for hour in (19, 20, 3, 4)] == [False, True, True, False]
    assert [is_within(saturday, moment) for moment in (at(16, 2), at(16, 21), at(17, 3), at(17, 21))] == [
        False, True, True, False,
    ]  # fmt: skip
    assert [is_within(day, at(16, hour)) for hour in (8, 9, 16, 17)] == [False, True, True, False]
    assert [is_within(Hours(days=(Weekday.SUNDAY,)), at(day, 12)) for day in (16, 17, 18)] == [False, True, False]


def shown(*parts: dict[str, Any]) -> dict[str, Any]:
    """A body whose one message has these parts."""
    return {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": list(parts)}]}


def told(mime: str) -> dict[str, Any]:
    """Gemini's body with inline data of a kind."""
    return {"contents": [{"parts": [{"inlineData": {"mimeType": mime, "data": "x"}}]}]}


URL_IMAGE = {"type": "image", "source": {"type": "url", "url": "u"}}
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GEMINI, CONVERSE = "/v1beta/models/m:generateContent", "/model/m/converse"
NEITHER, IMAGES, TOOLS, BOTH = (False, False), (False, True), (True, False), (True, True)
CONTENT: list[tuple[str, dict[str, Any], tuple[bool, bool]]] = [
    (CHAT, shown({"type": "text", "text": "a picture of an image"}), NEITHER),
    (CHAT, {"model": "m", "messages": IMAGE, "functions": [{"name": "f"}]}, BOTH),
    (
        RESPONSES,
        {"model": "m", "input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
        IMAGES,
    ),
    (RESPONSES, {"model": "m", "input": "hi", "tools": [{"type": "web_search"}]}, TOOLS),
    (RESPONSES, {"model": "m", "input": "hi", "previous_response_id": "r"}, IMAGES),
    (MESSAGES, shown({"type": "tool_result", "tool_use_id": "t", "content": [URL_IMAGE]}), IMAGES),
    (
        MESSAGES,
        shown({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}}),
        NEITHER,
    ),
    (MESSAGES, {**shown(URL_IMAGE), "tools": [{"name": "f", "input_schema": {}}]}, BOTH),
    (GEMINI, told("image/png"), IMAGES),
    (GEMINI, {**told("audio/wav"), "tools": [{"functionDeclarations": []}]}, TOOLS),
    (CONVERSE, shown({"image": {"format": "png", "source": {"bytes": "x"}}}), IMAGES),
    (CONVERSE, {**shown({"text": "hi"}), "toolConfig": {"tools": [{"toolSpec": {"name": "f"}}]}}, TOOLS),
]


@pytest.mark.parametrize(("path", "body", "found"), CONTENT)
def test_tools_and_images_are_seen_in_every_dialect(path: str, body: dict[str, Any], found: tuple[bool, bool]) -> None:
    """Whatever the API calls them; text about images is none, and what may be one counts as one."""
    endpoint = registry.resolve("POST", path)
    assert endpoint is not None
    facts = endpoint.dialect.read_request(json.dumps(body).encode(), path=endpoint.upstream_path)
    assert (brings_tools(facts), holds_images(facts)) == found
