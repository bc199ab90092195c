"""The clients: requests at a steady rate on pooled connections, some of which are left before their answer ends."""

from __future__ import annotations

import asyncio
import time

import aiohttp
from yarl import URL

from bench.soak.records import Sent
from bench.soak.traffic import Request

TIMEOUT_SECONDS = 60.0
LEAVES_AFTER_SECONDS = 0.5
ERROR_BYTES = 300
"""What is kept of an answer that nobody meant to get."""


async def send(session: aiohttp.ClientSession, listen: str, request: Request) -> Sent:
    """One request, to its end or until its client leaves."""
    kind = request.kind
    sent = Sent(request.id, kind.name, kind.expected, kind.statuses, request.cost_center, time.monotonic())
    patience = LEAVES_AFTER_SECONDS if kind.leave_after_bytes == 0 else TIMEOUT_SECONDS
    try:
        async with asyncio.timeout(patience):
            await _exchange(session, URL(listen + request.path, encoded=True), request, sent)
    except TimeoutError:
        sent.error = "timed out"
    except (aiohttp.ClientError, ConnectionError) as error:
        sent.error = type(error).__name__
    sent.ended = time.monotonic()
    return sent


async def _exchange(session: aiohttp.ClientSession, url: URL, request: Request, sent: Sent) -> None:
    async with session.post(url, data=request.body, headers=request.headers) as answer:
        sent.status = answer.status
        leave_after = request.kind.leave_after_bytes
        if answer.status not in request.kind.statuses:
            sent.error = (await answer.content.read(ERROR_BYTES)).decode(errors="replace")
        read = 0
        async for piece in answer.content.iter_any():
            read += len(piece)
            if leave_after and answer.status == 200 and read >= leave_after:
                answer.close()  # the connection, not only the answer
                return
        sent.whole = True
