"""The settlement machine: from the ticket to the one resolution of its hold.

Nothing about a request lives only here: any worker can start from the ticket. Two observers usually run this machine
for the same attempt, on the same or on different workers: meter, which reads the response body, and the access log
record, the universal end of every request. Each resolves what it can know; the ledger takes the first resolution and
answers the second with `already_resolved`. An observer that cannot know stays silent (LEFT) and leaves it to the other.

docs/architecture.md draws this table; `tests/unit/test_exchange_docs.py` keeps the two in step.
"""

from __future__ import annotations

from enum import Enum, auto

from ext_proc.dialects import registry
from ext_proc.dialects.interface import EndingMeter, Meter, Reading
from ext_proc.exchange import charging
from ext_proc.exchange.calibration import NOTHING, Learned
from ext_proc.exchange.cutting import STEP_TOKENS, comment
from ext_proc.exchange.effects import EndStream, Extend, PassChunk, Resolve, SettlementEffect
from ext_proc.exchange.errors import IllegalTransitionError
from ext_proc.exchange.events import (
    EndRecord,
    ExtendAnswered,
    ResponseChunk,
    ResponseHead,
    SettlementEvent,
    StreamEnded,
)
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger.interface import Basis, Code, Resolution


class State(Enum):
    """Where one observer of an attempt stands. LEFT and RESOLVED are final."""

    __hash__ = object.__hash__  # members are singletons; Enum hashes their names, in Python

    OPEN = auto()
    READING = auto()
    EXTENDING = auto()
    LEFT = auto()
    RESOLVED = auto()


TRANSITIONS: dict[State, dict[type[SettlementEvent], frozenset[State]]] = {
    State.OPEN: {
        ResponseHead: frozenset({State.READING, State.RESOLVED}),
        StreamEnded: frozenset({State.LEFT}),
        EndRecord: frozenset({State.RESOLVED}),
    },
    State.READING: {
        ResponseChunk: frozenset({State.READING, State.EXTENDING, State.RESOLVED}),
        StreamEnded: frozenset({State.LEFT, State.RESOLVED}),
        EndRecord: frozenset({State.RESOLVED}),
    },
    State.EXTENDING: {
        ExtendAnswered: frozenset({State.READING, State.RESOLVED}),
        StreamEnded: frozenset({State.LEFT, State.RESOLVED}),
        EndRecord: frozenset({State.RESOLVED}),
    },
    # Envoy has been seen to repeat the end of a body (envoy #46237): what comes after the end changes nothing.
    State.LEFT: {StreamEnded: frozenset({State.LEFT}), EndRecord: frozenset({State.LEFT})},
    State.RESOLVED: {
        ResponseChunk: frozenset({State.RESOLVED}),
        StreamEnded: frozenset({State.RESOLVED}),
        EndRecord: frozenset({State.RESOLVED}),
    },
}

_ERROR = 400

_CARRIES = frozenset({Code.EXTENDED, Code.EXISTS, Code.EXHAUSTED})
"""Answers that say how much output the hold carries."""

_UNCHANGED = (PassChunk(None),)


def settles_at_once(ticket: Ticket, record: EndRecord) -> bool:
    """Whether this record is all that will be known of the answer: no meter has read it."""
    return ticket.native and not record.encoded


class Settlement:
    """One observer's view of how one attempt ends. `learned`: of its target, for what has to be estimated."""

    def __init__(self, ticket: Ticket, learned: Learned = NOTHING) -> None:
        self.state = State.OPEN
        self.ticket = ticket
        self._learned = learned
        self._head: ResponseHead | None = None
        self._meter: Meter | None = None
        self._ending_meter: EndingMeter | None = None
        self._asked_beyond = ticket.output_limit

    @property
    def may_end_stream(self) -> bool:
        """Whether this answer may be cut: it must then be read in a way that can end it."""
        return self._ending_meter is not None and self.state is State.READING

    @property
    def hold_id(self) -> str:
        """The hold that is resolved."""
        return self.ticket.hold_id

    def receive(self, event: SettlementEvent) -> tuple[SettlementEffect, ...]:
        """Take one event; return what is to be done. Raises IllegalTransitionError, and then nothing has changed."""
        allowed = TRANSITIONS[self.state].get(type(event))
        if allowed is None:
            raise IllegalTransitionError("settlement", self.state.name, type(event).__name__)
        state, effects = self._react(event)
        assert state in allowed, f"{self.state.name} → {state.name} is not in the table"
        self.state = state
        return effects

    def _react(self, event: SettlementEvent) -> tuple[State, tuple[SettlementEffect, ...]]:
        if self.state in {State.RESOLVED, State.LEFT}:
            return self.state, _UNCHANGED if isinstance(event, ResponseChunk) else ()
        match event:
            case ResponseHead():
                return self._on_head(event)
            case ResponseChunk():
                return self._on_chunk(event)
            case ExtendAnswered():
                return self._on_extend_answered(event)
            case StreamEnded():
                return self._on_cut(event)
            case EndRecord():
                resolution = charging.by_record(self.ticket, event, self._learned)
                missing = self.ticket.native and resolution.basis is Basis.ESTIMATED and not event.is_cut
                return State.RESOLVED, (Resolve(self.ticket, resolution, missing),)

    def _on_head(self, head: ResponseHead) -> tuple[State, tuple[SettlementEffect, ...]]:
        self._head = head
        dialect, ticket = registry.dialect(self.ticket.dialect), self.ticket
        if ticket.cut is not None and not ticket.store_failed and head.status < _ERROR:
            self._ending_meter = dialect.ending_meter(
                content_type=head.content_type,
                content_encoding=head.content_encoding,
                hide_usage=ticket.hide_usage,
            )
        self._meter = self._ending_meter or dialect.meter(
            content_type=head.content_type,
            content_encoding=head.content_encoding,
            hide_usage=ticket.hide_usage,
        )
        if head.has_body:
            return State.READING, ()
        return State.RESOLVED, (Resolve(self.ticket, self._charged(head, Reading(), head.now_us, cut=False)),)

    def _on_chunk(self, chunk: ResponseChunk) -> tuple[State, tuple[SettlementEffect, ...]]:
        assert self._meter is not None, "a body follows a head"
        assert self._head is not None, "a body follows a head"
        shown = self._meter.feed(chunk.body, end=chunk.end)
        passed = _UNCHANGED if shown is chunk.body else (PassChunk(shown),)
        if not chunk.end:
            if (more := self._more()) is not None:
                return State.EXTENDING, (*passed, more)
            return State.READING, passed
        reading = self._meter.reading()
        resolution = self._charged(self._head, reading, chunk.now_us, cut=False)
        told = reading.output_known or (reading.usage is not None and reading.usage.output_tokens)
        missing = not told and resolution.basis is Basis.ESTIMATED
        return State.RESOLVED, (*passed, Resolve(self.ticket, resolution, missing))

    def _more(self) -> Extend | None:
        """What is to be asked of the ledger now that so much has passed; None where it is within what is held."""
        meter, cut = self._ending_meter, self.ticket.cut
        if meter is None or cut is None or not meter.is_between_events:
            return None
        reading = meter.reading()
        counted = charging.counted_output(reading, self._learned)
        if counted <= self._asked_beyond or reading.finished:
            return None
        cost_milli = self.ticket.price.dearest_output_rate(self.ticket.input_tokens)
        return Extend(self.ticket.hold_id, counted + STEP_TOKENS, cost_milli, cut, self.ticket.realms)

    def _on_extend_answered(self, answered: ExtendAnswered) -> tuple[State, tuple[SettlementEffect, ...]]:
        """Go on as far as the hold carries. Where nothing is known of the account, or of the hold, the answer that was
        begun goes on.
        """
        assert self._ending_meter is not None, "an extension was asked for"
        assert self._head is not None, "a head came before"
        assert self.ticket.cut is not None, "an extension was asked for"
        meter, reply = self._ending_meter, answered.reply
        reading = meter.reading()
        counted = charging.counted_output(reading, self._learned)
        if reply.code not in _CARRIES:
            self._asked_beyond = counted + STEP_TOKENS
            return State.READING, ()
        self._asked_beyond = max(reply.output, self._asked_beyond)
        if counted <= reply.output or not answered.rules:
            return State.READING, ()
        usage = reading.usage
        ending = meter.ending(
            choices=self.ticket.cut.choices,
            input_tokens=self.ticket.input_tokens if usage is None else usage.input_tokens,
            output_tokens=counted,
        )
        if ending is None:
            self._asked_beyond = counted + STEP_TOKENS
            return State.READING, ()
        resolution = self._charged(self._head, reading, answered.now_us, cut=True, cut_by=answered.rules)
        return State.RESOLVED, (
            EndStream(comment(answered.rules) + ending, answered.rules),
            Resolve(self.ticket, resolution),
        )

    def _on_cut(self, ended: StreamEnded) -> tuple[State, tuple[SettlementEffect, ...]]:
        """Somebody cut the stream. Who did it, only the end record knows: it matters while no output has passed."""
        if self._meter is None or self._head is None:
            return State.LEFT, ()
        reading = self._meter.reading()
        if reading.usage is None and reading.output_bytes == 0:
            return State.LEFT, ()
        return State.RESOLVED, (Resolve(self.ticket, self._charged(self._head, reading, ended.now_us, cut=True)),)

    def _charged(
        self, head: ResponseHead, reading: Reading, now_us: int, *, cut: bool, cut_by: tuple[str, ...] = ()
    ) -> Resolution:
        return charging.by_reading(self.ticket, head, reading, now_us, cut=cut, cut_by=cut_by, learned=self._learned)
