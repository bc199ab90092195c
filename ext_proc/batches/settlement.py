"""The answer to one call of a batch API: what it makes known, and the one resolution of a batch's hold.

The observer of such an answer, as `exchange.settlement` is of any other: it takes the same events and wants the same
effects done. A hold outlives the call that made it: it is resolved by whichever call shows first what the batch did,
on any worker, and by its lease where none does.

| call | answer | what follows |
|---|---|---|
| a file of requests | made | its summary is remembered by its id |
| a batch is made | made | its ticket is remembered by its id |
| | refused, or never sent | the hold is given back |
| | unknown (cut, no worker left) | nothing: the batch may run, and its lease charges it |
| status | ended, and nothing was answered | the hold is given back |
| | ended, with a file of results | that file's id is remembered as this batch's |
| results | whole | settled at their sum |
| | cut, partial, unreadable | nothing: they can be fetched again |
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import orjson

from ext_proc.batches.calls import Step, batch_key, file_key
from ext_proc.batches.results import Results, Status, read_status
from ext_proc.batches.ticket import BatchTicket
from ext_proc.dialects import registry
from ext_proc.exchange.charging import journal_detail
from ext_proc.exchange.effects import PassChunk, Remember, Resolve, SettlementEffect
from ext_proc.exchange.errors import IllegalTransitionError
from ext_proc.exchange.events import EndRecord, ResponseChunk, ResponseHead, SettlementEvent, StreamEnded
from ext_proc.exchange.settlement import State
from ext_proc.ledger.interface import Basis, Charge, Resolution
from ext_proc.pricing.usage import Usage

OBJECT_BYTES_MAX: Final = 1 << 20
"""Of a batch or file object: larger than any."""

_UNCHANGED: Final = (PassChunk(None),)
_IDENTITY: Final = frozenset({"", "identity"})


class BatchSettlement:
    """One observer's view of one call."""

    may_end_stream: Final = False

    def __init__(self, call: BatchTicket) -> None:
        self.state = State.OPEN
        self.call = call
        self._status = 0
        self._object = b""
        self._results: Results | None = None

    @property
    def hold_id(self) -> str:
        """The hold that is resolved, '' where there is none."""
        return "" if self.call.ticket is None else self.call.ticket.hold_id

    def receive(self, event: SettlementEvent) -> tuple[SettlementEffect, ...]:
        """Take one event; return what is to be done. Raises IllegalTransitionError, and then nothing has changed."""
        if self.state in {State.LEFT, State.RESOLVED}:
            return _UNCHANGED if isinstance(event, ResponseChunk) else ()
        match event:
            case ResponseHead() if self.state is State.OPEN:
                return self._on_head(event)
            case ResponseChunk() if self.state is State.READING:
                return self._on_chunk(event)
            case StreamEnded():
                self.state = State.LEFT
                return ()
            case EndRecord():
                return self._on_record(event)
            case _:
                raise IllegalTransitionError("batch settlement", self.state.name, type(event).__name__)

    def _on_head(self, head: ResponseHead) -> tuple[SettlementEffect, ...]:
        self._status = head.status
        refused = head.status >= HTTPStatus.BAD_REQUEST
        if refused and self.call.step is Step.CREATE:
            self.state = State.RESOLVED
            return (self._release(0, {"status": head.status}),)
        # Part of a file (206) or none of it (304) says nothing of what the whole costs.
        if head.status != HTTPStatus.OK or not head.has_body or head.content_encoding.lower() not in _IDENTITY:
            self.state = State.LEFT
            return ()
        self.state = State.READING
        if self.call.step is Step.RESULTS:
            self._results = self._adding_up()
        return ()

    def _on_chunk(self, chunk: ResponseChunk) -> tuple[SettlementEffect, ...]:
        if self._results is not None:
            self._results.feed(chunk.body, end=chunk.end)
        elif len(self._object) <= OBJECT_BYTES_MAX:
            self._object += chunk.body
        if not chunk.end:
            return _UNCHANGED
        effects = self._settled(self._results) if self._results is not None else self._known()
        self.state = State.RESOLVED if any(isinstance(effect, Resolve) for effect in effects) else State.LEFT
        return (*_UNCHANGED, *effects)

    def _on_record(self, record: EndRecord) -> tuple[SettlementEffect, ...]:
        """Nobody has read the answer. Only a batch that was refused, or never sent, is certainly none."""
        refused = record.answered and record.status >= HTTPStatus.BAD_REQUEST and not record.is_cut
        if self.call.step is Step.CREATE and (refused or not record.sent_upstream):
            self.state = State.RESOLVED
            return (self._release(0, {"status": record.status}),)
        self.state = State.LEFT
        return ()

    def _known(self) -> tuple[SettlementEffect, ...]:
        """What the object in the answer makes known."""
        call = self.call
        try:
            document = orjson.loads(self._object)
        except orjson.JSONDecodeError:
            return ()
        status = read_status(call.api, document) if isinstance(document, dict) else None
        if status is None:
            return ()
        match call.step:
            case Step.UPLOAD:
                return (Remember(file_key(call.account, status.id), call.encode()),)
            case Step.CREATE:
                return (Remember(batch_key(call.account, status.id), self._named(status.id).encode()),)
            case _:
                return self._ended(status) if status.ended and status.id == call.batch_id else ()

    def _ended(self, status: Status) -> tuple[SettlementEffect, ...]:
        if status.output_file is not None:
            return (Remember(file_key(self.call.account, status.output_file), self.call.encode()),)
        if status.succeeded == 0:
            return (self._release(self.call.requests, {"status": self._status}),)
        return ()

    def _named(self, batch_id: str) -> BatchTicket:
        call = self.call
        return BatchTicket(
            call.api, call.step, call.account, call.payer, ticket=call.ticket, batch_id=batch_id, requests=call.requests
        )

    def _adding_up(self) -> Results | None:
        ticket = self.call.ticket
        if ticket is None:
            return None
        mean = Usage(input_uncached=-(-ticket.input_tokens // max(1, self.call.requests)))
        return Results(self.call.api, registry.dialect(ticket.dialect), ticket.price, mean)

    def _settled(self, results: Results) -> tuple[SettlementEffect, ...]:
        if not results.readable:
            return ()
        requests = results.succeeded + results.failed
        counts = {"requests": self.call.requests, "succeeded": results.succeeded, "failed": results.failed}
        if not results.succeeded:
            return (self._release(requests, {"status": self._status, "batch_counts": counts}),)
        ticket, usage = self.call.ticket, results.usage
        assert ticket is not None, "results are read for a hold"
        known = not results.missing and not results.other_models
        detail = journal_detail(ticket, usage, self._ending({"status": self._status, "batch_counts": counts}))
        charge = Charge(results.charge_nanodollars, usage.input_tokens, usage.output_tokens, requests)
        basis = Basis.REPORTED if known else Basis.ESTIMATED
        return (
            Resolve(ticket, Resolution(ticket.hold_id, charge, basis, detail, ticket.realms), bool(results.missing)),
        )

    def _release(self, requests: int, ending: dict[str, object]) -> Resolve:
        ticket = self.call.ticket
        assert ticket is not None, "a batch has a hold"
        detail = journal_detail(ticket, Usage(), self._ending(ending))
        resolution = Resolution(ticket.hold_id, Charge(requests=requests), Basis.RELEASED, detail, ticket.realms)
        return Resolve(ticket, resolution)

    def _ending(self, ending: dict[str, object]) -> dict[str, object]:
        return {**ending, "ended": "complete", **({"batch": self.call.batch_id} if self.call.batch_id else {})}
