"""A stream that outruns its hold: asked about in steps, cut when the ledger has no more, never within an event."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.dialects import registry
from ext_proc.dialects.sse import events, fields
from ext_proc.exchange.cutting import STEP_TOKENS, Cut
from ext_proc.exchange.effects import EndStream, Extend, PassChunk, Resolve
from ext_proc.exchange.events import ExtendAnswered, ResponseChunk, ResponseHead, StreamEnded
from ext_proc.exchange.settlement import Settlement, State
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger.interface import Basis, Code, ExtendReply, Extension, HoldRequest, Measure, Posting, Resolution
from ext_proc.ledger.memory import MemoryLedger
from ext_proc.pricing.price import Price, Tier
from ext_proc.pricing.usage import Rates
from tests.ledger_kit import LEASE_MS, TestClock, account, hold_id, one_plan

RATES = Rates(input_uncached=1_000_000, output=2_000_000)
HELD = 100
PIECE = "four" * 10  # ten tokens of text
CUT = Cut((("tight", (("user", "ada"),)),), None, 1)
TICKET = Ticket(
    hold_id=hold_id(1),
    dialect="openai-chat",
    operation="chat",
    requested_model="m",
    target="main/m",
    price=Price((Tier(0, RATES),), "v"),
    input_tokens=7,
    output_limit=HELD,
    verdict="pass",
    stream=True,
    hide_usage=True,
    cut=CUT,
)


def chunk(content: str, finish: str | None = None) -> bytes:
    """One event of an OpenAI stream."""
    choice = {"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n".encode()


@dataclass
class Client:
    """Plays Envoy, the ledger's side and the client. `room`: output tokens that the account has beyond the hold."""

    room: int = 0
    ticket: Ticket = TICKET
    code: Code | None = None  # what the ledger answers in place of its own word
    machine: Settlement = field(init=False)
    seen: bytes = b""
    asked: list[Extend] = field(default_factory=list)
    resolution: Resolution | None = None
    ended: EndStream | None = None

    def __post_init__(self) -> None:
        self.spec = account("tight", cap=HELD + self.room, measure=Measure.OUTPUT_TOKENS)
        self.ledger = MemoryLedger(TestClock())
        posting = Posting(self.spec, deciding=True, fixed=0, per_output_milli=1_000)
        plan = one_plan(posting, output_min=HELD, output_max=HELD)
        asyncio.run(self.ledger.hold(HoldRequest(self.ticket.hold_id, (plan,), LEASE_MS)))
        self.machine = Settlement(self.ticket)
        self.machine.receive(ResponseHead(200, "text/event-stream", "", 0))

    def feed(self, body: bytes, *, end: bool = False) -> None:
        """One chunk, with what follows from it."""
        if self.ended is not None:
            return
        effects = self.machine.receive(ResponseChunk(body, end, 0))
        shown = next((e.replacement for e in effects if isinstance(e, PassChunk) and e.replacement is not None), body)
        self.seen += shown
        for effect in effects:
            if isinstance(effect, Resolve):
                self.resolution = effect.resolution
            if isinstance(effect, Extend):
                self.asked.append(effect)
                self._answer(effect)

    def _answer(self, extend: Extend) -> None:
        asked = Extension(extend.hold_id, extend.output, extend.cost_milli, (self.spec,))
        reply = ExtendReply(self.code) if self.code else asyncio.run(self.ledger.extend(asked))
        for effect in self.machine.receive(ExtendAnswered(reply, ("tight-ada",), 0)):
            if isinstance(effect, EndStream):
                self.ended = effect
                self.seen += effect.ending
            if isinstance(effect, Resolve):
                self.resolution = effect.resolution

    @property
    def documents(self) -> list[dict[str, object]]:
        """The JSON events that the client got."""
        found = [fields(event)[1] for event in events(self.seen)]
        return [json.loads(data) for data in found if data.startswith(b"{")]


def test_within_its_hold_nobody_is_asked() -> None:
    """Ten pieces of ten tokens are what was held: the ledger hears nothing."""
    client = Client()
    for _ in range(10):
        client.feed(chunk(PIECE))

    assert not client.asked
    assert client.machine.state is State.READING


@pytest.mark.parametrize("room", [0, 5, 30, STEP_TOKENS, STEP_TOKENS + 25])
def test_it_is_cut_with_the_piece_that_the_account_has_no_room_for(room: int) -> None:
    """The hold is extended by what the account has, asked in steps; then the stream ends and what passed is charged."""
    client = Client(room)
    pieces = 0
    while client.ended is None:
        client.feed(chunk(PIECE))
        pieces += 1

    assert pieces * 10 > HELD + room >= (pieces - 1) * 10
    assert len(client.asked) <= room // STEP_TOKENS + 2
    assert client.resolution is not None
    assert client.resolution.basis is Basis.ESTIMATED
    assert (client.resolution.charge.input_tokens, client.resolution.charge.output_tokens) == (7, pieces * 10)
    detail = json.loads(client.resolution.detail)
    assert (detail["verdict"], detail["ended"], detail["cut_by"]) == ("cut", "exhausted", ["tight-ada"])
    assert client.machine.receive(StreamEnded(0)) == ()


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.NOT_FOUND, Code.ALREADY_RESOLVED])
def test_what_the_ledger_does_not_know_cuts_nothing(code: Code) -> None:
    """An answer that was paid for is not broken because Redis is away; it is asked again a step later."""
    client = Client(code=code)
    for _ in range(100):
        client.feed(chunk(PIECE))
    client.feed(b"data: [DONE]\n\n", end=True)

    assert client.ended is None
    assert 1 < len(client.asked) <= 1 + 1_000 // STEP_TOKENS
    assert client.seen.count(PIECE.encode()) == 100


def test_a_stream_that_has_named_its_reason_ends_by_itself() -> None:
    """Whoever has been told `stop` is not told `length` as well."""
    client = Client()
    client.feed(chunk(PIECE) * 11 + chunk("", "stop"))
    client.feed(b"data: [DONE]\n\n", end=True)

    assert client.ended is None
    assert b"length" not in client.seen


def test_a_body_that_is_no_stream_is_not_cut() -> None:
    """Only server-sent events in the clear can be ended."""
    for content_type, encoding in (("application/json", ""), ("text/event-stream", "gzip")):
        machine = Settlement(TICKET)
        machine.receive(ResponseHead(200, content_type, encoding, 0))
        assert not machine.may_end_stream
    unknown = Settlement(replace(TICKET, store_failed=True))
    unknown.receive(ResponseHead(200, "text/event-stream", "", 0))
    assert not unknown.may_end_stream


@given(st.data())
def test_no_chunking_cuts_an_event_in_two(data: st.DataObject) -> None:
    """However the bytes come, the client gets whole events of the answer, in order, and then the end."""
    whole = b"".join(chunk(f"{number:03}-{PIECE}") for number in range(20))
    client = Client(data.draw(st.integers(0, 60)))
    while whole and client.ended is None:
        size = data.draw(st.integers(1, 600))
        client.feed(whole[:size])
        whole = whole[size:]

    assert client.ended is not None
    *pieces, last = client.documents
    texts = [document["choices"][0]["delta"]["content"][:3] for document in pieces]  # type: ignore[index]
    assert texts == [f"{number:03}" for number in range(len(texts))]
    assert last["choices"][0]["finish_reason"] == "length"  # type: ignore[index]
    assert client.seen.endswith(b"data: [DONE]\n\n")
    assert b": tollgate: cut; rule=tight-ada; the budget is exhausted\n\n" in client.seen


def test_the_ticket_carries_who_may_cut() -> None:
    """What meter needs to ask travels with the request; a ticket without it is as it was."""
    assert Ticket.decode(TICKET.encode()) == TICKET
    plain = replace(TICKET, cut=None)
    assert Ticket.decode(plain.encode()) == plain
    assert len(json.loads(plain.encode())) == len(json.loads(TICKET.encode())) - 1


def test_which_dialects_can_be_cut() -> None:
    """The list in the documentation."""
    cut = {name for name in registry.dialect_names() if registry.dialect(name).can_end_streams}
    assert cut == {
        *("openai-chat", "openai-completions", "openai-responses", "azure-chat", "azure-completions"),
        *("anthropic-messages", "gemini", "vertex-gemini", "vertex-anthropic"),
    }
