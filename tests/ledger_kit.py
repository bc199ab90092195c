"""What the ledger's tests share: a ledger whose Redis obeys the test's clock, and short ways to write requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from ext_proc.ledger import ids, keys
from ext_proc.ledger.connections import open_channel
from ext_proc.ledger.interface import (
    AccountSpec,
    Basis,
    Charge,
    HoldReply,
    HoldRequest,
    Measure,
    Period,
    Plan,
    Posting,
    Resolution,
    Stamp,
    Window,
    WindowKind,
)
from ext_proc.ledger.memory import MemoryLedger
from ext_proc.ledger.options import LedgerOptions
from ext_proc.ledger.redis_ledger import RedisLedger
from ext_proc.ledger.scripts import load_scripts

CLOCK_LUA = """
local function server_us()
  return tonumber(redis.call('GET', string.sub(KEYS[1], 1, -6) .. 'testclock'))
end
"""
START_US = 4_070_908_800_000_000  # 2099-01-01: later than any real clock, so that Redis itself forgets nothing early
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
LEASE_MS = 60_000
DAY = Window(WindowKind.CALENDAR, Period.DAY)
PATIENT = LedgerOptions(deadline_ms=10_000)
"""For tests that are about answers, not about time, on a machine that may be busy."""


@dataclass(slots=True)
class TestClock:
    """A time that moves when it is told to."""

    now_us: int = START_US

    __test__ = False

    def __call__(self) -> int:
        """The time."""
        return self.now_us


@asynccontextmanager
async def connected(url: str, options: LedgerOptions = PATIENT) -> AsyncIterator[RedisLedger]:
    """A started ledger on Redis' own clock."""
    ledger = RedisLedger.connect(url, options)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.close()


async def on_test_clock(url: str, clock: TestClock, options: LedgerOptions = PATIENT) -> RedisLedger:
    """A ledger on an empty Redis whose scripts read the test's clock; call `set_clock` when it moves."""
    channel = open_channel(url, options.realm, options.connect_timeout_ms)
    ledger = RedisLedger(channel, options, scripts=load_scripts(CLOCK_LUA))
    await ledger.read("FLUSHALL")
    await set_clock(ledger, clock)
    return ledger


async def set_clock(ledger: RedisLedger, clock: TestClock, realm: str = keys.DEFAULT_REALM) -> None:
    """Tell a realm's Redis the test's time."""
    await ledger.read("SET", f"{keys.prefix(realm)}testclock", clock.now_us)


async def all_keys(ledger: RedisLedger, pattern: str = "*") -> list[bytes]:
    """Every key there is."""
    return cast("list[bytes]", await ledger.read("KEYS", pattern))


def account(
    rule: str = "team-daily",
    *,
    cap: int = 100,
    window: Window = DAY,
    measure: Measure = Measure.COST,
    bucket: tuple[tuple[str, str | None], ...] = (),
) -> AccountSpec:
    """A budget account."""
    return AccountSpec("gateway-budget-config", "budgets", rule, rule, bucket, measure, window, cap)


def one_plan(*postings: Posting, output_min: int = 0, output_max: int = 0, target: str = "account/model") -> Plan:
    """A plan of these postings."""
    return Plan(target, postings, output_min, output_max)


def hold_id(number: int, now_us: int = START_US, attempt: int = 1) -> str:
    """The id of request `number`, minted at `now_us`."""
    return ids.mint(now_us, number.to_bytes(8, "big"), attempt)


def simple_hold(hold: str, amount: int, spec: AccountSpec, *, deciding: bool = True) -> HoldRequest:
    """A request for one amount on one account."""
    return HoldRequest(hold, (one_plan(Posting(spec, deciding, amount)),), LEASE_MS)


def settle(hold: str, cost: int, *, basis: Basis = Basis.REPORTED, requests: int = 1) -> Resolution:
    """A resolution that charges this much."""
    return Resolution(hold, Charge(cost_nanodollars=cost, requests=requests), basis)


def release(hold: str, *, requests: int = 0) -> Resolution:
    """A release."""
    return Resolution(hold, Charge(requests=requests), Basis.RELEASED)


def without_epoch(answer: Any) -> Any:
    """An answer without what the model cannot know: which life of Redis gave it."""
    stamp = getattr(answer, "stamp", None)
    return answer if stamp is None else replace(answer, stamp=Stamp(stamp.redis_us, "", stamp.seq))


async def snapshot(ledger: RedisLedger) -> dict[bytes, object]:
    """Every key with its value."""

    async def value(key: bytes) -> object:
        if await ledger.read("TYPE", key) == b"hash":
            words = cast("list[bytes]", await ledger.read("HGETALL", key))
            return sorted(zip(words[::2], words[1::2], strict=True))  # a hash has no order of its own
        return await ledger.read("DUMP", key)

    return {key: await value(key) for key in sorted(await all_keys(ledger))}


@dataclass
class Pair:
    """The model and Redis, asked the same: every answer, and the books after it, must be equal."""

    model: MemoryLedger
    redis: RedisLedger
    clock: TestClock
    count: int = 0

    async def ask(self, method: str, *arguments: object) -> Any:
        """The answer of both."""
        expected = await getattr(self.model, method)(*arguments)
        actual = await getattr(self.redis, method)(*arguments)
        assert without_epoch(expected) == without_epoch(actual), self.redis.last_error
        await self._compare_books()
        return expected

    async def hold(self, *postings: Posting, **other: Any) -> HoldReply:
        """Ask for a new hold, of one plan unless `plans` has others; its id is `last` then."""
        self.count += 1
        request = HoldRequest(self.last, (one_plan(*postings),), LEASE_MS)
        reply: HoldReply = await self.ask("hold", replace(request, **other))
        return reply

    async def spend(self, spec: AccountSpec, amount: int, tags: tuple[tuple[str, str], ...] = ()) -> None:
        """Hold nothing, settle the amount."""
        await self.hold(Posting(spec, deciding=False, fixed=0), series=tags)
        await self.ask("resolve", settle(self.last, amount))

    @property
    def last(self) -> str:
        """The id of the newest hold, as long as time has not moved."""
        return hold_id(self.count, self.clock())

    async def move(self, step_us: int) -> None:
        """Time passes."""
        self.clock.now_us += step_us
        await set_clock(self.redis, self.clock)

    async def _compare_books(self) -> None:
        for method, arguments in (("open_holds", {}), ("balances", {"rule": None, "limit": 100, "cursor": ""})):
            expected, actual = [await getattr(book, method)(**arguments) for book in (self.model, self.redis)]
            assert expected == actual
        assert await self.model.journal(100) == await self.redis.journal(100)
        for period in (Period.HOUR, Period.DAY):
            bounds = {"start_us": self.clock() - 3_600 * SECOND_US, "end_us": self.clock() + SECOND_US}
            expected, actual = [await book.series("repo", period, **bounds) for book in (self.model, self.redis)]
            assert expected == actual
        told = [await book.alerts("", 100) for book in (self.model, self.redis)]
        assert [replace(alert, id="") for alert in told[0]] == [replace(alert, id="") for alert in told[1]]


Story = Callable[[Pair], Awaitable[None]]
Told = Callable[[Story], None]
"""Tells a story to a pair: the fixture `told`."""


@asynccontextmanager
async def pair(url: str) -> AsyncIterator[Pair]:
    """A model and an empty Redis on one clock."""
    clock = TestClock()
    ledger = await on_test_clock(url, clock)
    try:
        yield Pair(MemoryLedger(clock), ledger, clock)
    finally:
        await ledger.close()


class DroppingProxy:
    """A TCP proxy in front of Redis that loses what it is told to lose: requests, answers, or the connections."""

    def __init__(self, port: int) -> None:
        self.passes_requests = True
        self.passes_answers = True
        self.accepts = True
        self.requests_seen = asyncio.Event()
        self.answers_seen = asyncio.Event()
        self._redis_port = port
        self._resets = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen; the URL to connect to."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"redis://127.0.0.1:{port}/0"

    async def stop(self) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        self.reset_peers()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def retarget(self, port: int) -> None:
        """Lead to another server from now on, and break every connection to this one."""
        self._redis_port = port
        self.reset_peers()

    def reset_peers(self) -> None:
        """Break every connection. Nothing passes on them from this moment on."""
        self._resets += 1
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if not self.accepts:
            writer.transport.abort()
            return
        self._tasks.add(task)
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._redis_port)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, upstream_writer, "requests"))
                    group.create_task(self._pump(upstream_reader, writer, "answers"))
            finally:
                upstream_writer.transport.abort()
        except (asyncio.CancelledError, OSError, ExceptionGroup):
            return
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, what: str) -> None:
        resets = self._resets
        while (data := await reader.read(65_536)) and resets == self._resets:
            getattr(self, f"{what}_seen").set()
            if getattr(self, f"passes_{what}"):
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError("one side closed")


async def until(true: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    """Poll a condition, each time after the event loop has had its turn; the test's own timeout bounds it."""
    while True:
        answer = true()
        if answer is True or (not isinstance(answer, bool) and await answer):
            return
        await asyncio.sleep(0.005)
