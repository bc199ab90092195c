"""`tollgate explain` against admission: same verdict, rule and amounts, whatever policies, balances and request are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ext_proc.exchange.admission import Admission
from ext_proc.exchange.effects import AskHold, Forward, Refuse
from ext_proc.exchange.events import HoldAnswered, RequestBody, RequestHead
from ext_proc.exchange.explain import Explanation, explain
from ext_proc.exchange.explain_json import as_json
from ext_proc.exchange.explain_text import as_text
from ext_proc.exchange.terms import Terms
from ext_proc.ledger import ids
from ext_proc.ledger.interface import AccountSpec, Basis, Charge, Code, HoldReply, Resolution
from ext_proc.ledger.memory import MemoryLedger
from ext_proc.ledger.standing import Standing
from ext_proc.policy.loader import load_files
from ext_proc.policy.yaml_source import SourceFile

START_US = 1_779_000_000_000_000
VALUES = st.sampled_from(["a", "b"])
TAGS = st.dictionaries(st.sampled_from(["cost_center", "repo", "workflow_id"]), VALUES)
MODELS = st.sampled_from(["gpt-4o", "gpt-4o-mini", "openai-main/gpt-4o", "no-such-model"])
WHENS = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.dictionaries(st.sampled_from(["cost_center", "repo"]), VALUES | st.just(["a", "b"]), max_size=1),
        "models": st.just(["openai-main/gpt-4o"]),
    },
)
BUDGETS = st.fixed_dictionaries(
    {
        "when": WHENS,
        "limit_to": st.sampled_from([0, 0.0005, 0.002, 0.01, 1]),
        "unit": st.sampled_from(["cost_per_day", "cost_per_lifetime", "cost_per_hour"]),
        "audit_mode": st.booleans(),
        "on_insufficient": st.sampled_from(["refuse", "clamp"]),
        "admission": st.sampled_from(["expected", "expected", "strict"]),
        "on_exhausted": st.sampled_from(["refuse", "latch"]),
        "constrained": st.sampled_from(
            [
                {"at": 50, "action": "downgrade"},
                {"at": 50, "action": "refuse_premium"},
                {"at": 90, "action": "none"},
                {"at": 50, "action": "throttle", "limit_to": 2, "unit": "requests_per_minute"},
            ]
        ),
    },
    optional={
        "budget_applies_per": st.sampled_from([["metadata.repo"], ["model"]]),
        "on_missing_key": st.sampled_from(["bucket", "skip", "refuse"]),
    },
)
RATES = st.fixed_dictionaries(
    {
        "when": WHENS,
        "limit_to": st.sampled_from([1, 3, 2000, 5000]),
        "unit": st.sampled_from(
            ["requests_per_minute", "tokens_per_minute", "output_tokens_per_minute", "concurrent_requests"]
        ),
    }
)


@dataclass(frozen=True)
class Ask:
    """One request, when it comes, and how it ends."""

    tags: Mapping[str, str]
    body: Mapping[str, Any]
    later_us: int
    charge_share: float | None  # of what was held; None: it stays open


ASKS = st.builds(
    Ask,
    tags=TAGS,
    body=st.fixed_dictionaries(
        {"model": MODELS, "messages": st.just([{"role": "user", "content": "hello there " * 20}])},
        optional={
            "max_tokens": st.sampled_from([1, 50, 400]),
            "n": st.sampled_from([1, 3]),
            "stream": st.booleans(),
        },
    ),
    later_us=st.sampled_from([0, 1, 20_000_000, 70_000_000, 3_600_000_000]),
    charge_share=st.none() | st.sampled_from([0.0, 0.5, 1.0, 3.0]),
)


def policies(budgets: list[list[dict[str, Any]]], rates: list[dict[str, Any]], evaluation: str) -> Terms:
    """The terms of these rules, with a swap and a guardrail."""
    documents: list[dict[str, Any]] = [
        {
            "name": "routing",
            "type": "gateway-load-balancing-config",
            "downgrades": [{"when": {}, "swap": {"openai-main/gpt-4o": "openai-main/gpt-4o-mini"}}],
        },
        {
            "name": "guards",
            "type": "gateway-guardrail-config",
            "rules": [{"id": "short", "when": {"metadata": {"repo": "b"}}, "max_output_tokens": 300}],
        },
    ]
    for number, rules in enumerate(budgets):
        written = [{"id": f"b{number}-{index}", **rule} for index, rule in enumerate(rules)]
        documents.append(
            {"name": f"d{number}", "type": "gateway-budget-config", "evaluation": evaluation, "rules": written}
        )
    documents.append(
        {
            "name": "rates",
            "type": "gateway-rate-limiting-config",
            "rules": [{"id": f"r{index}", **rule} for index, rule in enumerate(rates)],
        }
    )
    text = "\n---\n".join(map(json.dumps, documents))
    return Terms.of(load_files([SourceFile("policies.yaml", text.encode())]), lease_ms=86_400_000)


class World:
    """A ledger with a history, and the two that judge against it."""

    def __init__(self, terms: Terms) -> None:
        self.now_us = START_US
        self.terms = terms
        self.ledger = MemoryLedger(lambda: self.now_us)
        self.asked = 0

    async def read(self, accounts: Iterable[AccountSpec], now_us: int) -> dict[AccountSpec, Standing]:
        assert now_us == self.now_us
        return {account: self.ledger.standing(account) for account in accounts}

    async def admit(self, head: RequestHead, body: bytes) -> tuple[Forward | Refuse, HoldReply | None]:
        """One admission, as the server drives it."""
        self.asked += 1
        machine = Admission(self.terms, ids.mint(self.now_us, self.asked.to_bytes(8, "big")), "req_1")
        machine.receive(head)
        effects = machine.receive(RequestBody(body, self.now_us))
        reply = None
        if isinstance(ask := effects[-1], AskHold):
            reply = await self.ledger.hold(ask.request)
            effects = machine.receive(HoldAnswered(reply))
        outcome = effects[-1]
        assert isinstance(outcome, Forward | Refuse)
        return outcome, reply

    async def step(self, ask: Ask) -> None:
        """Explain a request, then admit it: the explanation must have changed nothing and said it all."""
        self.now_us += ask.later_us
        tags = (("x-tfy-metadata", json.dumps(dict(ask.tags))),)
        head = RequestHead("POST", "/v1/chat/completions", tags, self.now_us)
        body = json.dumps(dict(ask.body)).encode()
        found = await explain(head, body, self.terms, self.read)
        outcome, reply = await self.admit(head, body)
        compare(found, outcome, reply)
        as_text(found)
        json.dumps(as_json(found))
        if isinstance(outcome, Forward) and ask.charge_share is not None:
            cost = next((s.held for s in found.reply.states if s.deciding), 0) if found.reply else 0
            charge = Charge(int(cost * ask.charge_share), 40, 40, 1)
            await self.ledger.resolve(Resolution(outcome.ticket.hold_id, charge, Basis.REPORTED))


def compare(found: Explanation, outcome: Forward | Refuse, reply: HoldReply | None) -> None:
    """The same answer, from the same figures."""
    assert type(found.outcome) is type(outcome)
    if isinstance(outcome, Forward) and isinstance(found.outcome, Forward):
        for name in ("target", "verdict", "output_limit", "input_tokens", "would_refuse"):
            assert getattr(found.outcome.ticket, name) == getattr(outcome.ticket, name)
        assert found.outcome.body == outcome.body
        assert reply is not None
        chosen = next(way for way in found.ways if way.chosen)
        held = {state.account: state.held for state in reply.states}
        assert {asked.account: asked.standing.held + asked.amount for asked in chosen.asked} == held
    if isinstance(outcome, Refuse) and isinstance(found.outcome, Refuse):
        assert found.outcome.refusal == outcome.refusal
        assert not any(way.chosen for way in found.ways)
        assert all(way.reply.code is Code.REFUSED for way in found.ways)
    if reply is not None and found.reply is not None:
        assert (found.reply.code, found.reply.states) == (reply.code, reply.states)


@settings(max_examples=150)
@given(
    budgets=st.lists(st.lists(BUDGETS, min_size=1, max_size=3), min_size=1, max_size=2),
    rates=st.lists(RATES, min_size=1, max_size=2),
    evaluation=st.sampled_from(["first_match", "all"]),
    asks=st.lists(ASKS, min_size=1, max_size=12),
)
def test_explain_says_what_admission_does(
    budgets: list[list[dict[str, Any]]], rates: list[dict[str, Any]], evaluation: str, asks: list[Ask]
) -> None:
    """Over a history of requests, each is explained first and then admitted: verdict, rule, words and holds agree."""

    async def history() -> None:
        world = World(policies(budgets, rates, evaluation))
        for ask in asks:
            await world.step(ask)

    asyncio.run(history())
