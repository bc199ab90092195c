"""Audit mode: nothing is refused or swapped, and what would have been is told, by the rule that would decide."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

from ext_proc.exchange.charging import by_record
from ext_proc.exchange.effects import Forward
from ext_proc.exchange.events import EndRecord, RequestHead
from ext_proc.exchange.explain import explain
from ext_proc.exchange.terms import Terms
from ext_proc.exchange.ticket import MAX_AUDITED_RULES, Ticket
from ext_proc.ledger.interface import AccountSpec
from ext_proc.ledger.standing import Standing
from tests.policy_kit import DOLLAR, snapshot

NOW_US = 1_779_000_000_000_000
ROUTING = """
name: r
type: gateway-load-balancing-config
downgrades: [{when: {}, swap: {openai-main/gpt-4o: openai-main/gpt-4o-mini}}]
"""
RULES = """
name: b
type: gateway-budget-config
rules:
  - {id: first, when: {}, limit_to: 1, unit: cost_per_day, audit_mode: true%s}
  - {id: second, when: {}, limit_to: 1, unit: cost_per_week, audit_mode: true}
"""


def forwarded(spent: int, extra: str = "", model: str = "gpt-4o") -> Forward:
    """A request with so much of each dollar spent; it must pass."""
    terms = Terms.of(snapshot(RULES % extra, ROUTING), lease_ms=1_000)
    body = {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}

    async def read(accounts: Iterable[AccountSpec], _: int) -> dict[AccountSpec, Standing]:
        return dict.fromkeys(accounts, Standing(spent, 0))

    head = RequestHead("POST", "/v1/chat/completions", (), NOW_US)
    outcome = asyncio.run(explain(head, json.dumps(body).encode(), terms, read)).outcome
    assert isinstance(outcome, Forward)
    assert outcome.ticket.target == f"openai-main/{model}"
    return outcome


def test_below_the_threshold_nothing_is_told() -> None:
    """Enforced or not, the request would pass as it is."""
    assert forwarded(DOLLAR // 2).answer["verdict"] == "pass"


def test_past_the_threshold_the_swap_is_told() -> None:
    """The rule that would decide says that it would have swapped; the one below it would only have tracked."""
    found = forwarded(DOLLAR - DOLLAR // 20)

    assert found.ticket.would_downgrade == ("first",)
    assert found.ticket.would_refuse == ()
    assert found.answer["verdict"] == "pass; would_downgrade=first"


def test_past_the_cap_the_refusal_is_told() -> None:
    """Only the rule that would decide is named."""
    found = forwarded(DOLLAR)

    assert found.ticket.would_refuse == ("first",)
    assert found.answer["verdict"] == "pass; would_refuse=first; would_downgrade=first"


def test_a_model_that_gives_way_to_nothing_is_not_told_to_be_swapped() -> None:
    """No swap names the cheaper model, so a constrained rule would leave it alone."""
    assert forwarded(DOLLAR - DOLLAR // 20, model="gpt-4o-mini").answer["verdict"] == "pass"


def test_a_rule_that_would_refuse_premium_models_tells_so() -> None:
    """`refuse_premium` in audit mode is a refusal that did not happen."""
    found = forwarded(DOLLAR - DOLLAR // 20, ", constrained: {action: refuse_premium}")

    assert found.ticket.would_refuse == ("first",)
    assert found.ticket.would_downgrade == ()


def test_the_journal_tells_both() -> None:
    """What meter or log settle from the ticket carries the rules into the journal entry."""
    ticket = Ticket.decode(forwarded(DOLLAR).ticket.encode())
    record = EndRecord(
        status=200,
        sent_upstream=True,
        answered=True,
        client_gone=False,
        timed_out=False,
        upstream_failed=False,
        upstream_body_bytes=100,
        duration_us=1,
        first_byte_us=1,
    )

    detail = json.loads(by_record(ticket, record).detail)

    assert (detail["would_refuse"], detail["would_downgrade"]) == (["first"], ["first"])


def test_a_ticket_carries_a_bounded_number_of_audited_rules() -> None:
    """Many audit rules do not bloat the ticket: refusals come first."""
    ticket = forwarded(DOLLAR).ticket
    rules = tuple(f"rule-{number}" for number in range(9))

    def kept(refusing: int, swapping: int) -> tuple[int, int]:
        crowded = Ticket(
            **{
                **{name: getattr(ticket, name) for name in Ticket.__dataclass_fields__},
                "would_refuse": rules[:refusing],
                "would_downgrade": rules[:swapping],
            }
        )
        read = Ticket.decode(crowded.encode())
        return len(read.would_refuse), len(read.would_downgrade)

    assert kept(9, 9) == (MAX_AUDITED_RULES, 0)
    assert kept(1, 9) == (1, MAX_AUDITED_RULES - 1)
    assert kept(0, 1) == (0, 1)
