"""Asking for a hold: of the ledger, and of the outage's rules where the ledger does not answer."""

from __future__ import annotations

import time

from ext_proc.exchange.effects import AskHold
from ext_proc.ledger.interface import Code, HoldReply
from ext_proc.server.state import Worker


async def ask_hold(worker: Worker, ask: AskHold) -> HoldReply:
    """The ledger's answer, timed; what was admitted without it has no stamp."""
    started = time.perf_counter()  # uvloop's own clock ticks in milliseconds
    reply = await worker.ledger.hold(ask.request)
    seconds = time.perf_counter() - started
    worker.metrics.ledger_call(operation="hold", code=reply.code.value, seconds=seconds)
    if reply.code is Code.UNAVAILABLE:
        return worker.outage.admit(ask.request, ask.on_store_failure) or reply
    return reply
