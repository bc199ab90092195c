"""Asking Redis: one script or one command, within a deadline, with our retries, behind a breaker.

What is learned along the way is kept here too: the time of Redis as last heard, and whether the Redis that answers is
the one that answered before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import cast

from ext_proc.ledger import codec, keys, upkeep
from ext_proc.ledger.breaker import Breaker
from ext_proc.ledger.channel import Channel, Reply, Word
from ext_proc.ledger.counters import LedgerCounters
from ext_proc.ledger.errors import (
    NotAskedError,
    ScriptUnknownError,
    StoreError,
    StoreTimeoutError,
    StoreUnreachableError,
)
from ext_proc.ledger.interface import Stamp
from ext_proc.ledger.options import LedgerOptions
from ext_proc.ledger.scripts import Script
from ext_proc.ledger.server_time import ServerTime

_ATTEMPTS = 2
_READ_DEADLINE_MS = 5_000

_LAST_TURNS = 4
"""Turns of the event loop after a deadline in which an answer that is here still counts: one to read it, one to take it
apart, one to hand it on, and one more. On an idle loop they take no time.
"""


class Asker:
    """The scripts of one realm, as calls. `on_loss` is told when data may be lost, `on_recovery` when Redis is back."""

    def __init__(
        self,
        channel: Channel,
        options: LedgerOptions,
        scripts: dict[str, Script],
        *,
        wall_us: Callable[[], int],
        on_loss: Callable[[str], None],
        on_recovery: Callable[[], None],
    ) -> None:
        self.counters = LedgerCounters()
        self.last_error = ""
        self.prefix = keys.prefix(options.realm)
        self._channel = channel
        self._options = options
        self._scripts = scripts
        self._wall_us = wall_us
        self._on_loss = on_loss
        self._on_recovery = on_recovery
        self._clock_key = f"{self.prefix}clock"
        self._breaker = Breaker(options.breaker_failures)
        self._stamp: Stamp | None = None
        self._server_time = ServerTime()
        self._sessions = 0
        self._run_id = ""
        self._tasks: set[asyncio.Task[object]] = set()

    @property
    def is_available(self) -> bool:
        """Whether Redis answered lately: False while the breaker is open."""
        return not self._breaker.is_open

    async def close(self) -> None:
        """Stop everything that was spawned, and the channel."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    def now_us(self) -> int:
        """The best estimate of Redis time, by its answers. This process's own clock only until the first of them."""
        told_us = self._server_time.at_us(time.monotonic_ns() // 1000)
        return self._wall_us() if told_us is None else told_us

    async def run(self, name: str, *arguments: Word) -> list[bytes]:
        """One script, with our retries, within the deadline. Raises StoreError."""
        if self._breaker.is_open:
            self.counters.unavailable += 1
            raise NotAskedError("Redis has not answered for a while")
        try:
            reply = await self._attempt(name, arguments, self._options.deadline_ms)
        except StoreUnreachableError as error:
            self.counters.timeouts += isinstance(error, StoreTimeoutError)
            self.last_error = f"{name}: {error}"
            self._failed()
            raise
        except StoreError as error:
            self.last_error = str(error)
            self._breaker.succeeded()
            self.counters.refused_by_store += 1
            self.counters.unavailable += 1
            raise
        self._breaker.succeeded()
        self._heard(codec.stamp(reply))
        return reply

    async def _attempt(self, name: str, arguments: tuple[Word, ...], deadline_ms: int) -> list[bytes]:
        script = self._scripts[name]
        deadline = asyncio.get_running_loop().time() + deadline_ms / 1000
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._evalsha(script, arguments, deadline)
            except StoreTimeoutError:
                raise
            except StoreUnreachableError:
                if attempt == _ATTEMPTS:
                    raise
                self.counters.retried += 1
        raise AssertionError("the last attempt returns or raises")

    async def _evalsha(self, script: Script, arguments: tuple[Word, ...], deadline: float) -> list[bytes]:
        """Redis forgets scripts when it restarts or fails over: then they are sent again."""
        try:
            reply = await self._call(deadline, "EVALSHA", script.sha, 1, self._clock_key, *arguments)
        except ScriptUnknownError:
            reply = await self._call(deadline, "EVAL", script.source, 1, self._clock_key, *arguments)
        return cast("bytes", reply).split(b"\n")

    async def _call(self, deadline: float, *words: Word) -> object:
        """One command, answered by the loop's time `deadline`. Raises StoreError."""
        reply = self._channel.call(*words)
        timer = asyncio.get_running_loop().call_at(deadline, self._was_due, reply, deadline, deadline)
        try:
            return await reply
        finally:
            timer.cancel()

    def _was_due(self, reply: Reply, due: float, deadline: float) -> None:
        """Whether an unanswered call is to wait for longer than until `due`, which is now.

        A Redis that answers others is not silent: their calls stand before this one, as in a burst. And what kept our
        own loop busy kept it from sending the call, or from reading its answer: by as much as it is late, it waits on.
        """
        if reply.done():
            return
        loop = asyncio.get_running_loop()
        heard_out = self._channel.heard_at + self._options.deadline_ms / 1000
        at_most = deadline + self._options.overtime_ms / 1000
        if (longer := min(heard_out, at_most)) > due:
            loop.call_at(longer, self._was_due, reply, longer, deadline)
        else:
            loop.call_later(loop.time() - due, _give_up, reply, _LAST_TURNS)

    async def read(self, *words: Word) -> object:
        """A plain read for people, who can wait longer than a request. Raises StoreError."""
        if self._breaker.is_open:
            raise NotAskedError("Redis has not answered for a while")
        return await self._call(asyncio.get_running_loop().time() + _READ_DEADLINE_MS / 1000, *words)

    async def look(self) -> Stamp | None:
        """Redis time now; None where it does not answer."""
        try:
            return codec.stamp(await self.run("look"))
        except StoreError:
            return None

    def _heard(self, stamp: Stamp) -> None:
        """Keep the stamp, and notice a Redis that has come back empty or older, or is another one."""
        known, self._stamp = self._stamp, stamp
        self._server_time.heard(stamp.redis_us, time.monotonic_ns() // 1000)
        if known is not None and known.epoch:
            if stamp.epoch != known.epoch:
                self.counters.epochs_changed += 1
                self._on_loss(f"Redis came back empty (epoch {known.epoch} became {stamp.epoch})")
            elif stamp.seq < known.seq:
                self.counters.sequence_lost += 1
                self._on_loss(f"Redis came back older: {known.seq - stamp.seq} steps or more are gone")
        if self._channel.sessions != self._sessions:
            self._sessions = self._channel.sessions
            self.spawn(self._identify())

    async def _identify(self) -> None:
        """After a reconnection: another server may lack what the last one acknowledged, whatever its sequence says."""
        try:
            run_id = await upkeep.run_id(self.read)
        except StoreError:
            return
        known, self._run_id = self._run_id, run_id
        if known not in ("", run_id):
            self.counters.servers_changed += 1
            self._on_loss("another Redis process answers")

    def _failed(self) -> None:
        self.counters.unavailable += 1
        if self._breaker.failed():
            self.counters.breaker_opened += 1
            self._channel.reset()
            self.spawn(self._probe())

    async def _probe(self) -> None:
        """Ask until Redis answers, then let calls through again."""
        while self._breaker.is_open:
            await asyncio.sleep(self._options.breaker_pause_ms / 1000)
            try:
                reply = await self._attempt("look", (), self._options.connect_timeout_ms)
            except StoreTimeoutError:
                self._channel.reset()
                continue
            except StoreUnreachableError:
                continue
            except StoreError:
                self._breaker.succeeded()
                continue
            self._breaker.succeeded()
            self._heard(codec.stamp(reply))
        self._on_recovery()

    async def load_scripts(self) -> None:
        """Spare the first requests the longer way."""
        for script in self._scripts.values():
            try:
                await self.read("SCRIPT", "LOAD", script.source)
            except StoreError:
                return

    def spawn(self, work: Coroutine[object, object, object]) -> asyncio.Task[object]:
        """Run something in a task of the ledger's own, until it is done or the ledger closes."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _give_up(reply: Reply, turns: int) -> None:
    if reply.done():
        return
    if turns:
        asyncio.get_running_loop().call_soon(_give_up, reply, turns - 1)
    else:
        reply.set_exception(StoreTimeoutError("no answer within the deadline"))
