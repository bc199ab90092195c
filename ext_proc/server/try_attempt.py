"""The try role: one short ext_proc stream per attempt of a request that several targets may serve.

It runs in Envoy's upstream filter chain, so once per attempt, and fails closed: an attempt that is not rewritten would
carry another provider's name and key. It returns right after its answer, so that nothing of an answer in flight depends
on it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Final

import grpc

from ext_proc.exchange.attempts import Attempt, GiveUp, Held, Send, ask, first
from ext_proc.exchange.chain import CHAIN_NAMESPACE, TRIED_NAMESPACE, Chain
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger.interface import HoldReply
from ext_proc.routing.virtual_models import RETRY_DELAY_MAX_MS
from ext_proc.server import messages
from ext_proc.server.holding import ask_hold
from ext_proc.server.state import Worker
from ext_proc.server.streams import Stream, end_with_error, next_message

_LOG = logging.getLogger(__name__)

_ATTRIBUTES: Final = "envoy.filters.http.ext_proc"
_ATTEMPT_COUNT: Final = "upstream.request_attempt_count"


class TryAttempt:
    """Serves the try role."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def serve(self, stream: Stream) -> None:
        """One attempt, until it is sent or given up."""
        try:
            head = await next_message(stream)
            if head is None:
                return  # the client left before the attempt began
            chain = Chain.decode(messages.metadata_field(head.metadata_context, "chain", CHAIN_NAMESPACE))
            ticket = Ticket.decode(messages.metadata_field(head.metadata_context, "ticket"))
            number = round(head.attributes[_ATTRIBUTES].fields[_ATTEMPT_COUNT].number_value)
            await self._wait(chain, number)
            await stream.write(messages.CONTINUE_REQUEST_HEADERS)
            body = await next_message(stream)
            if body is None:
                return  # the client left, or the attempt's time is over: nobody waits for an answer
            tried = messages.metadata_field(head.metadata_context, "status", TRIED_NAMESPACE)
            attempt = Attempt(
                number=number,
                chain=chain,
                ticket=ticket,
                tried_status=int(tried or 0),
                body=body.request_body.body,
                now_us=self._worker.now_us(),
                set_before=self._set_before(chain, number),
            )
            await stream.write(await self._decide(attempt))
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception:  # noqa: BLE001  fail closed: whatever it is becomes an error status, never a return
            _LOG.exception("an attempt could not be made")
            self._worker.metrics.protocol_error("try_failure")
            await end_with_error(stream, grpc.StatusCode.INTERNAL, "the attempt could not be made")

    def _set_before(self, chain: Chain, number: int) -> tuple[str, ...]:
        models = self._worker.terms_of(chain.targets[number - 1]).virtual_models
        members = [models.member(chain.rule, target) for target in dict.fromkeys(chain.targets[: number - 1])]
        return tuple(name for member in members if member is not None for name in member.set_headers)

    async def _wait(self, chain: Chain, number: int) -> None:
        """A retry of the same target waits as its rule says."""
        if number < 2 or chain.targets[number - 1] != chain.targets[number - 2]:  # noqa: PLR2004  the second attempt
            return
        target = chain.targets[number - 1]
        member = self._worker.terms_of(target).virtual_models.member(chain.rule, target)
        if member is not None:
            await asyncio.sleep(min(member.retry_delay_ms, RETRY_DELAY_MAX_MS) / 1_000)

    async def _decide(self, attempt: Attempt) -> bytes:
        worker = self._worker
        terms = worker.terms_of(attempt.target)
        if attempt.number == 1:
            decided = first(attempt, terms)
        else:
            worker.targets.failed(attempt.ticket.target, attempt.tried_status)
            asked = ask(attempt, terms)
            decided = asked if isinstance(asked, GiveUp) else asked.answered(await self._hold(asked))
        if isinstance(decided, Send):
            account = terms.accounts[decided.account]
            return messages.send_attempt(decided, account, worker.credentials.headers(account), worker.settings.name)
        if decided.resolution is not None:
            worker.settler.release(decided.resolution)
        refusal = decided.refuse.refusal
        worker.metrics.refused(rule=refusal.rule_label, refusal_type=refusal.type.value)
        return messages.refuse(decided.refuse, json.dumps(decided.refuse.body, ensure_ascii=False).encode())

    async def _hold(self, asked: Held) -> HoldReply:
        """Ask for the hold. Where the client leaves meanwhile, or the attempt's time ends, it is given back."""
        call = asyncio.ensure_future(ask_hold(self._worker, asked.ask))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            call.add_done_callback(lambda done: self._give_back(asked, done.result()))
            raise

    def _give_back(self, asked: Held, reply: HoldReply) -> None:
        resolution = asked.abandoned(reply)
        if resolution is not None:
            self._worker.settler.release(resolution)
