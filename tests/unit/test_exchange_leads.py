"""Who leads when budgets are partly spent: `fallback_when: budget_used`, decided where the balance is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import pytest

from ext_proc.exchange.effects import Forward
from ext_proc.exchange.events import RequestHead
from ext_proc.exchange.explain import explain
from ext_proc.exchange.terms import Terms
from ext_proc.ledger.interface import AccountSpec
from ext_proc.ledger.standing import Standing
from ext_proc.routing.health import Counts, Health
from ext_proc.routing.virtual_models import Member, Reason
from tests.policy_kit import DOLLAR, snapshot

NOW_US = 1_779_000_000_000_000
ROUTING = """
name: routing
type: gateway-load-balancing-config
rules:
  - id: chat
    type: priority-based-routing
    when: {models: [chat]}
    load_balance_targets:
      - {target: openai-main/gpt-4o, fallback_when: {any: [{budget_used: 75}]}, fallback_candidate: false}
      - {target: openai-main/gpt-4.1, priority: 1, fallback_when: {any: [{budget_used: 80}]}}
      - {target: openai-main/gpt-4o-mini, priority: 2}
downgrades:
  - {when: {}, swap: {openai-main/gpt-4o: openai-main/gpt-4.1-nano, openai-main/gpt-4o-mini: openai-main/gpt-4.1-nano}}
"""
BUDGET = """
name: b
type: gateway-budget-config
rules: [{id: all, when: {}, limit_to: 1, unit: cost_per_day}]
"""


def forwarded(percent: int) -> Forward:
    """A request for `chat` with so much of the budget spent."""
    body = {"model": "chat", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}

    async def read(accounts: Iterable[AccountSpec], _: int) -> dict[AccountSpec, Standing]:
        return dict.fromkeys(accounts, Standing(DOLLAR * percent // 100, 0))

    head = RequestHead("POST", "/v1/chat/completions", (), NOW_US)
    terms = Terms.of(snapshot(ROUTING, BUDGET), lease_ms=1_000)
    outcome = asyncio.run(explain(head, json.dumps(body).encode(), terms, read)).outcome
    assert isinstance(outcome, Forward)
    return outcome


@pytest.mark.parametrize(
    ("percent", "targets", "verdict"),
    [
        (74, ("gpt-4o", "gpt-4.1", "gpt-4o-mini"), "pass"),
        (75, ("gpt-4.1", "gpt-4o-mini"), "pass"),
        (80, ("gpt-4o-mini", "gpt-4.1"), "pass"),
        (90, (), "downgrade; rule=all"),
    ],
)
def test_a_target_is_left_at_its_part_of_the_budget(percent: int, targets: tuple[str, ...], verdict: str) -> None:
    """It moves to the end of the chain, or out of it where it must not follow; only the last lead is swapped once the
    budget is constrained.
    """
    outcome = forwarded(percent)

    assert outcome.answer["verdict"] == verdict
    if targets:
        assert outcome.chain is not None
        assert outcome.chain.targets == tuple(f"openai-main/{name}" for name in targets)
        assert outcome.ticket.target == outcome.chain.targets[0]
    else:
        assert outcome.ticket.target == "openai-main/gpt-4.1-nano"


def test_reasons_that_hold_together() -> None:
    """Of `all`, the budget is asked only while the other reasons hold; of `any`, the smallest percent counts."""
    rate, some, more = Reason(0.2, None, 120), Reason(None, None, 120, 60), Reason(None, None, 120, 70)
    failing = Health({99: {"a/m": Counts(attempts=5, failures=1)}}, now_s=1_000)
    together = Member(name="a/m", leave_all=(rate, some, more))
    assert together.leaves_at(Health()) is None
    assert together.leaves_at(failing) == 70
    assert not together.is_unhealthy(failing)
    assert Member(name="a/m", leave_any=(more, some)).leaves_at(Health()) == 60
    assert Member(name="a/m", leave_any=(rate,)).leaves_at(failing) is None
