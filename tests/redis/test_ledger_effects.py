"""Goal: what follows a charge happens once, in its step, and is bounded: alerts, top consumers, series, latch, reset.

Method: the model and Redis are asked the same; both must give the answer written here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

from ext_proc.ledger.interface import (
    AccountSpec,
    Code,
    HoldReply,
    HoldRequest,
    Measure,
    Period,
    Posting,
    RefusedBecause,
    TopConsumer,
    Window,
    WindowKind,
)
from ext_proc.ledger.memory import OTHER, SERIES_MAX, TOP_MAX, MemoryLedger
from ext_proc.ledger.redis_ledger import RedisLedger
from tests.ledger_kit import (
    DAY_US,
    LEASE_MS,
    START_US,
    TestClock,
    account,
    all_keys,
    hold_id,
    on_test_clock,
    one_plan,
    set_clock,
    settle,
)

pytestmark = pytest.mark.redis

LIFETIME = Window(WindowKind.LIFETIME)
Tags = tuple[tuple[str, str], ...]


@dataclass
class Desk:
    """A ledger, its clock, and short ways to spend."""

    ledger: MemoryLedger | RedisLedger
    clock: TestClock
    count: int = 0

    async def hold(self, spec: AccountSpec, amount: int, tags: Tags = (), *, deciding: bool = True) -> HoldReply:
        """Ask for a hold."""
        self.count += 1
        posting = Posting(spec, deciding=deciding, fixed=amount)
        request = HoldRequest(hold_id(self.count, self.clock()), (one_plan(posting),), LEASE_MS, series=tags)
        return await self.ledger.hold(request)

    async def spend(self, spec: AccountSpec, amount: int, tags: Tags = ()) -> None:
        """Hold nothing, settle the amount."""
        assert (await self.hold(spec, 0, tags, deciding=False)).code is Code.HELD
        await self.ledger.resolve(settle(hold_id(self.count, self.clock()), amount))

    async def move(self, step_us: int) -> None:
        """Time passes."""
        self.clock.now_us += step_us
        if isinstance(self.ledger, RedisLedger):
            await set_clock(self.ledger, self.clock)

    async def told(self) -> list[tuple[int, int, int]]:
        """The alerts so far: percent, spent, cap."""
        return [(alert.percent, alert.spent, alert.cap) for alert in await self.ledger.alerts("", 100)]


@pytest.fixture(params=["memory", "redis"])
def at_desk(request: pytest.FixtureRequest, redis_url: str) -> Callable[[Callable[[Desk], Awaitable[None]]], None]:
    """Run a story at the model's desk or at Redis'."""

    def run(story: Callable[[Desk], Awaitable[None]]) -> None:
        async def main() -> None:
            clock = TestClock()
            if request.param == "memory":
                await story(Desk(MemoryLedger(clock), clock))
                return
            ledger = await on_test_clock(redis_url, clock)
            try:
                await story(Desk(ledger, clock))
            finally:
                await ledger.close()

        asyncio.run(main())

    return run


AtDesk = Callable[[Callable[[Desk], Awaitable[None]]], None]


def test_each_threshold_is_told_once_per_window(at_desk: AtDesk) -> None:
    """The charge that passes a threshold tells it, with its figures, and only a new window tells it again (T57)."""

    async def story(desk: Desk) -> None:
        spec = account(cap=1_000)
        for amount in (749, 1, 10, 200, 40, 500):
            await desk.spend(spec, amount)
        assert await desk.told() == [(75, 750, 1_000), (90, 960, 1_000), (95, 960, 1_000), (100, 1_000, 1_000)]
        await desk.move(DAY_US)
        await desk.spend(spec, 800)
        assert (await desk.told())[4:] == [(75, 800, 1_000)]

    at_desk(story)


def test_raised_cap_arms_what_lies_above_the_spend(at_desk: AtDesk) -> None:
    """After a raise the thresholds above what is spent are told again when passed; those below are not."""

    async def story(desk: Desk) -> None:
        spec = account(cap=1_000)
        await desk.spend(spec, 1_000)
        assert len(await desk.told()) == 4
        raised = replace(spec, cap=1_300)
        await desk.spend(raised, 10)
        await desk.spend(raised, 160)
        assert (await desk.told())[4:] == [(90, 1_170, 1_300)]

    at_desk(story)


def test_raised_cap_does_not_tell_again_what_is_just_reached(at_desk: AtDesk) -> None:
    """A threshold that the spend meets exactly after a raise stays told."""

    async def story(desk: Desk) -> None:
        await desk.spend(account(cap=1_000), 900)
        assert [percent for percent, _, _ in await desk.told()] == [75, 90]
        await desk.spend(account(cap=1_200), 1)
        assert [percent for percent, _, _ in await desk.told()] == [75, 90]

    at_desk(story)


def test_lowered_cap_tells_what_it_leaves_behind(at_desk: AtDesk) -> None:
    """A cap lowered below the spend is told with the next request, which need not be granted."""

    async def story(desk: Desk) -> None:
        spec = account(cap=1_000)
        await desk.spend(spec, 500)
        assert await desk.told() == []
        assert (await desk.hold(replace(spec, cap=500), 1)).code is Code.REFUSED
        assert await desk.told() == [(75, 500, 500), (90, 500, 500), (95, 500, 500), (100, 500, 500)]

    at_desk(story)


def test_alerts_are_read_on_from_the_last_seen(at_desk: AtDesk) -> None:
    """A reader that remembers the last alert it saw gets the ones after it, each once."""

    async def story(desk: Desk) -> None:
        spec = account(cap=100)
        await desk.spend(spec, 92)
        first, second = await desk.ledger.alerts("", 10)
        assert await desk.ledger.alerts(first.id, 10) == (second,)
        assert await desk.ledger.alerts(second.id, 10) == ()

    at_desk(story)


def test_refusal_names_the_top_consumer(at_desk: AtDesk) -> None:
    """The 429 can say who spent it: the largest value of the first tag that has one."""

    async def story(desk: Desk) -> None:
        spec = account(cap=100)
        await desk.spend(spec, 60, (("user", "ci"), ("pipeline", "audit")))
        await desk.spend(spec, 30, (("user", "ci"), ("pipeline", "lint; all")))
        reply = await desk.hold(spec, 20)
        assert reply.states[0].refused is RefusedBecause.SPENT
        assert reply.states[0].top_consumer == TopConsumer("pipeline", "audit", 60)
        (balance,), _ = await desk.ledger.balances(rule=None, limit=1, cursor="")
        assert (await desk.ledger.top_consumers(balance.name, 2))[0] == TopConsumer("user", "ci", 90)

    at_desk(story)


def test_top_consumers_are_bounded(at_desk: AtDesk) -> None:
    """However many values clients send, an account keeps a hundred apart and counts the rest under `other`."""

    async def story(desk: Desk) -> None:
        spec = account(cap=10**6)
        for number in range(TOP_MAX + 30):
            await desk.spend(spec, 10, (("user", f"user-{number:04}"),))
        await desk.spend(spec, 5, (("user", "user-0000"),))
        (balance,), _ = await desk.ledger.balances(rule=None, limit=1, cursor="")
        ranked = await desk.ledger.top_consumers(balance.name, 1_000)
        assert len(ranked) == TOP_MAX + 1
        assert ranked[0] == TopConsumer("user", OTHER, 300)
        assert ranked[1] == TopConsumer("user", "user-0000", 15)
        assert sum(consumer.spent for consumer in ranked) == balance.spent

    at_desk(story)


def test_series_keep_hours_and_days_apart_and_bounded(at_desk: AtDesk) -> None:
    """Spend by tag value is kept per UTC hour and day; past 200 values the rest is `other`, and sums stay right."""

    async def story(desk: Desk) -> None:
        spec = account(cap=10**6)
        for number in range(SERIES_MAX + 7):
            await desk.spend(spec, 3, (("repo", f"repo-{number}"),))
        await desk.move(3_600_000_000)
        await desk.spend(spec, 4, (("repo", "repo-1"),))
        hours = await desk.ledger.series("repo", Period.HOUR, start_us=START_US, end_us=START_US + DAY_US)
        assert [(point.start_us - START_US, point.cost_nanodollars) for point in hours["repo-1"]] == [
            (0, 3),
            (3_600_000_000, 4),
        ]
        assert [point.cost_nanodollars for point in hours[OTHER]] == [21]
        days = await desk.ledger.series("repo", Period.DAY, start_us=START_US, end_us=START_US + DAY_US)
        assert sum(point.cost_nanodollars for points in days.values() for point in points) == 3 * (SERIES_MAX + 7) + 4

    at_desk(story)


def test_latched_account_stays_shut_until_resumed(at_desk: AtDesk) -> None:
    """Once exhausted a latching account refuses across its reset, free requests too, until somebody resumes it."""

    async def story(desk: Desk) -> None:
        spec = replace(account(cap=100), latch=True)
        await desk.spend(spec, 95)
        assert (await desk.hold(spec, 10)).states[0].refused is RefusedBecause.SPENT
        await desk.move(DAY_US)
        reply = await desk.hold(spec, 0)
        assert reply.states[0].refused is RefusedBecause.LATCHED
        await desk.spend(spec, 1)
        (balance,), _ = await desk.ledger.balances(rule=None, limit=1, cursor="")
        assert await desk.ledger.resume(balance.name, "by ada") is Code.RESUMED
        assert await desk.ledger.resume(balance.name, "by ada") is Code.NOT_FOUND
        assert (await desk.hold(spec, 10)).code is Code.HELD
        (newest,) = await desk.ledger.journal(1)
        assert (newest["event"], newest["note"]) == ("resumed", "by ada")
        assert newest["account"] == balance.name

    at_desk(story)


def test_settle_past_the_cap_latches(at_desk: AtDesk) -> None:
    """The charge that reaches the cap shuts a latching account, without waiting for a refusal."""

    async def story(desk: Desk) -> None:
        spec = replace(account(cap=100), latch=True)
        await desk.spend(spec, 120)
        await desk.move(DAY_US)
        assert (await desk.hold(spec, 1)).states[0].refused is RefusedBecause.LATCHED

    at_desk(story)


def test_reset_leaves_late_settles_to_the_old_generation(at_desk: AtDesk) -> None:
    """An account reset by hand begins at nothing; what was in flight settles where it was held, never below zero."""

    async def story(desk: Desk) -> None:
        spec = account(cap=100, window=LIFETIME)
        await desk.spend(spec, 50, (("user", "ada"),))
        assert (await desk.hold(spec, 40)).code is Code.HELD
        in_flight = hold_id(desk.count, desk.clock())
        (before,), _ = await desk.ledger.balances(rule=None, limit=1, cursor="")
        assert await desk.ledger.reset(before.name, "by ada") is Code.RESET
        assert (await desk.ledger.journal(1))[0]["account"] == before.name
        assert await desk.ledger.top_consumers(before.name, 5) == ()
        assert (await desk.hold(spec, 100)).code is Code.HELD
        assert (await desk.ledger.resolve(settle(in_flight, 35))).code is Code.SETTLED
        (after,), _ = await desk.ledger.balances(rule=None, limit=1, cursor="")
        assert (after.spent, after.held) == (0, 100)
        assert await desk.ledger.reset("lifetime:0:0", "by ada") is Code.NOT_FOUND

    at_desk(story)


def test_old_generation_keeps_its_own_books(redis_url: str) -> None:
    """What settles after a reset is added up in the generation it was held in, for whoever reconciles by hand."""

    async def run() -> None:
        clock = TestClock()
        ledger = await on_test_clock(redis_url, clock)
        desk = Desk(ledger, clock)
        spec = account(cap=100, window=LIFETIME)
        await desk.spend(spec, 50)
        await desk.hold(spec, 40)
        in_flight = hold_id(desk.count, clock())
        (key,) = await all_keys(ledger, "tg:{0}:lifetime:*")
        generation = await ledger.read("HGET", key, "gen")
        assert isinstance(generation, bytes)
        await ledger.reset(key.decode().removeprefix("tg:{0}:"), "by ada")
        fields = (b"spent:" + generation, b"held:" + generation)
        assert await ledger.read("HMGET", key, *fields) == [b"50", b"40"]
        await ledger.resolve(settle(in_flight, 35))
        assert await ledger.read("HMGET", key, *fields) == [b"85", b"0"]
        await ledger.close()

    asyncio.run(run())


def test_spent_rate_window_says_when_it_is_free_again(at_desk: AtDesk) -> None:
    """Refused for what is settled, a caller is told the instant at which enough of it is forgotten."""

    async def story(desk: Desk) -> None:
        spec = account(cap=100, window=Window(WindowKind.SLIDING, Period.MINUTE))
        for amount in (30, 60):
            await desk.spend(spec, amount)
            await desk.move(10_000_000)
        small, large = await desk.hold(spec, 20), await desk.hold(spec, 70)
        assert [reply.states[0].refused for reply in (small, large)] == [RefusedBecause.SPENT] * 2
        assert small.states[0].window_end_us == START_US + 60_000_000
        assert large.states[0].window_end_us == START_US + 70_000_000
        assert (await desk.hold(spec, 101)).states[0].window_end_us is None

    at_desk(story)


def test_tokens_and_dollars_are_counted_apart(at_desk: AtDesk) -> None:
    """A token account's top consumer and threshold are in tokens."""

    async def story(desk: Desk) -> None:
        spec = account(cap=100, measure=Measure.TOKENS)
        await desk.hold(spec, 0, (("repo", "core"),))
        resolution = settle(hold_id(desk.count, desk.clock()), 10**9)
        await desk.ledger.resolve(
            replace(resolution, charge=replace(resolution.charge, input_tokens=70, output_tokens=9))
        )
        (balance,), _ = await desk.ledger.balances(rule=None, limit=1, cursor="")
        assert balance.spent == 79
        assert await desk.ledger.top_consumers(balance.name, 5) == (TopConsumer("repo", "core", 79),)
        assert await desk.told() == [(75, 79, 100)]

    at_desk(story)


def test_idle_lifetime_account_begins_anew(at_desk: AtDesk) -> None:
    """A lifetime account that nobody used for ninety days is forgotten: spend, thresholds, top consumers and all."""

    async def story(desk: Desk) -> None:
        spec = account(cap=100, window=LIFETIME)
        await desk.spend(spec, 80, (("user", "ada"),))
        await desk.move(60 * DAY_US)
        assert (await desk.hold(spec, 10)).states[0].spent == 80
        await desk.move(92 * DAY_US)
        in_flight = hold_id(desk.count, desk.clock() - 92 * DAY_US)
        assert await desk.ledger.expire(10) == 1
        reply = await desk.hold(spec, 30)
        assert (reply.states[0].spent, reply.states[0].held) == (0, 30)
        assert (await desk.ledger.resolve(settle(in_flight, 1))).code is Code.CORRECTED
        (balance,), _ = await desk.ledger.balances(rule=None, limit=5, cursor="")
        assert (balance.spent, balance.held) == (0, 30)
        assert await desk.ledger.top_consumers(balance.name, 5) == ()
        await desk.spend(spec, 75)
        assert await desk.told() == [(75, 80, 100), (75, 75, 100)]

    at_desk(story)


def test_rate_window_after_a_long_pause_begins_anew(at_desk: AtDesk) -> None:
    """Entries of a rate window that was forgotten whole neither count nor show in what is told of it."""

    async def story(desk: Desk) -> None:
        spec = account(cap=1_000, window=Window(WindowKind.SLIDING, Period.MINUTE), measure=Measure.REQUESTS)
        for _ in range(3):
            await desk.hold(spec, 1)
            await desk.move(1_000)
        await desk.move(DAY_US)
        reply = await desk.hold(spec, 1)
        assert (reply.states[0].held, reply.states[0].window_end_us) == (1, desk.clock() + 60_000_000)
        await desk.move(61_000_000)
        reply = await desk.hold(spec, 1)
        assert (reply.states[0].held, reply.states[0].window_end_us) == (1, desk.clock() + 60_000_000)

    at_desk(story)


def test_rate_window_forgets_what_was_settled(at_desk: AtDesk) -> None:
    """Settled and open amounts of a rate window are forgotten alike, each a minute after it was held, exactly."""

    async def story(desk: Desk) -> None:
        spec = account(cap=100, window=Window(WindowKind.SLIDING, Period.MINUTE), measure=Measure.COST)
        await desk.hold(spec, 60)
        await desk.ledger.resolve(settle(hold_id(1, desk.clock()), 50))
        await desk.move(20_000_000)
        await desk.hold(spec, 30)
        refused = await desk.hold(spec, 40)
        assert (refused.states[0].spent, refused.states[0].held) == (50, 30)
        assert refused.states[0].refused is RefusedBecause.CONTENDED
        assert refused.states[0].window_end_us == START_US + 60_000_000
        await desk.move(40_000_000)
        granted = await desk.hold(spec, 40)
        assert (granted.states[0].spent, granted.states[0].held) == (0, 70)
        assert granted.states[0].window_end_us == START_US + 80_000_000
        await desk.ledger.resolve(settle(hold_id(2, START_US + 20_000_000), 35))
        await desk.move(20_000_000)
        last = await desk.hold(spec, 60)
        assert (last.states[0].spent, last.states[0].held) == (0, 100)

    at_desk(story)


def test_settle_after_its_slot_is_forgotten_moves_no_rate_window(at_desk: AtDesk) -> None:
    """A request that runs longer than the window has left it: its settle changes nothing there."""

    async def story(desk: Desk) -> None:
        spec = account(cap=100, window=Window(WindowKind.SLIDING, Period.MINUTE), measure=Measure.COST)
        await desk.hold(spec, 60)
        await desk.move(61_000_000)
        await desk.hold(spec, 10)
        assert (await desk.ledger.resolve(settle(hold_id(1, START_US), 90))).code is Code.SETTLED
        state = (await desk.hold(spec, 10)).states[0]
        assert (state.spent, state.held) == (0, 20)

    at_desk(story)


def test_rate_window_keeps_a_thousand_instants_at_most(redis_url: str) -> None:
    """A tracked rate window far past its cap goes over to sub-windows: what it stores stays bounded, and counts all."""

    async def run() -> None:
        clock = TestClock()
        ledger = await on_test_clock(redis_url, clock)
        spec = account(cap=10, window=Window(WindowKind.SLIDING, Period.HOUR), measure=Measure.REQUESTS)
        desk = Desk(ledger, clock)
        for _ in range(1_050):
            reply = await desk.hold(spec, 1, deciding=False)
            await desk.move(1_000)
        assert reply.states[0].held == 1_050
        (slots,) = await all_keys(ledger, "tg:{0}:slots:*")
        assert await ledger.read("ZCARD", slots) == 1_001
        await desk.move(3_599_000_000)
        await desk.hold(spec, 1, deciding=False)
        newest = await ledger.read("ZREVRANGE", slots, 0, 0)
        assert newest == [str(clock()).encode()]
        await ledger.close()

    asyncio.run(run())
