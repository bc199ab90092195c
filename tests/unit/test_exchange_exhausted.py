"""`on_exhausted: downgrade`: past the cap, work goes on with what no provider bills for, and with nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import pytest

from ext_proc.exchange.effects import Forward, Refuse
from ext_proc.exchange.events import RequestHead
from ext_proc.exchange.explain import Explanation, explain
from ext_proc.exchange.terms import Terms
from ext_proc.ledger.interface import AccountSpec
from ext_proc.ledger.standing import Standing
from tests.policy_kit import DOLLAR, snapshot

NOW_US = 1_779_000_000_000_000
PROVIDERS = """
name: providers
type: gateway-provider-config
accounts:
  - {name: openai-main, provider: openai}
  - name: own
    provider: openai-compatible
    endpoint: http://llm.internal:8000
    models: [{name: free, cost: {per_1000_tokens: {input: 0, output: 0}}},
             {name: paid, cost: {per_1000_tokens: {input: 0.001, output: 0.001}}}]
"""
ROUTING = (
    "name: r\ntype: gateway-load-balancing-config\ndowngrades: [{{when: {{}}, swap: {{openai-main/gpt-4o: {to}}}}}]\n"
)
RULE = "{id: tight, when: {}, limit_to: 1, unit: cost_per_day, constrained: {action: none}, on_exhausted: downgrade}"


def explained(to: str, spent: int, rule: str = RULE) -> Explanation:
    """A request for gpt-4o that may give way to `to`, with so much of a dollar spent."""
    budgets = f"name: b\ntype: gateway-budget-config\nrules:\n  - {rule}\n"
    terms = Terms.of(snapshot(budgets, PROVIDERS, ROUTING.format(to=to)), lease_ms=1_000)
    body = {"model": "gpt-4o", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}

    async def read(accounts: Iterable[AccountSpec], _: int) -> dict[AccountSpec, Standing]:
        return dict.fromkeys(accounts, Standing(spent, 0))

    head = RequestHead("POST", "/v1/chat/completions", (), NOW_US)
    return asyncio.run(explain(head, json.dumps(body).encode(), terms, read))


@pytest.mark.parametrize("to", ["own/free", "own/paid"])
@pytest.mark.parametrize("spent", [DOLLAR, DOLLAR - 1, 5 * DOLLAR])
def test_an_exhausted_budget_goes_on_with_a_server_of_one_s_own(to: str, spent: int) -> None:
    """Once the first choice does not fit any more, the swap serves; its cost is tracked, past the cap if need be."""
    outcome = explained(to, spent).outcome

    assert isinstance(outcome, Forward)
    assert outcome.ticket.target == to
    assert outcome.answer["verdict"] == "downgrade; rule=tight"


def test_before_that_the_first_choice_serves() -> None:
    """While the request fits, nothing is swapped, however near the cap."""
    outcome = explained("own/free", DOLLAR - DOLLAR // 100).outcome

    assert isinstance(outcome, Forward)
    assert outcome.ticket.target == "openai-main/gpt-4o"


def test_a_provider_s_cheaper_model_does_not_serve_past_the_cap() -> None:
    """Cheaper is not free: a model that a provider bills for is refused, even where it would still fit."""
    outcome = explained("openai-main/gpt-4o-mini", DOLLAR - 100_000).outcome

    assert isinstance(outcome, Refuse)
    assert outcome.refusal.rule == "tight"


def test_a_budget_that_refuses_is_not_swapped_away() -> None:
    """Without `on_exhausted: downgrade` an exhausted budget refuses, though a free model stands ready."""
    outcome = explained("own/free", DOLLAR, RULE.replace("downgrade", "refuse")).outcome

    assert isinstance(outcome, Refuse)
