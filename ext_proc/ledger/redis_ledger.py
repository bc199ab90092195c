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
from typing import Self, TypeVar, cast

from ext_proc.ledger import codec, readings, upkeep
from ext_proc.ledger.asking import Asker
from ext_proc.ledger.channel import Channel, Word
from ext_proc.ledger.connections import open_channel
from ext_proc.ledger.counters import LedgerCounters
from ext_proc.ledger.errors import NotAskedError, StoreError, StoreUnreachableError
from ext_proc.ledger.interface import (
    AccountBalance,
    Alert,
    Basis,
    Charge,
    Code,
    Ended,
    ExtendReply,
    Extension,
    HoldReply,
    HoldRequest,
    Outcome,
    Period,
    Resolution,
    ResolveReply,
    SeriesPoint,
    TopConsumer,
    Weighing,
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
_WINDOW_ATTEMPTS = 3


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
        self.on_recovery: list[Callable[[], Coroutine[object, object, object]]] = []
        """Work to do when Redis is back after the breaker had opened, such as replaying an outage journal."""
        self._options = options or LedgerOptions()
        self._asker = Asker(
            channel,
            self._options,
            scripts or load_scripts(),
            wall_us=wall_us,
            on_loss=self._lost,
            on_recovery=self._recovered,
        )
        self._prefix = self._asker.prefix
        self._encoder = codec.HoldEncoder(self._options.retention)
        self._ring = EventLog(self._options.ring_dir, "ring") if self._options.ring_dir else None
        self._reconciling = False
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
        self._asker.spawn(self._work_retries())
        self._asker.spawn(self._asker.load_scripts())
        await self._asker.look()

    async def close(self) -> None:
        """Stop. Resolutions that wait for Redis get one more deadline to leave."""
        if self._retries and self.is_available:
            await asyncio.gather(*(self._resolve(resolution) for resolution in list(self._retries.values())))
        await self._asker.close()
        if self._ring is not None:
            self._ring.close()

    @property
    def is_available(self) -> bool:
        """Whether Redis answered lately: False while the breaker is open."""
        return self._asker.is_available

    @property
    def waiting_resolutions(self) -> int:
        """How many settles and releases wait for Redis to come back."""
        return len(self._retries)

    @property
    def counters(self) -> LedgerCounters:
        """What this process has seen since it started."""
        return self._asker.counters

    @property
    def last_error(self) -> str:
        """What Redis or the connection said when a call last failed, for health and logs."""
        return self._asker.last_error

    def now_us(self) -> int:
        """The best estimate of Redis time, microseconds; this process's own clock only until Redis first answered."""
        return self._asker.now_us()

    async def read(self, *words: Word) -> object:
        """A plain Redis command for people, who can wait longer than a request. Raises StoreError."""
        return await self._asker.read(*words)

    # --- the protocol -------------------------------------------------------------------------------------------

    async def hold(self, request: HoldRequest) -> HoldReply:
        """Ask for a hold."""
        return await self._shielded(self._hold(request))

    async def resolve(self, resolution: Resolution) -> ResolveReply:
        """Settle or release a hold, once. UNAVAILABLE means *not yet*: it is kept and tried until Redis has it."""
        return await self._shielded(self._resolve(resolution))

    async def extend(self, extension: Extension) -> ExtendReply:
        """Let an open hold carry more output. UNAVAILABLE means that nothing is known: ask again later."""
        try:
            reply = await self._shielded(self._asker.run("extend", codec.encode_extension(extension)))
        except StoreError:
            return ExtendReply(Code.UNAVAILABLE)
        return codec.decode_extend(reply)

    async def renew(self, hold_ids: Sequence[str], lease_ms: int) -> Code:
        """Push the leases of open holds."""
        if not hold_ids:
            return Code.NOT_FOUND
        try:
            reply = await self._shielded(self._asker.run("renew", lease_ms * 1000, *hold_ids))
        except StoreError:
            return Code.UNAVAILABLE
        return Code(reply[0].decode())

    async def expire(self, limit: int) -> int:
        """Charge in full the holds whose lease ran out, the oldest first; 0 where Redis does not answer.

        Restored holds whose settle was there before them are charged that settle, and not counted.
        """
        taken = expired = 0
        while taken < limit:
            batch = min(EXPIRE_BATCH, limit - taken)
            keep_us = self._options.retention.resolved_ms * 1000
            try:
                reply = await self._shielded(self._asker.run("expire", batch, keep_us))
            except StoreError:
                break
            taken += int(reply[4])
            expired += int(reply[5])
            if int(reply[4]) < batch:
                break
        return expired

    async def balances(self, *, rule: str | None, limit: int, cursor: str) -> tuple[tuple[AccountBalance, ...], str]:
        """A page of live calendar and lifetime accounts; empty where Redis does not answer."""
        stamp = await self._asker.look()
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
            reply = await self._shielded(self._asker.run(script, kind, name, note))
        except StoreError:
            return Code.UNAVAILABLE
        return Code(reply[0].decode())

    def realms_of(self, _request: HoldRequest) -> tuple[str, ...]:
        """As `HoldReply.realms`: there is one realm for all."""
        return ()

    async def restore(self, request: HoldRequest) -> HoldReply:
        """Hold what was admitted already (`outage.admitted`), whatever the caps say, in today's windows."""
        return await self._shielded(self._hold(request, restored=True))

    # --- parts of holds over several realms -----------------------------------------------------------------------

    async def weigh(self, request: HoldRequest) -> Weighing:
        """What this realm would say to a part, or what it has said before."""
        return await self._shielded(self._weigh(request))

    async def withdraw(self, hold_id: str) -> Code:
        """Take a part back because the whole is not held. Not retried: when its lease ends, its home is asked."""
        try:
            reply = await self._shielded(
                self._asker.run("resolve", codec.encode_withdrawal(hold_id, self._options.retention))
            )
        except StoreError:
            return Code.UNAVAILABLE
        if self._ring is not None:
            self._ring.append_resolution(Resolution(hold_id, Charge(), Basis.RELEASED))
        return Code(reply[0].decode())

    async def outcome(self, hold_id: str) -> Outcome:
        """How a hold that is at home here ended. One that is unknown here is withdrawn by asking."""
        try:
            reply = await self._asker.run("outcome", hold_id, self._options.retention.resolved_ms * 1000)
        except StoreError:
            return Outcome(Ended.UNKNOWN)
        return codec.decode_outcome(hold_id, reply)

    async def overdue_parts(self, limit: int) -> tuple[tuple[str, str], ...]:
        """Parts whose lease ran out, the oldest first: (hold id, home realm). None where Redis does not answer."""
        try:
            reply = await self._asker.run("parts", limit)
        except StoreError:
            return ()
        named = (line.decode().partition(" ") for line in reply[4:])
        return tuple((hold_id, home) for hold_id, _, home in named)

    async def expire_part(self, hold_id: str) -> Code:
        """Charge a part in full, because its home did so."""
        try:
            await self._asker.run("expire_part", hold_id, self._options.retention.resolved_ms * 1000)
        except StoreError:
            return Code.UNAVAILABLE
        return Code.SETTLED

    # --- hold and resolve ---------------------------------------------------------------------------------------

    async def _hold(self, request: HoldRequest, *, restored: bool = False) -> HoldReply:
        try:
            reply = await self._run_hold(request, restored=restored)
        except StoreError as error:
            self._forget_unknown(request, error)
            return HoldReply(Code.UNAVAILABLE)
        decoded = codec.decode_hold(request, reply)
        if decoded.code is Code.EXISTS_WITH_DIFFERENT_AMOUNT and not restored:
            self.counters.different_amount += 1
        if self._ring is not None and not restored:
            if request.previous is not None:
                self._ring.append_resolution(request.previous)
            if decoded.code is Code.HELD:
                first = 0 if request.part is None else request.part.plan_index
                self._ring.append_hold(request, decoded.plan_index - first, decoded.output_limit)
        return decoded

    async def _weigh(self, request: HoldRequest) -> Weighing:
        try:
            return codec.decode_weighing(request, await self._run_hold(request, weigh=True))
        except StoreError:
            return Weighing(reply=HoldReply(Code.UNAVAILABLE))

    async def _run_hold(self, request: HoldRequest, *, restored: bool = False, weigh: bool = False) -> list[bytes]:
        """Ask, and ask again with the time Redis names where a window has ended since it was last heard."""
        now_us = self.now_us()
        for _ in range(_WINDOW_ATTEMPTS):
            asked = self._encoder.encode(request, now_us, restored=restored, weigh=weigh)
            reply = await self._asker.run("hold", asked)
            if reply[0] != codec.WINDOW_STALE.encode():
                return reply
            now_us = codec.stamp(reply).redis_us
        raise StoreError("Redis time does not stand still")

    def _forget_unknown(self, request: HoldRequest, error: StoreError) -> None:
        """Make sure that a hold nobody will use is not charged when its lease ends.

        Only where its fate is unknown: what Redis refused, or was not asked, is no hold.
        """
        if request.previous is not None:
            self._retry_later(request.previous)
        is_unknown = isinstance(error, StoreUnreachableError) and not isinstance(error, NotAskedError)
        if is_unknown and not request.keep_if_unavailable:
            self._retry_later(Resolution(request.hold_id, Charge(), Basis.RELEASED))

    async def _resolve(self, resolution: Resolution) -> ResolveReply:
        try:
            reply = await self._asker.run("resolve", codec.encode_resolution(resolution, self._options.retention))
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

    def _lost(self, what: str) -> None:
        """Data may be lost: bring back what this worker had acknowledged lately. Harmless where nothing is lost."""
        _log.warning("ledger: %s", what)
        if self._ring is not None and not self._reconciling:
            self._reconciling = True
            self._asker.spawn(self._reconcile(self._ring))

    async def _reconcile(self, ring: EventLog) -> None:
        since_us = self.now_us() - self._options.retention.reconcile_ms * 1000
        try:
            replayed = await replay(ring, self, since_us=since_us)
        finally:
            self._reconciling = False
        self.counters.reconciled += replayed.restored + replayed.settled
        _log.warning("ledger: brought back %d holds and %d settles", replayed.restored, replayed.settled)

    # --- in the background --------------------------------------------------------------------------------------

    def _recovered(self) -> None:
        self._retries_wanted.set()
        for work in self.on_recovery:
            self._asker.spawn(work())

    async def _work_retries(self) -> None:
        """Bring kept resolutions to Redis, again and again until it has them."""
        while True:
            await self._retries_wanted.wait()
            self._retries_wanted.clear()
            while self._retries and self.is_available:
                batch = list(self._retries.values())[:100]
                replies = await asyncio.gather(*(self._resolve(resolution) for resolution in batch))
                waiting = [asked for asked, reply in zip(batch, replies, strict=True) if reply.code is Code.UNAVAILABLE]
                for resolution in waiting:  # to the end of the queue: what cannot be settled holds nobody else up
                    self._retries[resolution.hold_id] = self._retries.pop(resolution.hold_id)
                if waiting:
                    await asyncio.sleep(self._options.breaker_pause_ms / 1000)

    def _shielded(self, work: Coroutine[object, object, _T]) -> Awaitable[_T]:
        """Run to the end whatever becomes of the caller."""
        return asyncio.shield(cast("asyncio.Task[_T]", self._asker.spawn(work)))
