"""The meter role: reads one response and settles it, without ever standing in its way.

Fail open in both directions: Envoy goes on without us, and whatever goes wrong here lets the response pass unchanged
and leaves the charge to the end record.
"""

from __future__ import annotations

import logging

from ext_proc.exchange.effects import PassChunk, Resolve, SettlementEffect
from ext_proc.exchange.events import ResponseChunk, SettlementEvent, StreamEnded
from ext_proc.exchange.settlement import Settlement
from ext_proc.exchange.ticket import Ticket
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
                await stream.write(observer.answer(message))
        finally:
            # The end of the stream may come as a half-close or as a cancellation; neither says why.
            observer.end()


class _Observer:
    """One response as this worker sees it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._settlement: Settlement | None = None

    def answer(self, message: pb.ProcessingRequest) -> bytes:
        """The one answer Envoy expects to each message."""
        match message.WhichOneof("request"):
            case "response_body":
                return self._on_body(message.response_body)
            case "response_headers":
                return self._on_headers(message)
            case "response_trailers":
                self._receive(ResponseChunk(b"", end=True, now_us=self._worker.now_us()))
                return messages.CONTINUE_RESPONSE_TRAILERS
            case other:
                self._worker.metrics.protocol_error("meter_message")
                raise ValueError(f"meter takes responses only, not {other}")

    def end(self) -> None:
        """The stream is over."""
        self._receive(StreamEnded(self._worker.now_us()))

    def _on_headers(self, message: pb.ProcessingRequest) -> bytes:
        text = messages.metadata_field(message.metadata_context, "ticket")
        try:
            ticket = Ticket.decode(text)
        except ValueError:
            self._worker.metrics.protocol_error("meter_without_ticket")
        else:
            self._settlement = Settlement(ticket, self._worker.learned(ticket.target))
            self._receive(messages.response_head(message.response_headers, self._worker.now_us()))
        return messages.CONTINUE_RESPONSE_HEADERS

    def _on_body(self, body: pb.HttpBody) -> bytes:
        effects = self._receive(ResponseChunk(body.body, body.end_of_stream, self._worker.now_us()))
        for effect in effects:
            if isinstance(effect, PassChunk) and effect.replacement is not None:
                return messages.replace_chunk(effect.replacement)
        return messages.CONTINUE_RESPONSE_BODY

    def _receive(self, event: SettlementEvent) -> tuple[SettlementEffect, ...]:
        """Feed the machine. A fault of ours stops the metering of this response, never the response."""
        if self._settlement is None:
            return ()
        try:
            effects = self._settlement.receive(event)
        except Exception:  # noqa: BLE001  whatever it is, the answer that was paid for reaches the client
            _LOG.exception("metering of %s failed", self._settlement.ticket.hold_id)
            self._worker.metrics.protocol_error("meter_failure")
            self._settlement = None
            return ()
        for effect in effects:
            if isinstance(effect, Resolve):
                self._worker.settler.settle(effect)
        return effects
