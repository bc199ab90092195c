"""The admit role: drives the admission machine over one short ext_proc stream per request.

A clean return tells Envoy "proceed unprocessed" in every failure mode, so this handler returns only after its final
answer; anything unexpected aborts the stream with an error, which Envoy (fail closed) turns into a 503.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Final

import grpc

from ext_proc.exchange.admission import Admission
from ext_proc.exchange.effects import (
    AcknowledgeHead,
    AdmissionEffect,
    AskHold,
    AskScore,
    Forward,
    GiveBack,
    Observation,
    Observe,
    PassUnmetered,
    Recall,
    Refuse,
)
from ext_proc.exchange.events import AdmissionEvent, HoldAnswered, RequestBody, ScoreAnswered, StreamEnded
from ext_proc.exchange.terms import Terms
from ext_proc.ledger.interface import Basis, Charge, HoldReply, Resolution
from ext_proc.server import messages
from ext_proc.server.holding import ask_hold
from ext_proc.server.state import Worker
from ext_proc.server.streams import Stream, end_with_error, next_message
from ext_proc.wire import external_processor_pb2 as pb

_LOG = logging.getLogger(__name__)

_FINAL: Final = (Forward, PassUnmetered, Refuse)


class Admit:
    """Serves the admit role."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._observers = {
            Observation.IGNORED_HEADER: worker.metrics.ignored_header,
            Observation.AUDITED: worker.metrics.would_refuse,
            Observation.AUDITED_SWAP: worker.metrics.would_downgrade,
            Observation.DOWNGRADED: worker.metrics.downgraded,
            Observation.MISSING_KEY: worker.metrics.missing_key,
            Observation.UNPRICED: worker.metrics.unpriced,
        }

    async def serve(self, stream: Stream) -> None:
        """One request, to its final answer."""
        worker = self._worker
        admission = Admission(worker.terms, worker.mint_hold_id(), worker.mint_request_id())
        try:
            while (message := await next_message(stream)) is not None:
                event = self._event(message)
                if admission.takes_long(event):
                    effects = await asyncio.to_thread(admission.receive, event)
                else:
                    effects = admission.receive(event)
                if await self._perform(admission, effects, stream):
                    return
            self._end(admission)
            await end_with_error(stream, grpc.StatusCode.ABORTED, "the request ended before it was admitted")
        except asyncio.CancelledError:
            self._end(admission)
            raise
        except grpc.aio.AbortError:
            raise
        except Exception:  # noqa: BLE001  fail closed: whatever it is becomes an error status, never a return
            _LOG.exception("admission of %s failed", admission.hold_id)
            worker.metrics.protocol_error("admit_failure")
            if admission.owns_hold:
                worker.settler.release(Resolution(admission.hold_id, Charge(), Basis.RELEASED))
            await end_with_error(stream, grpc.StatusCode.INTERNAL, "admission failed")

    def _event(self, message: pb.ProcessingRequest) -> AdmissionEvent:
        now_us = self._worker.now_us()
        match message.WhichOneof("request"):
            case "request_headers":
                return messages.request_head(message.request_headers, now_us, messages.claims(message.metadata_context))
            case "request_body":
                return RequestBody(message.request_body.body, now_us)
            case other:
                raise ValueError(f"admit takes request headers and bodies only, not {other}")

    async def _perform(self, admission: Admission, effects: tuple[AdmissionEffect, ...], stream: Stream) -> bool:
        """Do what the machine wants; True once the final answer was given."""
        for effect in effects:
            match effect:
                case Observe():
                    self._observers[effect.what](effect.label)
                case AcknowledgeHead():
                    await stream.write(messages.acknowledge_head(effect.hold_id, self._worker.settings.name))
                case AskScore():
                    score = await self._worker.scorers.score(effect.wanted)
                    return await self._perform(admission, admission.receive(ScoreAnswered(score)), stream)
                case Recall():
                    recalled = await self._worker.memory.recall(effect)
                    return await self._perform(admission, admission.receive(recalled), stream)
                case AskHold():
                    reply = await self._hold(admission, effect)
                    return await self._perform(admission, admission.receive(HoldAnswered(reply)), stream)
                case GiveBack():
                    self._worker.settler.release(effect.resolution)
                case Forward() | PassUnmetered() | Refuse():
                    try:
                        await stream.write(self._final_answer(admission, effect))
                    finally:  # Envoy may end the stream as soon as it has the answer, which cancels the writing
                        if isinstance(effect, Forward):
                            self._log_content(effect, admission.terms)
        return isinstance(effects[-1], _FINAL)

    async def _hold(self, admission: Admission, ask: AskHold) -> HoldReply:
        """Ask the ledger. A client that leaves meanwhile does not cancel the call: its answer is then given back."""
        call = asyncio.ensure_future(ask_hold(self._worker, ask))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            self._end(admission)
            call.add_done_callback(lambda done: self._abandoned(admission, done.result()))
            raise

    def _abandoned(self, admission: Admission, reply: HoldReply) -> None:
        for effect in admission.receive(HoldAnswered(reply)):
            assert isinstance(effect, GiveBack), "an abandoned admission only gives back"
            self._worker.settler.release(effect.resolution)

    def _end(self, admission: Admission) -> None:
        effects = admission.receive(StreamEnded(self._worker.now_us()))
        assert not effects, "the end of an admission stream asks for nothing: what is held waits for its answer"

    def _final_answer(self, admission: Admission, effect: Forward | PassUnmetered | Refuse) -> bytes:
        worker = self._worker
        match effect:
            case Forward():
                worker.learning.admitted(effect.ticket)
                credential = worker.credential(effect.account, admission.terms)
                return messages.forward(effect, credential, worker.settings.name)
            case PassUnmetered():
                credential = worker.credential(effect.account, admission.terms)
                return messages.pass_unmetered(effect, credential, has_body=admission.has_body)
            case Refuse():
                self._count_refusal(admission, effect)
                return messages.refuse(effect, json.dumps(effect.body, ensure_ascii=False).encode())

    def _log_content(self, effect: Forward, terms: Terms) -> None:
        """Where the request is to be logged; it is on its way by now."""
        under, target = terms.snapshot.settings.content_log, effect.ticket.target
        if effect.logged is not None and under is not None:
            self._worker.content_log.request(effect.logged, under, target, self._worker.secrets(target, terms))

    def _count_refusal(self, admission: Admission, effect: Refuse) -> None:
        refusal, worker = effect.refusal, self._worker
        worker.directory.note_refusal(refusal)
        worker.metrics.refused(rule=refusal.rule_label, refusal_type=refusal.type.value)
        worker.metrics.request_ended(
            verdict="refuse",
            status=refusal.status.value,
            model="",
            operation=admission.dialect.operation,
            duration_seconds=admission.age_us(worker.now_us()) / 1_000_000,
            ttft_seconds=None,
        )
