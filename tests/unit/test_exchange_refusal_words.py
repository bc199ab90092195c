"""What a refused caller reads: whom the budget belongs to, who spent it, and links that lead somewhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping

import pytest

from ext_proc.exchange.effects import Refuse
from ext_proc.exchange.events import RequestHead
from ext_proc.exchange.explain import explain
from ext_proc.exchange.terms import Terms
from ext_proc.ledger.interface import AccountSpec, TopConsumer
from ext_proc.ledger.standing import Standing
from ext_proc.refusal import Refusal
from tests.policy_kit import DOLLAR, snapshot

NOW_US = 1_779_000_000_000_000  # 2026-05-17T06:40:00Z, a Sunday
SETTINGS = """
name: settings
type: gateway-settings
quota_request_link: https://quota.example/ask?rule={rule}&team={metadata.team}
dashboard_link: https://grafana.example/d/all
"""


def refused(rule: str, standing: Standing, tags: Mapping[str, str], settings: str = SETTINGS) -> Refusal:
    """The refusal of a request whose one budget rule (YAML without its id) stands so."""
    budgets = f"name: budgets\ntype: gateway-budget-config\nrules:\n  - {{id: the-rule, {rule}}}\n"
    terms = Terms.of(snapshot(budgets, settings), lease_ms=1_000)
    head = RequestHead("POST", "/v1/chat/completions", (("x-tfy-metadata", json.dumps(dict(tags))),), NOW_US)
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}).encode()

    async def read(accounts: Iterable[AccountSpec], _: int) -> dict[AccountSpec, Standing]:
        return dict.fromkeys(accounts, standing)

    outcome = asyncio.run(explain(head, body, terms, read)).outcome
    assert isinstance(outcome, Refuse)
    return outcome.refusal


SEARCH = "when: {metadata: {cost_center: search}}, limit_to: 500, unit: cost_per_week, timezone: Europe/Berlin"
EXHAUSTED = Standing(501_230_000_000, 0, top=(TopConsumer("pipeline", "pr-security-audit", 437_000_000_000),))


def test_a_budget_of_one_tag_value_names_it() -> None:
    """The whole answer that the policy language promises, from a rule without a bucket."""
    refusal = refused(SEARCH, EXHAUSTED, {"cost_center": "search", "team": "a/b"})

    assert refusal.message == "Cost center 'search' has exhausted its weekly $500 AI budget."
    assert refusal.context == {
        "rule": "the-rule",
        "unit": "cost_per_week",
        "spent_to_date": "$501.23",
        "held": "$0.00",
        "cap": "$500.00",
        "resets_at": "2026-05-17T22:00:00Z",
        "cost_center": "search",
        "top_consumer": "pipeline=pr-security-audit · 87% of spend",
        "dashboard": "https://grafana.example/d/all",
        "also_exceeded": [],
    }
    assert refusal.mitigation == (
        "Review pipeline logs for runaway loops, or request a quota increase at "
        "https://quota.example/ask?rule=the-rule&team=a%2Fb."
    )


@pytest.mark.parametrize(
    ("rule", "tags", "begins"),
    [
        ("when: {}", {}, "Budget 'the-rule' has"),
        ("when: {metadata: {cost_center: [search, ads]}}", {"cost_center": "ads"}, "Budget 'the-rule' has"),
        ("when: {metadata: {cost_center: {not_in: [ads]}}}", {"cost_center": "x"}, "Budget 'the-rule' has"),
        ("when: {metadata: {cost_center: a, repo: b}}", {"cost_center": "a", "repo": "b"}, "Budget 'the-rule' has"),
        ("when: {subjects: ['user:ann']}", {"user": "ann"}, "User 'ann' has"),
        ("when: {environments: [staging]}", {"environment": "staging"}, "Environment 'staging' has"),
        ("when: {}, budget_applies_per: [metadata.repo]", {"repo": "web"}, "Repo 'web' has"),
        ("when: {}, budget_applies_per: [metadata.repo]", {}, "Repo '(none)' has"),
        ("when: {}, budget_applies_per: [virtualaccount]", {}, "Virtual account '(none)' has"),
    ],
)
def test_whose_budget_it_is(rule: str, tags: Mapping[str, str], begins: str) -> None:
    """The bucket says it, else the one value that `when` names; where `when` names several, the rule's id does."""
    refusal = refused(f"{rule}, limit_to: 5, unit: cost_per_day", Standing(5 * DOLLAR, 0), tags)

    assert refusal.message.startswith(begins)


def test_a_bucket_below_a_cost_center_names_both() -> None:
    """The message names the bucket, the context the cost center too."""
    rule = f"{SEARCH}, budget_applies_per: [metadata.repo]"
    refusal = refused(rule, EXHAUSTED, {"cost_center": "search", "repo": "web"})

    assert refusal.message == "Repo 'web' has exhausted its weekly $500 AI budget."
    assert (refusal.context["repo"], refusal.context["cost_center"]) == ("web", "search")


def test_a_rule_s_own_texts_and_links_win() -> None:
    """`mitigation` and `dashboard` of the rule stand in place of the settings'; the link's places are filled in."""
    rule = f"{SEARCH}, mitigation: Ask Ann., dashboard: 'https://own.example/{{rule}}?cc={{metadata.cost_center}}'"
    refusal = refused(rule, EXHAUSTED, {"cost_center": "search"})

    assert refusal.mitigation == "Ask Ann."
    assert refusal.context["dashboard"] == "https://own.example/the-rule?cc=search"


def test_contention_names_no_top_consumer() -> None:
    """Who spent most is no news to somebody whom only requests in flight keep out."""
    standing = Standing(100 * DOLLAR, 400 * DOLLAR, top=EXHAUSTED.top)
    refusal = refused(SEARCH, standing, {"cost_center": "search"})

    assert refusal.type == "budget_contended"
    assert "top_consumer" not in refusal.context


def test_a_latched_budget_stays_shut() -> None:
    """`on_exhausted: latch` makes an account that latches, and its refusal says who opens it again."""
    refusal = refused(f"{SEARCH}, on_exhausted: latch", Standing(latched=True), {"cost_center": "search"})

    assert refusal.message == (
        "Cost center 'search' has exhausted its weekly $500 AI budget and stays shut until it is resumed by hand."
    )
    assert refusal.retry_after_seconds is None
    assert refusal.should_retry is False
