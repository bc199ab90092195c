"""Goal: whatever happens between a worker and Redis, a hold and its charge happen once, and nobody waits or raises.

Method: a real Redis behind a proxy that loses requests, answers or connections when told.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvloop

from ext_proc.ledger import ids
from ext_proc.ledger.connections import open_channel
from ext_proc.ledger.interface import Basis, Code, HoldReply, HoldRequest, Measure, Posting, Window, WindowKind
from ext_proc.ledger.options import LedgerOptions
from ext_proc.ledger.redis_ledger import RedisLedger
from tests.ledger_kit import PATIENT, DroppingProxy, account, connected, one_plan, settle, simple_hold, until

pytestmark = pytest.mark.redis

HASTY = LedgerOptions(deadline_ms=60, breaker_failures=1_000, breaker_pause_ms=20, connect_timeout_ms=500)
LIFETIME = Window(WindowKind.LIFETIME)
SPEC = account(cap=1_000_000, window=LIFETIME)


def port_of(url: str) -> int:
    """The port of a Redis URL."""
    return int(url.rsplit(":", maxsplit=1)[1].split("/", maxsplit=1)[0])


@asynccontextmanager
async def behind_proxy(url: str, options: LedgerOptions = HASTY) -> AsyncIterator[tuple[RedisLedger, DroppingProxy]]:
    """A ledger that reaches Redis through a proxy."""
    proxy = DroppingProxy(port_of(url))
    ledger = RedisLedger.connect(await proxy.start(), options)
    await ledger.start()
    try:
        yield ledger, proxy
    finally:
        await ledger.close()
        await proxy.stop()


def new_hold(ledger: RedisLedger, number: int, amount: int = 100) -> HoldRequest:
    """A hold on the one account, with an id of the ledger's time."""
    return simple_hold(ids.mint(ledger.now_us(), number.to_bytes(8, "big")), amount, SPEC)


async def balance(ledger: RedisLedger) -> tuple[int, int]:
    """Spent and held of the one account."""
    balances, _ = await ledger.balances(rule=None, limit=10, cursor="")
    return (balances[0].spent, balances[0].held) if balances else (0, 0)


def test_lost_answer_makes_one_hold_and_one_charge(redis_url: str) -> None:
    """Redis made the hold but its answer was lost: the retry of the same id finds it, and it is charged once."""

    async def run() -> None:
        async with behind_proxy(redis_url) as (ledger, proxy), connected(redis_url) as other:
            request = replace(new_hold(ledger, 1), keep_if_unavailable=True)
            proxy.passes_answers = False
            assert (await ledger.hold(request)).code is Code.UNAVAILABLE
            assert await balance(other) == (0, 100)
            proxy.reset_peers()
            proxy.passes_answers = True
            assert (await ledger.hold(request)).code is Code.EXISTS
            assert await balance(other) == (0, 100)
            proxy.passes_answers = False
            assert (await ledger.resolve(settle(request.hold_id, 70))).code is Code.UNAVAILABLE
            assert await balance(other) == (70, 0)
            proxy.reset_peers()
            proxy.passes_answers = True
            await until(lambda: ledger.waiting_resolutions == 0)
            assert (await ledger.resolve(settle(request.hold_id, 70))).code is Code.EXISTS
            assert await balance(other) == (70, 0)
            assert len(await other.journal(10)) == 1

    asyncio.run(run())


@pytest.mark.parametrize("lost", ["requests", "answers"])
def test_refused_request_is_not_charged_for_a_hold_it_never_heard_of(lost: str, redis_url: str) -> None:
    """A hold answered UNAVAILABLE is released by its id, whether or not it ever reached Redis, and cannot come back."""

    async def run() -> None:
        async with behind_proxy(redis_url) as (ledger, proxy), connected(redis_url) as other:
            request = new_hold(ledger, 1)
            setattr(proxy, f"passes_{lost}", False)
            assert (await ledger.hold(request)).code is Code.UNAVAILABLE
            proxy.reset_peers()
            setattr(proxy, f"passes_{lost}", True)
            await until(lambda: ledger.waiting_resolutions == 0)
            assert await balance(other) == (0, 0)
            assert await other.open_holds() == 0
            assert (await other.hold(request)).code is Code.ALREADY_RESOLVED

    asyncio.run(run())


def test_settle_reaches_redis_after_an_outage(redis_url: str) -> None:
    """A settle made while Redis is away is kept and charged when it is back, once."""

    async def run() -> None:
        options = replace(HASTY, breaker_failures=2)
        async with behind_proxy(redis_url, options) as (ledger, proxy), connected(redis_url) as other:
            request = new_hold(ledger, 1)
            assert (await ledger.hold(request)).code is Code.HELD
            proxy.passes_requests = False
            assert (await ledger.resolve(settle(request.hold_id, 70))).code is Code.UNAVAILABLE
            await until(lambda: not ledger.is_available)
            assert (await ledger.resolve(settle(request.hold_id, 70))).code is Code.UNAVAILABLE
            assert await balance(other) == (0, 100)
            proxy.reset_peers()
            proxy.passes_requests = True
            await until(lambda: ledger.waiting_resolutions == 0)
            assert await balance(other) == (70, 0)

    asyncio.run(run())


def test_breaker_answers_at_once_and_closes_again(redis_url: str) -> None:
    """After failures in a row calls are answered without asking Redis; when it answers a probe, they pass again."""

    async def run() -> None:
        options = replace(HASTY, breaker_failures=2)
        async with behind_proxy(redis_url, options) as (ledger, proxy):
            proxy.passes_requests = False
            for number in range(2):
                assert (await ledger.hold(new_hold(ledger, number))).code is Code.UNAVAILABLE
            assert not ledger.is_available
            timeouts = ledger.counters.timeouts
            replies = await asyncio.gather(*(ledger.hold(new_hold(ledger, n)) for n in range(2, 50)))
            assert {reply.code for reply in replies} == {Code.UNAVAILABLE}
            assert ledger.counters.timeouts == timeouts
            assert ledger.counters.breaker_opened == 1
            proxy.passes_requests = True
            await until(lambda: ledger.is_available)
            assert (await ledger.hold(new_hold(ledger, 99))).code is Code.HELD

    asyncio.run(run())


def test_redis_down_at_start_is_waited_for(redis_url: str) -> None:
    """A worker that starts before Redis answers `unavailable`, and works as soon as Redis does (T23)."""

    async def run() -> None:
        proxy = DroppingProxy(port_of(redis_url))
        url = await proxy.start()
        proxy.passes_requests = False
        ledger = RedisLedger.connect(url, replace(HASTY, breaker_failures=1))
        await ledger.start()
        assert (await ledger.hold(new_hold(ledger, 1))).code is Code.UNAVAILABLE
        assert await ledger.balances(rule=None, limit=1, cursor="") == ((), "")
        proxy.passes_requests = True
        await until(lambda: ledger.is_available)
        assert (await ledger.hold(new_hold(ledger, 2))).code is Code.HELD
        await ledger.close()
        await proxy.stop()

    asyncio.run(run())


def test_broken_connection_is_tried_again_within_the_deadline(redis_url: str) -> None:
    """Redis closing an idle connection costs a retry, not a refusal."""

    async def run() -> None:
        patient = replace(HASTY, deadline_ms=5_000)
        async with behind_proxy(redis_url, patient) as (ledger, proxy):
            assert (await ledger.hold(new_hold(ledger, 1))).code is Code.HELD
            proxy.reset_peers()
            replies = await asyncio.gather(*(ledger.hold(new_hold(ledger, n)) for n in range(2, 30)))
            assert {reply.code for reply in replies} == {Code.HELD}

    asyncio.run(run())


def test_forgotten_scripts_are_sent_again(redis_url: str) -> None:
    """A Redis that lost its scripts is given them again; the caller notices nothing."""

    async def run() -> None:
        async with connected(redis_url) as ledger:
            await ledger.read("SCRIPT", "FLUSH")
            replies = await asyncio.gather(*(ledger.hold(new_hold(ledger, n)) for n in range(20)))
            assert {reply.code for reply in replies} == {Code.HELD}
            assert await balance(ledger) == (0, 2_000)

    asyncio.run(run())


def test_dropped_rpc_does_not_cancel_its_settle(redis_url: str) -> None:
    """The RPC that asked for a settle is cancelled at once: the settle is made all the same."""

    async def run() -> None:
        async with connected(redis_url) as ledger:
            request = new_hold(ledger, 1)
            await ledger.hold(request)
            rpc = asyncio.ensure_future(ledger.resolve(settle(request.hold_id, 70)))
            await asyncio.sleep(0)
            rpc.cancel()

            async def is_settled() -> bool:
                return await balance(ledger) == (70, 0)

            await until(is_settled)

    asyncio.run(run())


def test_calls_of_one_turn_leave_together(redis_url: str) -> None:
    """Two hundred holds asked in the same turn of the event loop reach Redis in a handful of packets."""

    async def run() -> None:
        async with connected(redis_url) as ledger:
            reads = await number_of_reads(ledger)
            await asyncio.gather(*(ledger.hold(new_hold(ledger, n)) for n in range(200)))
            assert await number_of_reads(ledger) - reads < 50

    asyncio.run(run())


async def number_of_reads(ledger: RedisLedger) -> int:
    """How often Redis has read from a client."""
    info = await ledger.read("INFO", "stats")
    assert isinstance(info, bytes)
    line = next(line for line in info.decode().splitlines() if line.startswith("total_reads_processed:"))
    return int(line.split(":")[1])


@pytest.mark.parametrize("workers", [1, 4])
def test_parallel_requests_never_pass_the_cap(workers: int, redis_url: str) -> None:
    """A thousand clients over several workers, each settling above its hold: what is over is what settles added (T04).

    200 of the holds fit. Where no settle exceeds its hold, nothing is over.
    """

    async def run(excess: int) -> None:
        spec = account(f"excess-{excess}", cap=200 * 100, window=LIFETIME)
        ledgers = [RedisLedger.connect(redis_url, LedgerOptions(deadline_ms=20_000)) for _ in range(workers)]
        for ledger in ledgers:
            await ledger.start()

        async def client(number: int) -> tuple[HoldReply, int]:
            ledger = ledgers[number % workers]
            request = simple_hold(ids.mint(ledger.now_us(), number.to_bytes(8, "big")), 100, spec)
            reply = await ledger.hold(request)
            if reply.code is not Code.HELD:
                return reply, 0
            in_flight_over = reply.states[0].spent + reply.states[0].held - spec.cap
            assert in_flight_over <= 0
            other = ledgers[(number + 1) % workers]
            assert (await other.resolve(settle(request.hold_id, 100 + excess))).code is Code.SETTLED
            return reply, 100 + excess

        results = await asyncio.gather(*(client(number) for number in range(1_000)))
        charged = sum(amount for _, amount in results)
        admitted = sum(reply.code is Code.HELD for reply, _ in results)
        balances, _ = await ledgers[0].balances(rule=spec.rule_id, limit=1, cursor="")
        assert (balances[0].spent, balances[0].held) == (charged, 0)
        assert charged <= spec.cap + admitted * excess
        if not excess:
            assert admitted == 200
            assert charged == spec.cap
        for ledger in ledgers:
            await ledger.close()

    asyncio.run(run(0))
    asyncio.run(run(37))


def test_full_redis_refuses_holds_and_still_settles(redis_url: str) -> None:
    """At maxmemory a hold is `unavailable` and writes nothing; settles, releases, renewals and expiry still pass."""

    async def run() -> None:
        async with connected(redis_url) as ledger:
            requests = [new_hold(ledger, n) for n in range(4)]
            short = replace(new_hold(ledger, 9), lease_ms=0)
            for request in (*requests[:3], short):
                assert (await ledger.hold(request)).code is Code.HELD
            await ledger.read("CONFIG", "SET", "maxmemory-policy", "noeviction")
            await ledger.read("CONFIG", "SET", "maxmemory", "1")
            try:
                assert (await ledger._hold(requests[3])).code is Code.UNAVAILABLE
                assert "OOM" in ledger.last_error or "maxmemory" in ledger.last_error
                assert ledger.is_available
                assert await balance(ledger) == (0, 400)
                assert (await ledger.resolve(settle(requests[0].hold_id, 70))).code is Code.SETTLED
                assert (await ledger.resolve(settle(requests[1].hold_id, 130))).code is Code.SETTLED
                assert await ledger.renew([requests[2].hold_id], 60_000) is Code.RENEWED
                assert await ledger.expire(10) == 1
                assert await balance(ledger) == (300, 100)
                assert len(await ledger.journal(10)) == 3
            finally:
                await ledger.read("CONFIG", "SET", "maxmemory", "0")

    asyncio.run(run())


def test_duplicated_and_reordered_calls_change_nothing(redis_url: str) -> None:
    """Every call sent twice at once, and a settle sent before the hold's answer: one hold, one charge."""

    async def run() -> None:
        async with connected(redis_url) as ledger, connected(redis_url) as other:
            request = new_hold(ledger, 1)
            codes = [reply.code for reply in await asyncio.gather(ledger.hold(request), ledger.hold(request))]
            assert codes == [Code.HELD, Code.EXISTS]
            resolution = settle(request.hold_id, 70)
            answers = await asyncio.gather(ledger.resolve(resolution), other.resolve(resolution))
            assert {reply.code for reply in answers} == {Code.SETTLED, Code.EXISTS}
            early = new_hold(ledger, 2)
            held, settled = await asyncio.gather(ledger.hold(early), ledger.resolve(settle(early.hold_id, 50)))
            assert (held.code, settled.code) == (Code.HELD, Code.SETTLED)
            assert await balance(ledger) == (120, 0)

    asyncio.run(run())


def test_worker_with_a_wrong_clock_moves_no_window(redis_url: str) -> None:
    """Two workers whose own clocks are an hour off, one ahead, one behind, charge the same window of Redis' time."""

    async def run() -> None:
        spec = account(cap=1_000)
        hour_us = 3_600_000_000
        ledgers = []
        for offset_us in (hour_us, -hour_us):
            channel = open_channel(redis_url, "0", 1_000)
            ledger = RedisLedger(channel, PATIENT, wall_us=functools.partial(skewed_us, offset_us))
            ledgers.append(ledger)
        windows = set()
        for number, ledger in enumerate(ledgers):
            posting = Posting(spec, deciding=True, fixed=10)
            request = HoldRequest(ids.mint(ledger.now_us(), number.to_bytes(8, "big")), (one_plan(posting),), 60_000)
            reply = await ledger.hold(request)
            assert reply.code is Code.HELD
            windows.add((reply.states[0].window_start_us, reply.states[0].window_end_us))
        assert len(windows) == 1
        assert abs(ledgers[0].now_us() - ledgers[1].now_us()) < hour_us // 60
        balances, _ = await ledgers[0].balances(rule=None, limit=10, cursor="")
        assert [b.held for b in balances] == [20]
        for ledger in ledgers:
            await ledger.close()

    asyncio.run(run())


def skewed_us(offset_us: int) -> int:
    """A worker's clock that is off."""
    return time.time_ns() // 1000 + offset_us


def test_requests_measure_counts_what_reached_the_provider(redis_url: str) -> None:
    """A release charges the requests it names: 1 where the provider was reached, 0 where nothing was sent."""

    async def run() -> None:
        spec = account(cap=100, window=LIFETIME, measure=Measure.REQUESTS)
        async with connected(redis_url) as ledger:
            for number, requests in enumerate((0, 1)):
                request = simple_hold(ids.mint(ledger.now_us(), number.to_bytes(8, "big")), 1, spec)
                await ledger.hold(request)
                resolution = settle(request.hold_id, 999, requests=requests, basis=Basis.RELEASED)
                assert (await ledger.resolve(resolution)).code is Code.RELEASED
            assert await balance(ledger) == (1, 0)

    asyncio.run(run())


def test_connection_closes_at_any_turn_of_a_send(redis_url: str) -> None:
    """Closing while a command is on its way ends the connection: no turn of the loop loses the cancelling."""

    async def run(turns: int) -> None:
        channel = open_channel(redis_url, "0", 1_000)
        await channel.call("PING")
        on_its_way = channel.call("PING")
        for _ in range(turns):
            await asyncio.sleep(0)
        closing = asyncio.create_task(channel.close())
        await asyncio.wait([closing], timeout=10)
        assert closing.done()
        await asyncio.wait([on_its_way])
        on_its_way.exception()

    for turns in range(12):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(turns))


def test_answer_that_a_busy_loop_reads_late_is_an_answer(redis_url: str) -> None:
    """Redis answered in time while this process was elsewhere: the hold stands, and Redis is not blamed."""

    def keep_busy() -> None:
        time.sleep(3 * HASTY.deadline_ms / 1000)

    async def run() -> None:
        async with connected(redis_url, HASTY) as ledger:
            for number in range(5):
                holding = asyncio.create_task(ledger.hold(new_hold(ledger, number)))
                for _ in range(number):
                    await asyncio.sleep(0)  # the call is as far on its way as that many turns take it
                keep_busy()
                assert (await holding).code is Code.HELD
            assert ledger.counters.timeouts == 0

    for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(run())


SLOW = ("BLPOP", "tg:{0}:nothing", "0.6")
"""A command that Redis answers after 600 ms, and reads nothing of its connection before that."""


@pytest.mark.parametrize(("overtime_ms", "code"), [(10_000, Code.HELD), (0, Code.UNAVAILABLE)])
def test_call_waits_behind_calls_that_are_answered(overtime_ms: int, code: Code, redis_url: str) -> None:
    """A burst takes Redis longer than the deadline: while it answers what came before, it is not silent, and a hold is
    waited for, but not for ever.
    """

    async def run() -> None:
        options = replace(HASTY, deadline_ms=1_000, overtime_ms=overtime_ms)
        channel = open_channel(redis_url, options.realm, options.connect_timeout_ms)
        ledger = RedisLedger(channel, options)
        await ledger.start()
        try:
            await channel.call("PING")
            before = [channel.call(*SLOW) for _ in range(3)]
            reply = await ledger.hold(new_hold(ledger, 1))
            assert reply.code is code
            await asyncio.gather(*before)
        finally:
            await ledger.close()

    asyncio.run(run())
