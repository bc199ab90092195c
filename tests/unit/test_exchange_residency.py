"""Data residency: `allowed_regions` binds whatever is to serve, by whichever way it was chosen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from ext_proc.exchange.attempts import Attempt, GiveUp, Held, ask
from ext_proc.exchange.effects import Forward, PassUnmetered, Refuse
from ext_proc.exchange.events import RequestHead
from ext_proc.exchange.explain import Explanation, explain
from ext_proc.exchange.explain_json import as_json
from ext_proc.exchange.explain_text import as_text
from ext_proc.exchange.terms import Terms
from ext_proc.ledger.interface import AccountSpec
from ext_proc.ledger.standing import Standing
from ext_proc.policy.snapshot import ProviderAccount, ProviderModel
from tests.policy_kit import DOLLAR, snapshot

NOW_US = 1_779_000_000_000_000
PROVIDERS = """
name: providers
type: gateway-provider-config
accounts:
  - {name: openai-main, provider: openai, region: us-east-1, models: [{name: gpt-4.1, region: eu-west-1}]}
  - {name: eu, provider: openai-compatible, endpoint: 'http://eu:1', region: eu-central-1, models: [{name: own}]}
  - {name: eu-b, provider: openai-compatible, endpoint: 'http://eu-b:1', region: eu-west-1, models: [{name: own}]}
  - {name: nowhere, provider: openai-compatible, endpoint: 'http://no:1', models: [{name: own}]}
  - {name: anthropic-main, provider: anthropic, region: eu-central-1}
"""
ROUTING = """
name: routing
type: gateway-load-balancing-config
rules:
  - id: chat
    type: priority-based-routing
    when: {models: [chat]}
    load_balance_targets: [{target: openai-main/gpt-4o}, {target: eu/own, priority: 1},
                           {target: nowhere/own, priority: 2}, {target: eu-b/own, priority: 3}]
  - id: abroad
    type: priority-based-routing
    when: {models: [abroad]}
    load_balance_targets: [{target: openai-main/gpt-4o}, {target: nowhere/own, priority: 1}]
downgrades:
  - {when: {}, swap: {openai-main/gpt-4.1: openai-main/gpt-4.1-mini, eu/own: eu-b/own}}
"""
RESIDENCY = """
name: guardrails
type: gateway-guardrail-config
rules:
  - {id: stay, when: {metadata: {data: personal}}, allowed_regions: [eu]%s}
"""
BUDGET = """
name: b
type: gateway-budget-config
rules: [{id: all, when: {}, limit_to: 1, unit: cost_per_day}]
---
name: settings
type: gateway-settings
unmetered_paths: [/v1/moderations]
"""


def terms(extra: str = "", chat: str = ROUTING) -> Terms:
    """The terms under which personal data stays in the EU."""
    return Terms.of(snapshot(PROVIDERS, chat, RESIDENCY % extra, BUDGET), lease_ms=1_000)


def explained(
    model: str, spent: int = 0, *, path: str = "/v1/chat/completions", extra: str = "", **body: Any
) -> Explanation:
    """A request with personal data, judged."""
    headers = (("x-tfy-metadata", json.dumps({"data": "personal"})),)
    content = {"model": model, "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}], **body}

    async def read(accounts: Iterable[AccountSpec], _: int) -> dict[AccountSpec, Standing]:
        return dict.fromkeys(accounts, Standing(spent, 0))

    head = RequestHead("POST", path, headers, NOW_US)
    return asyncio.run(explain(head, json.dumps(content).encode(), terms(extra), read))


def test_a_chain_goes_on_with_the_targets_that_are_left() -> None:
    """Neither the first choice nor a fallback is a target abroad, or one that does not say where it serves."""
    found = explained("chat")

    assert isinstance(found.outcome, Forward)
    assert found.outcome.chain is not None
    assert found.outcome.chain.targets == ("eu/own", "eu-b/own")
    assert "left out: The request may be served in eu only, and 'openai-main/gpt-4o' serves in us-east-1" in as_text(
        found
    )
    assert "'nowhere/own' names no region" in as_text(found)
    model: Any = as_json(found)["model"]
    assert [entry["rule"] for entry in model["left_out"]] == ["stay", "stay"]


ABROAD = "The request may be served in eu only, and 'openai-main/gpt-4o' serves in us-east-1 (guardrail 'stay')."
PLACELESS = "The request may be served in eu only, and 'nowhere/own' names no region (guardrail 'stay')."


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("gpt-4o", ABROAD),
        ("nowhere/own", PLACELESS),
        ("abroad", f"No target of 'abroad' may serve the request. {ABROAD}"),
    ],
)
def test_what_nobody_may_serve_is_refused(model: str, said: str) -> None:
    """403 in the caller's dialect: what was wrong, by which rule, and that retrying does not help."""
    outcome = explained(model).outcome

    assert isinstance(outcome, Refuse)
    assert (outcome.refusal.status.value, outcome.body["error"]["type"]) == (403, "not_allowed")  # type: ignore[index]
    assert outcome.refusal.message == said
    assert outcome.refusal.context["allowed_regions"] == ["eu"]
    assert outcome.headers["x-should-retry"] == "false"


def test_a_model_has_a_region_of_its_own() -> None:
    """The model's region is asked before its account's."""
    outcome = explained("gpt-4.1").outcome
    assert isinstance(outcome, Forward)
    assert outcome.ticket.target == "openai-main/gpt-4.1"


def test_a_swap_never_leads_out_of_the_region() -> None:
    """A constrained budget swaps within the region, and keeps the model where the cheaper one is abroad."""
    nearly = DOLLAR - DOLLAR // 20
    kept, swapped = explained("gpt-4.1", nearly).outcome, explained("eu/own", nearly).outcome
    assert isinstance(swapped, Forward)
    assert swapped.ticket.target == "eu-b/own"
    assert isinstance(kept, Refuse)
    assert "gpt-4.1-mini" not in kept.refusal.message


def test_where_a_request_asks_to_be_served_counts() -> None:
    """`inference_geo` leads out of the account's region, so it is judged instead of it."""
    for geo, passes in ((None, True), ("eu", True), ("us", False), ("global", False)):
        outcome = explained("claude-sonnet-4-6", path="/v1/messages", inference_geo=geo).outcome
        assert isinstance(outcome, Forward) is passes, geo


def test_audit_mode_keeps_nobody_out() -> None:
    """The chain is as without the rule, and the answer tells who would have refused."""
    outcome = explained("chat", extra=", audit_mode: true").outcome
    assert isinstance(outcome, Forward)
    assert outcome.ticket.target == "openai-main/gpt-4o"
    assert outcome.ticket.would_refuse == ("stay",)


def test_an_attempt_is_judged_by_the_rules_in_force() -> None:
    """A rule that came after the request was admitted keeps its fallback from leaving the region."""
    outcome = explained("chat").outcome
    assert isinstance(outcome, Forward)
    assert outcome.chain is not None
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "hi"}]}).encode()
    attempt = Attempt(2, outcome.chain, outcome.ticket, 503, body, NOW_US + 1)
    moved = Terms.of(
        snapshot(PROVIDERS.replace("http://eu-b:1', region: eu-west-1", "http://eu-b:1', region: us-west-1"), ROUTING,
                 RESIDENCY % "", BUDGET),
        lease_ms=1_000,
    )  # fmt: skip

    given_up = ask(attempt, moved)

    assert isinstance(ask(attempt, terms()), Held)
    assert isinstance(given_up, GiveUp)
    assert given_up.refuse.refusal.context["because"] == "not_allowed"


def test_unmetered_paths_stay_in_the_region() -> None:
    """Files and the like pass without a budget, not without residency."""
    refused = explained("", path="/v1/moderations").outcome
    allowed = asyncio.run(explain(RequestHead("POST", "/v1/moderations", (), NOW_US), b"", terms())).outcome
    assert isinstance(refused, Refuse)
    assert refused.refusal.context["region"] == "us-east-1"
    assert isinstance(allowed, PassUnmetered)


def test_an_inference_profile_says_where_it_serves() -> None:
    """Bedrock routes a profile within what its name begins with, whatever the account's region."""
    own = ProviderModel("global.anthropic.claude-x", region="eu-north-1")
    account = ProviderAccount("b", "bedrock", "https://x", models=(own,), region="eu-central-1")
    assert account.region_of("eu.anthropic.claude-opus-4") == "eu"
    assert account.region_of("global.anthropic.claude-opus-4") == "global"
    assert account.region_of("arn:aws:bedrock:eu-central-1:1:inference-profile/us.anthropic.claude-opus-4") == "us"
    assert account.region_of("anthropic.claude-opus-4-v1:0") == "eu-central-1"
    assert account.region_of("global.anthropic.claude-x") == "eu-north-1"
