"""Law 1: from the first hold acknowledged, exactly one settle or release follows on every path.

The two machines run against the model ledger. Hypothesis chooses what happens to each request: where the client
leaves, what the provider does, which answers and records are lost or repeated, in which order resolutions reach the
ledger, and whether meter or the log (or neither) sees the end. Afterwards time passes beyond every lease and the books
must balance.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.exchange.admission import Admission
from ext_proc.exchange.admission import State as AdmissionState
from ext_proc.exchange.effects import AskHold, Forward, GiveBack, Refuse, Resolve
from ext_proc.exchange.events import (
    EndRecord,
    HoldAnswered,
    RequestBody,
    RequestHead,
    ResponseChunk,
    ResponseHead,
    SettlementEvent,
    StreamEnded,
)
from ext_proc.exchange.settlement import Settlement
from ext_proc.exchange.terms import Terms
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger import ids
from ext_proc.ledger.interface import Basis, Charge, Code, HoldReply, Resolution
from ext_proc.ledger.memory import MemoryLedger
from ext_proc.policy.loader import load

NOW_US = 1_780_000_000_000_000
LEASE_MS = 120_000
POLICY = """
name: budgets
type: gateway-budget-config
rules:
  - id: everything
    when: {}
    limit_to: 1
    unit: cost_per_day
---
name: rates
type: gateway-rate-limiting-config
rules:
  - id: per-minute
    when: {}
    limit_to: 1000
    unit: requests_per_minute
"""


def _chunk(rest: str) -> bytes:
    return f'data: {{"id":"c","object":"chat.completion.chunk","model":"gpt-4o-mini",{rest}}}\n\n'.encode()


CHUNKS = (
    _chunk('"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null'),
    _chunk('"choices":[{"index":0,"delta":{"content":"Hello there, an answer."},"finish_reason":null}],"usage":null'),
    _chunk('"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":7,"total_tokens":19}'),
    b"data: [DONE]\n\n",
)


@pytest.fixture(scope="module")
def terms(tmp_path_factory: pytest.TempPathFactory) -> Terms:
    """The terms every example is judged by."""
    directory: Path = tmp_path_factory.mktemp("policies")
    (directory / "policy.yaml").write_text(POLICY)
    return Terms.of(load(directory), lease_ms=LEASE_MS)


@dataclass(frozen=True)
class Fate:
    """What happens to one request."""

    leaves: str  # never | before_body | while_holding | after_forward
    hold_answer: str  # seen | lost
    body_valid: bool
    chunks: int  # how many response chunks meter sees
    meter: str  # whole | cut | absent
    status: int
    log: str  # arrives | lost | twice
    record: EndRecord


RECORDS = st.builds(
    EndRecord,
    status=st.sampled_from([0, 200, 429, 500, 503]),
    sent_upstream=st.booleans(),
    answered=st.booleans(),
    client_gone=st.booleans(),
    timed_out=st.booleans(),
    upstream_failed=st.booleans(),
    upstream_body_bytes=st.integers(0, 10_000),
    duration_us=st.integers(0, 60_000_000),
    first_byte_us=st.none() | st.integers(0, 1_000_000),
)
FATES = st.builds(
    Fate,
    leaves=st.sampled_from(["never", "before_body", "while_holding", "after_forward"]),
    hold_answer=st.sampled_from(["seen", "seen", "lost"]),
    body_valid=st.sampled_from([True, True, True, False]),
    chunks=st.integers(0, len(CHUNKS)),
    meter=st.sampled_from(["whole", "cut", "absent"]),
    status=st.sampled_from([200, 200, 500]),
    log=st.sampled_from(["arrives", "lost", "twice"]),
    record=RECORDS,
)


class World:
    """The ledger, its clock, and the resolutions on their way to it."""

    def __init__(self) -> None:
        self.now_us = NOW_US
        self.ledger = MemoryLedger(lambda: self.now_us)
        self.acknowledged: set[str] = set()
        self.on_the_way: list[Resolution] = []

    def hold(self, effect: AskHold) -> HoldReply:
        reply = asyncio.run(self.ledger.hold(effect.request))
        if reply.code is Code.HELD:
            self.acknowledged.add(effect.request.hold_id)
        return reply

    def deliver(self, resolution: Resolution) -> None:
        asyncio.run(self.ledger.resolve(resolution))


def admit(world: World, terms: Terms, fate: Fate, hold_id: str) -> Ticket | None:
    """Drive one admission to its end; the ticket if the request was forwarded."""
    machine = Admission(terms, hold_id, "req_1")
    machine.receive(RequestHead("POST", "/v1/chat/completions", (), world.now_us))
    if fate.leaves == "before_body":
        machine.receive(StreamEnded(world.now_us))
        return None
    body = {"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    effects = machine.receive(RequestBody(json.dumps(body).encode() if fate.body_valid else b"{", world.now_us))
    ask = next((effect for effect in effects if isinstance(effect, AskHold)), None)
    if ask is None:
        assert isinstance(effects[-1], Refuse)
        assert machine.state is AdmissionState.REFUSED
        return None
    if fate.leaves == "while_holding":
        machine.receive(StreamEnded(world.now_us))
    reply = world.hold(ask)
    if fate.hold_answer == "lost":
        reply = HoldReply(Code.UNAVAILABLE)
    effects = machine.receive(HoldAnswered(reply))
    world.on_the_way += [effect.resolution for effect in effects if isinstance(effect, GiveBack)]
    if fate.leaves == "after_forward":
        assert machine.receive(StreamEnded(world.now_us)) == ()
    return next((effect.ticket for effect in effects if isinstance(effect, Forward)), None)


def observe(world: World, ticket: Ticket, events: list[SettlementEvent]) -> None:
    """Run one observer, which starts from the ticket's text as any worker would."""
    settlement = Settlement(Ticket.decode(ticket.encode()))
    resolved = [
        effect.resolution for event in events for effect in settlement.receive(event) if isinstance(effect, Resolve)
    ]
    assert len(resolved) <= 1, "an observer resolves at most once"
    world.on_the_way += resolved


def end(world: World, fate: Fate, hold_id: str, ticket: Ticket | None) -> None:
    """What meter and the log see of the end."""
    if ticket is not None and fate.meter != "absent":
        events: list[SettlementEvent] = [ResponseHead(fate.status, "text/event-stream", "", world.now_us)]
        events += [ResponseChunk(chunk, end=False, now_us=world.now_us) for chunk in CHUNKS[: fate.chunks]]
        if fate.meter == "whole":
            events.append(ResponseChunk(b"", end=True, now_us=world.now_us))
        events.append(StreamEnded(world.now_us))
        observe(world, ticket, events)
    for _ in range({"arrives": 1, "lost": 0, "twice": 2}[fate.log]):
        if ticket is not None:
            observe(world, ticket, [fate.record])
        else:
            world.on_the_way.append(Resolution(hold_id, Charge(), Basis.RELEASED))


@given(fates=st.lists(FATES, min_size=1, max_size=5), order=st.randoms(use_true_random=False))
def test_every_acknowledged_hold_is_resolved_exactly_once(terms: Terms, fates: list[Fate], order: Any) -> None:
    """Law 1, and conservation: nothing stays held, and what is spent is the sum of the journal."""
    world = World()
    for number, fate in enumerate(fates):
        hold_id = ids.mint(world.now_us, number.to_bytes(8, "big"))
        end(world, fate, hold_id, admit(world, terms, fate, hold_id))
    order.shuffle(world.on_the_way)
    for resolution in world.on_the_way:
        world.deliver(resolution)
        world.deliver(resolution)  # every call may be repeated

    world.now_us += LEASE_MS * 1_000 + 1
    asyncio.run(world.ledger.expire(100))

    journal = asyncio.run(world.ledger.journal(1_000))
    resolved = [str(entry["hold_id"]) for entry in journal if not entry.get("correction")]
    balances, _ = asyncio.run(world.ledger.balances(rule="everything", limit=10, cursor=""))
    assert sorted(resolved) == sorted(world.acknowledged)
    assert asyncio.run(world.ledger.open_holds()) == 0
    assert all(balance.held == 0 for balance in balances)
    assert sum(balance.spent for balance in balances) == sum(int(str(entry["charge_nanodollars"])) for entry in journal)


@given(fate=FATES, events=st.lists(st.integers(0, 3), max_size=8))
def test_a_settlement_never_resolves_twice_whatever_follows(terms: Terms, fate: Fate, events: list[int]) -> None:
    """After RESOLVED no event has an effect but passing chunks on."""
    world = World()
    whole = Fate("never", "seen", body_valid=True, chunks=0, meter="absent", status=200, log="lost", record=fate.record)
    ticket = admit(world, terms, whole, ids.mint(world.now_us, bytes(8)))
    assert ticket is not None
    settlement = Settlement(ticket)
    settlement.receive(ResponseHead(fate.status, "text/event-stream", "", world.now_us))
    settlement.receive(ResponseChunk(CHUNKS[1], end=True, now_us=world.now_us))
    later: list[SettlementEvent] = [
        ResponseChunk(CHUNKS[2], end=False, now_us=world.now_us),
        ResponseChunk(b"", end=True, now_us=world.now_us),
        StreamEnded(world.now_us),
        fate.record,
    ]

    for index in events:
        assert not any(isinstance(effect, Resolve) for effect in settlement.receive(later[index]))
