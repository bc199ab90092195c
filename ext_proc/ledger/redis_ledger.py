"""The ledger on Redis: the promises, for many workers at once.

Every promise is kept inside a script; this module carries questions and answers, in time. A call never raises for
store trouble and never waits past its deadline: it answers `Code.UNAVAILABLE`, and then

- a hold whose fate is unknown is released in the background by its id (an id that never arrived is entombed, so that
  it cannot arrive later), unless the request says that it will be kept,
- a resolution is kept and tried again until Redis has it. Repeating is safe: ids make it so.

Calls run in tasks of the ledger's own, so a dropped RPC never cancels one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar, cast

from ext_proc.ledger import codec, keys, readings, upkeep
from ext_proc.ledger.breaker import Breaker
from ext_proc.ledger.channel import Channel, Word
from ext_proc.ledger.connections import open_channel
from ext_proc.ledger.errors import ScriptUnknownError, StoreError, StoreUnreachableError
from ext_proc.ledger.interface import (
    AccountBalance,
    Alert,
    Basis,
    Charge,
    Code,
    HoldReply,
    HoldRequest,
    Period,
    Resolution,
    ResolveReply,
    SeriesPoint,
    Stamp,
    TopConsumer,
    WindowKind,
)
from ext_proc.ledger.options import LedgerOptions
from ext_proc.ledger.outage import EventLog, replay
from ext_proc.ledger.scripts import Script, load_scripts
from ext_proc.ledger.upkeep import KindStats, StoreHealth

EXPIRE_BATCH = 50
"""Holds that one run of the expire script charges: it blocks Redis for well under a millisecond each."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_ENDED = frozenset({Code.SETTLED, Code.RELEASED, Code.CORRECTED})
_ATTEMPTS = 2
_WINDOW_ATTEMPTS = 3
_READ_DEADLINE_MS = 5_000


@dataclass(slots=True)
class LedgerCounters:
    """What this process has seen since it started; the telemetry room turns them into metrics."""

    unavailable: int = 0  # calls answered UNAVAILABLE
    timeouts: int = 0  # of these, for want of an answer in time
    refused_by_store: int = 0  # Redis answered with an error (out of memory, read only, a key of another type)
    retried: int = 0
    breaker_opened: int = 0
    different_amount: int = 0  # ids used twice for different holds: a bug somewhere
    tombstoned: int = 0  # resolutions of unknown holds that carried a charge
    retries_dropped: int = 0  # resolutions the retry queue had no room for: their holds expire
    epochs_changed: int = 0  # Redis came back empty
    sequence_lost: int = 0  # Redis came back older
    servers_changed: int = 0  # another Redis process answers: restarted or failed over
    reconciled: int = 0  # holds and settles brought back from the ring after such a loss


class RedisLedger:
    """The `Ledger` protocol over Redis ≥ 6.2 or Valkey. `start()` before use, `close()` after."""

    def __init__(
        self,
        channel: Channel,
        options: LedgerOptions | None = None,
        *,
        scripts: dict[str, Script] | None = None,
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.counters = LedgerCounters()
        self.last_error = ""  # what Redis or the connection said when a call last failed, for health and logs
        self._channel = channel
        self._options = options or LedgerOptions()
        self._scripts = scripts or load_scripts()
        self._wall_us = wall_us
        self._prefix = keys.prefix(self._options.realm)
        self._clock_key = f"{self._prefix}clock"
        self._encoder = codec.HoldEncoder(self._options.retention)
        self._breaker = Breaker(self._options.breaker_failures)
        self._stamp: Stamp | None = None
        self._stamped_at_ns = 0
        self._tasks: set[asyncio.Task[object]] = set()
        self._ring = EventLog(self._options.ring_dir, "ring") if self._options.ring_dir else None
        self._reconciling = False
        self._sessions = 0
        self._run_id = ""
        self._retries: dict[str, Resolution] = {}
        self._retries_wanted = asyncio.Event()

    @classmethod
    def connect(cls, url: str, options: LedgerOptions | None = None) -> Self:
        """A ledger on the Redis that the URL names (`connections` lists the forms). Connects when started, not here.

        Raises ValueError for a URL of another form.
        """
        chosen = options or LedgerOptions()
        return cls(open_channel(url, chosen.realm, chosen.connect_timeout_ms), chosen)

    # --- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the first contact and begin the work in the background. A Redis that is down is waited for."""
        self._spawn(self._work_retries())
        self._spawn(self._load_scripts())
        await self._look()

    async def close(self) -> None:
        """Stop. Resolutions that wait for Redis get one more deadline to leave."""
        if self._retries and not self._breaker.is_open:
            await asyncio.gather(*(self._resolve(resolution) for resolution in list(self._retries.values())))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()
        if self._ring is not None:
            self._ring.close()

    @property
    def is_available(self) -> bool:
        """Whether Redis answered lately: False while the breaker is open."""
        return not self._breaker.is_open

    @property
    def waiting_resolutions(self) -> int:
        """How many settles and releases wait for Redis to come back."""
        return len(self._retries)

    def now_us(self) -> int:
        """The best estimate of Redis time: its last answer plus what has passed here since. This process's own clock
        only until the first answer.
        """
        if self._stamp is None:
            return self._wall_us()
        return self._stamp.redis_us + (time.monotonic_ns() - self._stamped_at_ns) // 1000

    # --- the protocol -------------------------------------------------------------------------------------------

    async def hold(self, request: HoldRequest) -> HoldReply:
        """Ask for a hold."""
        return await self._shielded(self._hold(request))

    async def resolve(self, resolution: Resolution) -> ResolveReply:
        """Settle or release a hold, once. UNAVAILABLE means *not yet*: it is kept and tried until Redis has it."""
        return await self._shielded(self._resolve(resolution))

    async def renew(self, hold_ids: Sequence[str], lease_ms: int) -> Code:
        """Push the leases of open holds."""
        if not hold_ids:
            return Code.NOT_FOUND
        try:
            reply = await self._shielded(self._run("renew", lease_ms * 1000, *hold_ids))
        except StoreError:
            return Code.UNAVAILABLE
        return Code(reply[0].decode())

    async def expire(self, limit: int) -> int:
        """Charge in full the holds whose lease ran out, the oldest first; 0 where Redis does not answer."""
        expired = 0
        while expired < limit:
            batch = min(EXPIRE_BATCH, limit - expired)
            keep_us = self._options.retention.resolved_ms * 1000
            try:
                reply = await self._shielded(self._run("expire", batch, keep_us))
            except StoreError:
                break
            expired += int(reply[4])
            if int(reply[4]) < batch:
                break
        return expired

    async def balances(self, *, rule: str | None, limit: int, cursor: str) -> tuple[tuple[AccountBalance, ...], str]:
        """A page of live calendar and lifetime accounts; empty where Redis does not answer."""
        stamp = await self._look()
        if stamp is None:
            return (), ""
        try:
            return await readings.balances(
                self.read, self._prefix, stamp.redis_us, rule=rule, limit=limit, cursor=cursor
            )
        except StoreError:
            return (), ""

    async def journal(self, limit: int) -> tuple[dict[str, object], ...]:
        """The newest journal entries, newest first; none where Redis does not answer."""
        try:
            return await readings.journal(self.read, self._prefix, limit)
        except StoreError:
            return ()

    async def health(self) -> StoreHealth | None:
        """How Redis is set up, with warnings about unsafe settings; None where it does not answer."""
        try:
            return await upkeep.health(self.read)
        except StoreError:
            return None

    async def stats(self) -> tuple[KindStats, ...]:
        """Keys and bytes by kind. Walks every key of the realm: for operators, not for scrapes."""
        try:
            return await upkeep.stats(self.read, self._prefix)
        except StoreError:
            return ()

    async def trim_journal(self) -> int:
        """Drop journal entries past the configured age or size; how many. Any replica may call it, now and then."""
        retention = self._options.retention
        older_than_us = self.now_us() - retention.journal_ms * 1000
        try:
            return await upkeep.trim_journal(
                self.read, self._prefix, older_than_us=older_than_us, max_bytes=retention.journal_max_bytes
            )
        except StoreError:
            return 0

    async def reset(self, account: str, note: str) -> Code:
        """Begin a calendar or lifetime account (`AccountBalance.name`) anew: RESET, NOT_FOUND or UNAVAILABLE.

        What is in flight settles in the generation it was held in.
        """
        return await self._by_hand("reset", account, note)

    async def resume(self, account: str, note: str) -> Code:
        """Open a latched account again: RESUMED, NOT_FOUND or UNAVAILABLE."""
        return await self._by_hand("resume", account, note)

    async def alerts(self, after: str, limit: int) -> tuple[Alert, ...]:
        """Thresholds crossed since the alert `after` ('' for the oldest there is), oldest first."""
        try:
            return await readings.alerts(self.read, self._prefix, after, limit)
        except StoreError:
            return ()

    async def top_consumers(self, account: str, limit: int) -> tuple[TopConsumer, ...]:
        """The tag values that spent most on an account (`AccountBalance.name`), the largest first."""
        try:
            return await readings.top_consumers(self.read, self._prefix, account, limit)
        except StoreError:
            return ()

    async def series(self, tag: str, period: Period, *, start_us: int, end_us: int) -> dict[str, list[SeriesPoint]]:
        """Spend by value of a tag in the UTC hours or days of [start, end); only those in which there was any."""
        try:
            return await readings.series(self.read, self._prefix, tag, period, start_us=start_us, end_us=end_us)
        except StoreError:
            return {}

    async def open_holds(self) -> int:
        """How many holds are open now; 0 where Redis does not answer."""
        try:
            return cast("int", await self.read("ZCARD", f"{self._prefix}leases"))
        except StoreError:
            return 0

    async def _by_hand(self, script: str, account: str, note: str) -> Code:
        kind, _, name = account.partition(":")
        if kind not in (WindowKind.CALENDAR, WindowKind.LIFETIME):
            return Code.NOT_FOUND
        try:
            reply = await self._shielded(self._run(script, kind, name, note))
        except StoreError:
            return Code.UNAVAILABLE
        return Code(reply[0].decode())

    async def restore(self, request: HoldRequest) -> HoldReply:
        """Hold what was admitted already (`outage.admitted`), whatever the caps say, in today's windows."""
        return await self._shielded(self._hold(request, restored=True))

    # --- hold and resolve ---------------------------------------------------------------------------------------

    async def _hold(self, request: HoldRequest, *, restored: bool = False) -> HoldReply:
        try:
            reply = await self._run_hold(request, restored=restored)
        except StoreError:
            self._forget_unknown(request)
            return HoldReply(Code.UNAVAILABLE)
        decoded = codec.decode_hold(request, reply)
        if decoded.code is Code.EXISTS_WITH_DIFFERENT_AMOUNT and not restored:
            self.counters.different_amount += 1
        if decoded.code is Code.HELD and self._ring is not None and not restored:
            self._ring.append_hold(request, decoded.plan_index, decoded.output_limit)
        return decoded

    async def _run_hold(self, request: HoldRequest, *, restored: bool) -> list[bytes]:
        """Ask, and ask again with the time Redis names where a window has ended since it was last heard."""
        now_us = self.now_us()
        for _ in range(_WINDOW_ATTEMPTS):
            reply = await self._run("hold", self._encoder.encode(request, now_us, restored=restored))
            if reply[0] != codec.WINDOW_STALE.encode():
                return reply
            now_us = codec.stamp(reply).redis_us
        raise StoreError("Redis time does not stand still")

    def _forget_unknown(self, request: HoldRequest) -> None:
        """Make sure that a hold nobody will use is not charged when its lease ends."""
        if request.previous is not None:
            self._retry_later(request.previous)
        if not request.keep_if_unavailable:
            self._retry_later(Resolution(request.hold_id, Charge(), Basis.RELEASED))

    async def _resolve(self, resolution: Resolution) -> ResolveReply:
        try:
            reply = await self._run("resolve", codec.encode_resolution(resolution, self._options.retention))
        except StoreError:
            self._retry_later(resolution)
            return ResolveReply(Code.UNAVAILABLE)
        self._retries.pop(resolution.hold_id, None)
        decoded = codec.decode_resolve(reply)
        if decoded.code in _ENDED and self._ring is not None and not self._reconciling:
            self._ring.append_resolution(resolution)
        if decoded.code is Code.TOMBSTONED and resolution.basis is not Basis.RELEASED:
            self.counters.tombstoned += 1
        return decoded

    def _retry_later(self, resolution: Resolution) -> None:
        """Keep the first word on a hold: a later one about the same id would only be answered `already_resolved`."""
        if resolution.hold_id in self._retries:
            return
        if len(self._retries) >= self._options.retry_queue:
            self.counters.retries_dropped += 1
            return
        self._retries[resolution.hold_id] = resolution
        self._retries_wanted.set()

    # --- asking -------------------------------------------------------------------------------------------------

    async def _run(self, name: str, *arguments: Word) -> list[bytes]:
        """One script, with our retries, within the deadline. Raises StoreError."""
        if self._breaker.is_open:
            self.counters.unavailable += 1
            raise StoreUnreachableError("Redis has not answered for a while")
        try:
            async with asyncio.timeout(self._options.deadline_ms / 1000):
                reply = await self._attempt(name, arguments)
        except TimeoutError:
            self.counters.timeouts += 1
            self._failed()
            raise StoreUnreachableError(f"no answer to {name} in {self._options.deadline_ms} ms") from None
        except StoreUnreachableError as error:
            self.last_error = str(error)
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

    async def _attempt(self, name: str, arguments: tuple[Word, ...]) -> list[bytes]:
        script = self._scripts[name]
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._evalsha(script, arguments)
            except StoreUnreachableError:
                if attempt == _ATTEMPTS:
                    raise
                self.counters.retried += 1
        raise AssertionError("the last attempt returns or raises")

    async def _evalsha(self, script: Script, arguments: tuple[Word, ...]) -> list[bytes]:
        """Redis forgets scripts when it restarts or fails over: then they are sent again."""
        try:
            return cast("list[bytes]", await self._channel.call("EVALSHA", script.sha, 1, self._clock_key, *arguments))
        except ScriptUnknownError:
            return cast("list[bytes]", await self._channel.call("EVAL", script.source, 1, self._clock_key, *arguments))

    async def read(self, *words: Word) -> object:
        """A plain read for people, who can wait longer than a request. Raises StoreError."""
        if self._breaker.is_open:
            raise StoreUnreachableError("Redis has not answered for a while")
        try:
            async with asyncio.timeout(_READ_DEADLINE_MS / 1000):
                return await self._channel.call(*words)
        except TimeoutError:
            raise StoreUnreachableError(f"no answer to {words[0]!r}") from None

    async def _look(self) -> Stamp | None:
        """Redis time now; None where it does not answer."""
        try:
            return codec.stamp(await self._run("look"))
        except StoreError:
            return None

    def _heard(self, stamp: Stamp) -> None:
        """Keep the stamp, and notice a Redis that has come back empty or older, or is another one."""
        known, self._stamp = self._stamp, stamp
        self._stamped_at_ns = time.monotonic_ns()
        if known is not None and known.epoch:
            if stamp.epoch != known.epoch:
                self.counters.epochs_changed += 1
                self._lost(f"Redis came back empty (epoch {known.epoch} became {stamp.epoch})")
            elif stamp.seq < known.seq:
                self.counters.sequence_lost += 1
                self._lost(f"Redis came back older: {known.seq - stamp.seq} steps or more are gone")
        if self._channel.sessions != self._sessions:
            self._sessions = self._channel.sessions
            self._spawn(self._identify())

    async def _identify(self) -> None:
        """After a reconnection: another server may lack what the last one acknowledged, whatever its sequence says."""
        try:
            run_id = await upkeep.run_id(self.read)
        except StoreError:
            return
        known, self._run_id = self._run_id, run_id
        if known not in ("", run_id):
            self.counters.servers_changed += 1
            self._lost("another Redis process answers")

    def _lost(self, what: str) -> None:
        """Data may be lost: bring back what this worker had acknowledged lately. Harmless where nothing is lost."""
        _log.warning("ledger: %s", what)
        if self._ring is not None and not self._reconciling:
            self._reconciling = True
            self._spawn(self._reconcile(self._ring))

    async def _reconcile(self, ring: EventLog) -> None:
        since_us = self.now_us() - self._options.retention.reconcile_ms * 1000
        try:
            replayed = await replay(ring, self, since_us=since_us)
        finally:
            self._reconciling = False
        self.counters.reconciled += replayed.restored + replayed.settled
        _log.warning("ledger: brought back %d holds and %d settles", replayed.restored, replayed.settled)

    def _failed(self) -> None:
        self.counters.unavailable += 1
        if self._breaker.failed():
            self.counters.breaker_opened += 1
            self._channel.reset()
            self._spawn(self._probe())

    # --- in the background --------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        """Ask until Redis answers, then let calls through again."""
        while self._breaker.is_open:
            await asyncio.sleep(self._options.breaker_pause_ms / 1000)
            try:
                async with asyncio.timeout(self._options.connect_timeout_ms / 1000):
                    reply = await self._attempt("look", ())
            except StoreUnreachableError:
                continue
            except TimeoutError:
                self._channel.reset()
                continue
            except StoreError:
                self._breaker.succeeded()
                continue
            self._breaker.succeeded()
            self._heard(codec.stamp(reply))
        self._retries_wanted.set()

    async def _work_retries(self) -> None:
        """Bring kept resolutions to Redis, again and again until it has them."""
        while True:
            await self._retries_wanted.wait()
            self._retries_wanted.clear()
            while self._retries and not self._breaker.is_open:
                batch = list(self._retries.values())[:100]
                replies = await asyncio.gather(*(self._resolve(resolution) for resolution in batch))
                if any(reply.code is Code.UNAVAILABLE for reply in replies):
                    await asyncio.sleep(self._options.breaker_pause_ms / 1000)

    async def _load_scripts(self) -> None:
        """Spare the first requests the longer way."""
        for script in self._scripts.values():
            try:
                await self.read("SCRIPT", "LOAD", script.source)
            except StoreError:
                return

    def _spawn(self, work: Coroutine[object, object, object]) -> asyncio.Task[object]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _shielded(self, work: Coroutine[object, object, _T]) -> Awaitable[_T]:
        """Run to the end whatever becomes of the caller."""
        return asyncio.shield(cast("asyncio.Task[_T]", self._spawn(work)))
