"""The admission machine: from the request's head to the moment it is forwarded or refused.

Two rules. Everything that decides what happens to a request before it is forwarded lives here or in what this file
calls; nothing here knows of gRPC, Redis, clocks or randomness. And the table below is the whole truth about order: an
event that a state does not list is an error, and nothing has changed.

A call of a batch API (`exchange.batch_proposal`) may need what is remembered of an earlier one: RECALLING.

The life of a request: its head is acknowledged with the hold id, so that every later record of Envoy's can be matched
(AWAIT_HEAD → AWAIT_BODY). On the body the request is judged, and either refused at once or its hold is asked for
(→ HOLDING). The ledger's answer forwards or refuses it. A client that leaves while the ledger is being asked turns
HOLDING into ABANDONED: the hold that is then granted is given back, because the request was never sent. Once Forward
was emitted, the hold is settlement's: whether Envoy got the answer, only the end record can tell.

docs/architecture.md draws this table; `tests/unit/test_exchange_docs.py` keeps the two in step.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto

from ext_proc.dialects import registry
from ext_proc.dialects.interface import Dialect
from ext_proc.exchange import answers
from ext_proc.exchange.batch_proposal import Incoming, Recalling, begin, call_of, go_on
from ext_proc.exchange.content import NO_WISH, LoggedRequest, wish_of
from ext_proc.exchange.effects import (
    AcknowledgeHead,
    AdmissionEffect,
    AskHold,
    AskScore,
    GiveBack,
    Observation,
    Observe,
    PassUnmetered,
    Recall,
)
from ext_proc.exchange.errors import IllegalTransitionError
from ext_proc.exchange.events import (
    AdmissionEvent,
    HoldAnswered,
    Recalled,
    RequestBody,
    RequestHead,
    ScoreAnswered,
    StreamEnded,
)
from ext_proc.exchange.ledger_refusals import ledger_refusal, store_refusal
from ext_proc.exchange.proposal import Proposal, Unmetered, propose
from ext_proc.exchange.saving import ScoreWanted
from ext_proc.exchange.terms import Terms
from ext_proc.ledger.interface import GRANTED, MAY_BE_HELD, Basis, Charge, Code, HoldReply, Resolution
from ext_proc.refusal import Refusal
from ext_proc.routing.savings import Scored


class State(Enum):
    """Where admission stands. The last four are final."""

    __hash__ = object.__hash__  # members are singletons; Enum hashes their names, in Python

    AWAIT_HEAD = auto()
    AWAIT_BODY = auto()
    SCORING = auto()
    RECALLING = auto()
    HOLDING = auto()
    ABANDONED = auto()
    FORWARDED = auto()
    UNMETERED = auto()
    REFUSED = auto()
    GONE = auto()


TRANSITIONS: dict[State, dict[type[AdmissionEvent], frozenset[State]]] = {
    State.AWAIT_HEAD: {
        RequestHead: frozenset({State.AWAIT_BODY, State.RECALLING, State.REFUSED, State.UNMETERED}),
        StreamEnded: frozenset({State.GONE}),
    },
    State.AWAIT_BODY: {
        RequestBody: frozenset(
            {State.RECALLING, State.SCORING, State.HOLDING, State.REFUSED, State.UNMETERED},
        ),
        StreamEnded: frozenset({State.GONE}),
    },
    State.RECALLING: {
        Recalled: frozenset({State.HOLDING, State.REFUSED, State.UNMETERED}),
        StreamEnded: frozenset({State.GONE}),
    },
    State.SCORING: {
        ScoreAnswered: frozenset({State.HOLDING, State.REFUSED}),
        StreamEnded: frozenset({State.GONE}),
    },
    State.HOLDING: {
        HoldAnswered: frozenset({State.FORWARDED, State.REFUSED}),
        StreamEnded: frozenset({State.ABANDONED}),
    },
    State.ABANDONED: {HoldAnswered: frozenset({State.GONE}), StreamEnded: frozenset({State.ABANDONED})},
    State.FORWARDED: {StreamEnded: frozenset({State.FORWARDED})},
    State.UNMETERED: {StreamEnded: frozenset({State.UNMETERED})},
    State.REFUSED: {StreamEnded: frozenset({State.REFUSED})},
    State.GONE: {StreamEnded: frozenset({State.GONE})},
}

LARGE_BODY_BYTES = 1 << 16

PARTIAL_HEADERS = ("range", "if-range", "if-none-match", "if-modified-since")
"""What would make a provider answer with a part of what is asked for, or with none of it."""


class Admission:
    """One request's admission."""

    def __init__(self, terms: Terms, hold_id: str, request_id: str) -> None:
        self.state = State.AWAIT_HEAD
        self.hold_id = hold_id
        self.request_id = request_id
        self.terms = terms
        self._head: RequestHead | None = None
        self._body = b""  # kept while a scorer is asked
        self._wanted: ScoreWanted | None = None
        self._proposal: Proposal | None = None
        self._asking: Recalling | None = None
        self._wish = NO_WISH
        self._logged: LoggedRequest | None = None

    @property
    def dialect(self) -> Dialect:
        """Whose error shape the caller understands: known once the head was seen."""
        assert self._head is not None, "no head yet"
        return registry.dialect_for_path(self._head.path)

    @property
    def has_body(self) -> bool:
        """Whether the answer goes to a request body, or to the headers of a request without one."""
        return self._head is not None and self._head.has_body

    @property
    def owns_hold(self) -> bool:
        """Whether a hold may stand that nobody else will resolve: it was asked for, and the request not forwarded."""
        return self.state in {State.HOLDING, State.ABANDONED}

    def takes_long(self, event: AdmissionEvent) -> bool:
        """Whether the event is the body of a batch: thousands of requests, read beside the event loop."""
        is_large = isinstance(event, RequestBody) and len(event.body) > LARGE_BODY_BYTES
        return is_large and self._head is not None and call_of(self._head, self.terms) is not None

    def age_us(self, now_us: int) -> int:
        """How long ago the head came."""
        return 0 if self._head is None else max(0, now_us - self._head.now_us)

    def receive(self, event: AdmissionEvent) -> tuple[AdmissionEffect, ...]:
        """Take one event; return what is to be done. Raises IllegalTransitionError, and then nothing has changed."""
        allowed = TRANSITIONS[self.state].get(type(event))
        if allowed is None:
            raise IllegalTransitionError("admission", self.state.name, type(event).__name__)
        state, effects = self._react(event)
        assert state in allowed, f"{self.state.name} → {state.name} is not in the table"
        self.state = state
        return effects

    def _react(self, event: AdmissionEvent) -> tuple[State, tuple[AdmissionEffect, ...]]:
        match event:
            case RequestHead():
                return self._on_head(event)
            case RequestBody():
                return self._judge(event.body)
            case ScoreAnswered():
                assert self._wanted is not None, "a score was wanted"
                return self._judge(self._body, Scored(self._wanted.rule_id, event.score))
            case Recalled():
                return self._on_recalled(event)
            case HoldAnswered():
                return self._on_hold(event.reply)
            case StreamEnded():
                if self.state is State.HOLDING:
                    return State.ABANDONED, ()
                nothing_yet = self.state in {
                    *(State.AWAIT_HEAD, State.AWAIT_BODY),
                    *(State.RECALLING, State.SCORING),
                }
                return State.GONE if nothing_yet else self.state, ()

    def _on_head(self, head: RequestHead) -> tuple[State, tuple[AdmissionEffect, ...]]:
        self._head = head
        if not head.has_body:
            return self._judge(b"")
        if registry.resolve(head.method, head.path) is None and call_of(head, self.terms) is None:
            # Nothing in a body can save a path that is not understood; a CONNECT would never send one.
            state, effects = self._judge(b"")
            if state is State.REFUSED:
                return state, effects
        return State.AWAIT_BODY, (AcknowledgeHead(self.hold_id),)

    def _judge(self, body: bytes, scored: Scored | None = None) -> tuple[State, tuple[AdmissionEffect, ...]]:
        assert self._head is not None, "a body follows a head"
        call = call_of(self._head, self.terms)
        if call is None:
            outcome = propose(self._head, body, self.terms, self.hold_id, self.request_id, scored)
            if isinstance(outcome, ScoreWanted):
                self._body, self._wanted = body, outcome
                return State.SCORING, (AskScore(outcome),)
            self._body = b""
            if isinstance(outcome, Proposal):
                self._hear_wish(self._head, body, outcome)
            return self._on_outcome(self._head, outcome)
        begun = begin(Incoming(call, self._head, self.terms, self.hold_id, self.request_id), body)
        if isinstance(begun, Recalling):
            self._asking = begun
            return State.RECALLING, (Recall(begun.key),)
        return self._on_outcome(self._head, begun)

    def _on_recalled(self, recalled: Recalled) -> tuple[State, tuple[AdmissionEffect, ...]]:
        assert self._head is not None, "a head was seen"
        assert self._asking is not None, "something was asked"
        outcome = go_on(self._asking, recalled)
        return self._on_outcome(self._head, outcome)

    def _on_outcome(
        self, head: RequestHead, outcome: Proposal | Unmetered | Refusal
    ) -> tuple[State, tuple[AdmissionEffect, ...]]:
        observed = self._observe_head(head)
        match outcome:
            case Refusal():
                return State.REFUSED, (*observed, self._refuse(outcome))
            case Unmetered():
                metadata_header = self.terms.snapshot.settings.metadata_header
                account = self.terms.accounts[outcome.account]
                removed = answers.headers_to_remove(head, metadata_header, client_credential=account.client_credential)
                batch = None
                if outcome.batch is not None:  # its answer is read: whole, and as it is
                    batch, removed = outcome.batch.encode(), (*removed, *PARTIAL_HEADERS)
                return State.UNMETERED, (*observed, PassUnmetered(outcome.account, outcome.path, removed, batch))
            case Proposal():
                self._proposal = outcome
                return State.HOLDING, (
                    *observed,
                    *_observe_proposal(outcome),
                    AskHold(outcome.hold, outcome.on_store_failure),
                )

    def _on_hold(self, reply: HoldReply) -> tuple[State, tuple[AdmissionEffect, ...]]:
        assert self._proposal is not None, "a hold was asked for"
        assert self._head is not None, "a hold follows a head"
        if self.state is State.ABANDONED:
            return State.GONE, (self._give_back(reply),) if reply.code in MAY_BE_HELD else ()
        settings = self.terms.snapshot.settings
        if reply.code in GRANTED:
            native = self.terms.native
            forward = answers.forward(
                self._proposal, reply, self._head, settings, self.request_id, native=native, wish=self._wish
            )
            if self._logged is not None:
                forward = replace(forward, logged=self._logged)
            refusing = (Observe(Observation.AUDITED, rule) for rule in forward.ticket.would_refuse)
            swapping = (Observe(Observation.AUDITED_SWAP, rule) for rule in forward.ticket.would_downgrade)
            swapped = (Observe(Observation.DOWNGRADED, forward.swapped_by),) if forward.swapped_by else ()
            return State.FORWARDED, (*refusing, *swapping, *swapped, forward)
        if reply.code is Code.REFUSED:
            now_us = reply.stamp.redis_us if reply.stamp else self._head.now_us
            refusal = ledger_refusal(reply, answers.asked(self._proposal, reply), settings, now_us)
            return State.REFUSED, (self._refuse(refusal),)
        give_back = (self._give_back(reply),) if reply.code in MAY_BE_HELD else ()
        return State.REFUSED, (*give_back, self._refuse(store_refusal()))

    def _hear_wish(self, head: RequestHead, body: bytes, proposal: Proposal) -> None:
        """Keep what the content log gets of the request, where it wants to be logged and may be."""
        logging = self.terms.snapshot.settings.content_log
        self._wish = wish_of(head, proposal.caller, logging)
        if self._wish.granted and logging is not None:
            model, max_bytes = proposal.facts.model, logging.max_body_bytes
            self._logged = LoggedRequest.of(self.request_id, head, proposal.caller, model, body, max_bytes)

    def _refuse(self, refusal: Refusal) -> AdmissionEffect:
        return answers.refuse(refusal, self.dialect, self.terms.snapshot.settings, self.request_id)

    def _give_back(self, reply: HoldReply) -> GiveBack:
        return GiveBack(Resolution(self.hold_id, Charge(), Basis.RELEASED, realms=reply.realms))

    def _observe_head(self, head: RequestHead) -> tuple[Observe, ...]:
        names = answers.ignored_headers(head, self.terms.snapshot.settings.metadata_header)
        return tuple(Observe(Observation.IGNORED_HEADER, name) for name in names)


def _observe_proposal(proposal: Proposal) -> tuple[Observe, ...]:
    observed: list[Observe] = []
    for candidate in proposal.candidates:
        if candidate.target.unpriced:
            observed.append(Observe(Observation.UNPRICED, candidate.target.name))
        observed += [
            Observe(Observation.MISSING_KEY, rule.account.rule_id)
            for rule in candidate.rules
            if any(value is None for _, value in rule.account.bucket)
        ]
    return tuple(observed)
