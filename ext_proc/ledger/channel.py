"""One connection that all calls of a worker share.

Calls made in the same turn of the event loop leave in one write, and answers come back in order. Nobody who waits
for an answer owns the connection: a caller that gives up leaves its place in the queue, its answer is read and
dropped, and the connection stays in step. (Cancelling a read inside a client library is how connections get
corrupted.) Connecting, TLS and authentication are redis-py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    ClusterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from ext_proc.ledger.errors import ScriptUnknownError, StoreError, StoreUnreachableError

Word = bytes | str | int
RunCommand = Callable[..., Awaitable[object]]
"""Runs one Redis command; raises StoreError where Redis does not answer."""

Reply = asyncio.Future[object]


class Channel(Protocol):
    """How commands reach Redis. `call` never blocks and never raises: the future does.

    Its error is StoreUnreachableError where nothing is known of the outcome, StoreError where Redis said no.
    """

    @property
    def sessions(self) -> int:
        """How many connections there have been: a new one may lead to another server."""
        ...

    @property
    def heard_at(self) -> float:
        """When the last answer came, by the event loop's time."""
        ...

    def call(self, *words: Word) -> Reply:
        """Send one command."""
        ...

    def reset(self) -> None:
        """Give the connection up: whatever waits on it fails as unreachable, the next call makes a new one."""
        ...

    async def close(self) -> None:
        """Stop for good."""
        ...


class SharedConnection:
    """A `Channel` over one connection that is made when first needed and made anew when it breaks."""

    def __init__(self, connect: Callable[[], Awaitable[AbstractConnection]]) -> None:
        self.sessions = 0
        self.heard_at = 0.0
        self._connect = connect
        self._wanted = asyncio.Event()
        self._outgoing: list[tuple[bytes, Reply]] = []
        self._waiting: deque[Reply] = deque()
        self._current: AbstractConnection | None = None
        self._session: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    def call(self, *words: Word) -> Reply:
        """Send one command at the end of this turn of the event loop."""
        loop = asyncio.get_running_loop()
        if self._keeper is None:
            self._keeper = loop.create_task(self._keep(), name="ledger-connection")
        reply: Reply = loop.create_future()
        self._outgoing.append((pack(words), reply))
        self._wanted.set()
        return reply

    def reset(self) -> None:
        """Give the connection up."""
        if self._session is not None:
            self._session.cancel()

    async def close(self) -> None:
        """Stop for good; what still waits fails as unreachable."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None

    async def _keep(self) -> None:
        """Run one session after another, each until it breaks."""
        while True:
            await self._wanted.wait()
            self._session = asyncio.create_task(self._run_session())
            try:
                await asyncio.wait([self._session])
            finally:
                self._session.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._session

    async def _run_session(self) -> None:
        """One connection until it breaks; then whatever waits on it fails at once, however long closing takes."""
        connection: AbstractConnection | None = None
        halves: set[asyncio.Task[None]] = set()
        reason: object = "closed"
        try:
            connection = await self._connect()
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            self.sessions += 1
            self._current = connection
            halves = {asyncio.create_task(self._write(connection)), asyncio.create_task(self._read(connection))}
            ended, _ = await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
            reason = next(iter(ended)).exception()
        except (RedisError, OSError) as error:
            reason = error
        finally:
            self._current = None
            self._fail_all(StoreUnreachableError(f"the connection to Redis broke: {reason}"))
            for half in halves:
                half.cancel()
            if connection is not None:
                with contextlib.suppress(RedisError, OSError):
                    await connection.disconnect(nowait=True)
            await asyncio.gather(*halves, return_exceptions=True)

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await self._wanted.wait()
            if self._current is not connection or not connection.is_connected:
                raise RedisConnectionError("disconnected")  # else redis-py would connect anew, under our feet
            self._wanted.clear()
            batch, self._outgoing = self._outgoing, []
            self._waiting.extend(reply for _, reply in batch)
            await connection.send_packed_command([b"".join(packed for packed, _ in batch)], check_health=False)

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            answer: object
            try:
                answer = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
            except NoScriptError:
                answer = ScriptUnknownError("no such script")
            except (ReadOnlyError, AskError, ClusterDownError, TryAgainError) as error:
                raise RedisConnectionError(f"this server does not serve us now: {error}") from error
            except ResponseError as error:
                answer = StoreError(str(error))
            self.heard_at = asyncio.get_running_loop().time()
            reply = self._waiting.popleft()
            if reply.done():
                continue
            if isinstance(answer, StoreError):
                reply.set_exception(answer)
            else:
                reply.set_result(answer)

    def _fail_all(self, error: StoreError) -> None:
        self._wanted.clear()
        lost = [*self._waiting, *(reply for _, reply in self._outgoing)]
        self._waiting.clear()
        self._outgoing.clear()
        for reply in lost:
            if not reply.done():
                reply.set_exception(error)


def pack(words: Sequence[Word]) -> bytes:
    """One command in the Redis protocol."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)
