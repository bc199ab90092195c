"""The meter role: reads one response and settles it, without ever standing in its way.

Fail open in both directions: Envoy goes on without us, and whatever goes wrong here lets the response pass unchanged
and leaves the charge to the end record. A stream that may be cut is the exception: its body is handed over to us.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from ext_proc.batches.settlement import BatchSettlement
from ext_proc.batches.ticket import FIELD as BATCH_FIELD
from ext_proc.batches.ticket import BatchTicket
from ext_proc.exchange.content import AnswerCopy
from ext_proc.exchange.effects import EndStream, Extend, PassChunk, Remember, Resolve, SettlementEffect
from ext_proc.exchange.events import ExtendAnswered, ResponseChunk, ResponseHead, SettlementEvent, StreamEnded
from ext_proc.exchange.settlement import Settlement
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger.interface import Extension
from ext_proc.server import messages
from ext_proc.server.state import Worker
from ext_proc.server.streams import Stream, next_message
from ext_proc.wire import external_processor_pb2 as pb

_LOG = logging.getLogger(__name__)


class Meter:
    """Serves the meter role."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def serve(self, stream: Stream) -> None:
        """One response, from its head to its end, however that looks."""
        observer = _Observer(self._worker)
        try:
            while (message := await next_message(stream)) is not None:
                answers = await observer.answers(message)
                await observer.remembered()
                for answer in answers:
                    await stream.write(answer)
        finally:
            # The end of the stream may come as a half-close or as a cancellation; neither says why.
            observer.end()


class _Observer:
    """One response as this worker sees it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._settlement: Settlement | BatchSettlement | None = None
        self._handed_over = False  # the body is ours to pass on
        self._ended = False  # we have ended it
        self._to_remember: list[Remember] = []
        self._copy: AnswerCopy | None = None  # for the content log

    async def answers(self, message: pb.ProcessingRequest) -> tuple[bytes, ...]:
        """What Envoy expects to each message: one answer, or any number where the body was handed over."""
        match message.WhichOneof("request"):
            case "response_body" if self._handed_over:
                return await self._on_own_body(message.response_body)
            case "response_body":
                return (self._on_body(message.response_body),)
            case "response_headers":
                return (self._on_headers(message),)
            case "response_trailers":
                return self._on_trailers()
            case other:
                self._worker.metrics.protocol_error("meter_message")
                raise ValueError(f"meter takes responses only, not {other}")

    async def remembered(self) -> None:
        """What the answer makes known is remembered before its end reaches the client, who may ask about it at once."""
        while self._to_remember:
            await self._worker.memory.remember(self._to_remember.pop(0))

    def end(self) -> None:
        """The stream is over."""
        self._receive(StreamEnded(self._worker.now_us()))
        self._log_content()

    def _on_headers(self, message: pb.ProcessingRequest) -> bytes:
        if messages.is_envoys_own(message):
            # What the provider has done meanwhile, the end record tells: nothing is to be given back for this answer.
            return messages.CONTINUE_RESPONSE_HEADERS
        batch = messages.metadata_field(message.metadata_context, BATCH_FIELD)
        text = messages.metadata_field(message.metadata_context, "ticket")
        try:
            self._settlement = self._settlement_of(batch, text)
        except ValueError:
            self._worker.metrics.protocol_error("meter_without_ticket")
        else:
            head = messages.response_head(message.response_headers, self._worker.now_us())
            self._receive(head)
            self._copy = self._copy_of(head)
        self._handed_over = self._settlement is not None and self._settlement.may_end_stream
        return messages.END_HERE_RESPONSE_HEADERS if self._handed_over else messages.CONTINUE_RESPONSE_HEADERS

    def _settlement_of(self, batch: str, text: str) -> Settlement | BatchSettlement:
        if batch:
            return BatchSettlement(BatchTicket.decode(batch))
        ticket = Ticket.decode(text)
        return Settlement(ticket, self._worker.learned(ticket.target))

    def _copy_of(self, head: ResponseHead) -> AnswerCopy | None:
        """A copy for the content log, if the answer is to be logged and the policy in force now still allows any."""
        under = self._worker.terms.snapshot.settings.content_log
        if not isinstance(self._settlement, Settlement) or under is None:
            return None
        ticket = self._settlement.ticket
        return AnswerCopy(ticket, head, under) if ticket.logged_as else None

    def _on_body(self, body: pb.HttpBody) -> bytes:
        shown = _shown(self._take(body), body.body)
        return messages.CONTINUE_RESPONSE_BODY if shown is body.body else messages.replace_chunk(shown)

    async def _on_own_body(self, body: pb.HttpBody) -> tuple[bytes, ...]:
        """Pass the chunk on; where the ledger has no room for what comes after it, with the end of the stream."""
        if self._ended:
            return ()
        effects = self._take(body)
        shown, end = _shown(effects, body.body), body.end_of_stream
        for extend in effects:
            if isinstance(extend, Extend) and (ending := await self._extend(extend)) is not None:
                shown, end = shown + ending, True
        self._ended = end
        return (messages.pass_on(shown, end=end),) if shown or end else ()

    def _on_trailers(self) -> tuple[bytes, ...]:
        effects = self._take(pb.HttpBody(end_of_stream=True))
        rest = _shown(effects, b"")
        own = (messages.pass_on(rest, end=False),) if rest and self._handed_over else ()
        return (*own, messages.CONTINUE_RESPONSE_TRAILERS)

    async def _extend(self, extend: Extend) -> bytes | None:
        """Ask whether the stream may go on; its end, where it may not."""
        worker = self._worker
        asked = worker.terms.snapshot.rules.cutting(extend.cut.rules, extend.cut.plan)
        started = time.perf_counter()
        extension = Extension(extend.hold_id, extend.output, extend.cost_milli, asked, extend.realms)
        reply = await worker.ledger.extend(extension)
        seconds = time.perf_counter() - started
        worker.metrics.ledger_call(operation="extend", code=reply.code.value, seconds=seconds)
        rules = tuple(dict.fromkeys(account.expanded_id for account in asked))
        for effect in self._receive(ExtendAnswered(reply, rules, worker.now_us())):
            if isinstance(effect, EndStream):
                for account in asked:
                    worker.metrics.stream_cut(account.rule_id)
                return effect.ending
        return None

    def _log_content(self) -> None:
        """Hand the copy of the answer over, once."""
        copy, self._copy = self._copy, None
        if copy is not None:
            secrets = self._worker.secrets(copy.target, self._worker.terms_of(copy.target))
            self._worker.content_log.answer(copy, self._worker.now_us(), secrets)

    def _take(self, body: pb.HttpBody) -> tuple[SettlementEffect, ...]:
        if self._copy is not None:
            self._copy.add(body.body, end=body.end_of_stream)
            if body.end_of_stream:
                self._log_content()
        return self._receive(ResponseChunk(body.body, body.end_of_stream, self._worker.now_us()))

    def _receive(self, event: SettlementEvent) -> tuple[SettlementEffect, ...]:
        """Feed the machine. A fault of ours stops the metering of this response, never the response."""
        if self._settlement is None:
            return ()
        try:
            effects = self._settlement.receive(event)
        except Exception:  # noqa: BLE001  whatever it is, the answer that was paid for reaches the client
            _LOG.exception("metering of %s failed", self._settlement.hold_id)
            self._worker.metrics.protocol_error("meter_failure")
            self._settlement = None
            return ()
        for effect in effects:
            if isinstance(effect, Resolve):
                self._worker.settler.settle(effect)
            elif isinstance(effect, Remember):
                self._to_remember.append(effect)
        return effects


def _shown(effects: Iterable[SettlementEffect], body: bytes) -> bytes:
    """What the client gets in the place of this chunk; the same object where nothing is to change."""
    for effect in effects:
        if isinstance(effect, PassChunk) and effect.replacement is not None:
            return effect.replacement
    return body
