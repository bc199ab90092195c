"""The log role: Envoy's access log records, the universal end of every request.

A record renews the lease of a running request, or ends it. Where Envoy's own parsers read the answer, the record has
its usage and settles at once. Elsewhere meter settles first where it can, and what is still open two seconds after the
end is settled from the record. An end without a ticket (admission died or was cancelled) leaves a
tombstone, so that a hold that arrives later is never granted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Final

from ext_proc.batches.settlement import BatchSettlement
from ext_proc.batches.ticket import FIELD as BATCH_FIELD
from ext_proc.batches.ticket import BatchTicket
from ext_proc.exchange.effects import Resolve
from ext_proc.exchange.events import EndRecord
from ext_proc.exchange.settlement import Settlement, settles_at_once
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger.interface import Basis, Charge, Resolution
from ext_proc.server import messages
from ext_proc.server.state import Worker
from ext_proc.server.streams import LogStream, next_message
from ext_proc.wire import access_log_pb2 as log_pb
from ext_proc.wire import access_log_service_pb2 as service_pb

_LOG = logging.getLogger(__name__)

GRACE_SECONDS: Final = 2.0
"""How long after the end meter is given to settle first: it has read the body, the record only counted its bytes."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A request that ended, and when to settle it from its record; times are the event loop's seconds."""

    due_at: float
    ticket: Ticket
    record: EndRecord
    ended_at: float


class AccessLog:
    """Serves the access log service of one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._pending: deque[_Pending] = deque()
        self._wake: asyncio.TimerHandle | None = None

    async def serve(self, stream: LogStream) -> service_pb.StreamAccessLogsResponse:
        """Take records for as long as Envoy sends them: one long-lived stream per Envoy worker thread."""
        while (message := await next_message(stream)) is not None:
            running: list[str] = []
            for entry in message.http_logs.log_entry:
                try:
                    self._take(entry, running)
                except Exception:  # noqa: BLE001  one bad record must not lose the rest of the stream
                    _LOG.exception("an access log record could not be read")
                    self._worker.metrics.protocol_error("log_record")
            if running:
                self._worker.settler.renew(running)
        return service_pb.StreamAccessLogsResponse()

    def flush(self) -> None:
        """Settle what waits, now: the worker is draining."""
        while self._pending:
            waiting = self._pending.popleft()
            self._settle(waiting.ticket, waiting.record)

    def _take(self, entry: log_pb.HTTPAccessLogEntry, running: list[str]) -> None:
        metadata = entry.common_properties.metadata
        hold_id = messages.metadata_field(metadata, "id")
        if not hold_id:
            return
        if entry.common_properties.access_log_type == log_pb.DownstreamPeriodic:
            running.append(hold_id)
        elif entry.common_properties.access_log_type == log_pb.DownstreamEnd:
            self._end(entry, hold_id, messages.metadata_field(metadata, "ticket"))

    def _end(self, entry: log_pb.HTTPAccessLogEntry, hold_id: str, ticket_text: str) -> None:
        if batch := messages.metadata_field(entry.common_properties.metadata, BATCH_FIELD):
            self._end_batch(entry, BatchTicket.decode(batch))
            return
        if not ticket_text:
            if entry.response.response_code_details != messages.REFUSED_DETAILS:
                self._worker.settler.release(Resolution(hold_id, Charge(), Basis.RELEASED))
            return
        ticket, record = Ticket.decode(ticket_text), messages.end_record(entry)
        self._count(ticket, record)
        if entry.response.response_code_details != messages.REFUSED_DETAILS:
            self._worker.targets.ended(ticket, record)
        if self._worker.settler.knows(hold_id):
            return
        if settles_at_once(ticket, record):
            self._settle(ticket, record)
        else:
            self._wait(ticket, record, asyncio.get_running_loop().time())

    def _end_batch(self, entry: log_pb.HTTPAccessLogEntry, call: BatchTicket) -> None:
        """A batch was handed in. Its hold stays where it may run."""
        record, ticket = messages.end_record(entry), call.ticket
        if ticket is None:
            return
        self._count(ticket, record)
        if self._worker.settler.knows(ticket.hold_id):
            return
        for effect in BatchSettlement(call).receive(record):
            if isinstance(effect, Resolve):
                self._worker.settler.settle(effect)

    def _wait(self, ticket: Ticket, record: EndRecord, ended_at: float) -> None:
        loop = asyncio.get_running_loop()
        self._pending.append(_Pending(loop.time() + GRACE_SECONDS, ticket, record, ended_at))
        if self._wake is None:
            self._wake = loop.call_later(GRACE_SECONDS, self._settle_due)

    def _settle_due(self) -> None:
        loop = asyncio.get_running_loop()
        self._wake = None
        while self._pending and self._pending[0].due_at <= loop.time():
            waiting = self._pending.popleft()
            ticket, record, ended_at = waiting.ticket, waiting.record, waiting.ended_at
            if ticket.store_failed and not self._worker.outage.is_over_for(ended_at):
                self._wait(ticket, record, ended_at)  # what another worker's meter read is still on its way to Redis
            else:
                self._settle(ticket, record)
        if self._pending:
            self._wake = loop.call_at(self._pending[0].due_at, self._settle_due)

    def _settle(self, ticket: Ticket, record: EndRecord) -> None:
        if self._worker.settler.knows(ticket.hold_id):
            return
        for effect in Settlement(ticket, self._worker.learned(ticket.target)).receive(record):
            assert isinstance(effect, Resolve), "a record resolves"
            self._worker.settler.settle(effect)

    def _count(self, ticket: Ticket, record: EndRecord) -> None:
        self._worker.metrics.request_ended(
            verdict=ticket.verdict,
            status=record.status,
            model=ticket.target,
            operation=ticket.operation,
            duration_seconds=record.duration_us / 1_000_000,
            ttft_seconds=None if record.first_byte_us is None else record.first_byte_us / 1_000_000,
        )
