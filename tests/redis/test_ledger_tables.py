"""Goal: every result code, reached by the shortest story that leads to it, on the model and on Redis alike.

Method: a story is a table. Each row is one call on one account with a cap of 100; its last column is the answer, then
what is spent and held afterwards. `wait` moves the clock by seconds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import pytest

from ext_proc.ledger.interface import (
    AccountSpec,
    AccountState,
    Basis,
    Code,
    Extension,
    HoldReply,
    HoldRequest,
    Ledger,
    Measure,
    Period,
    Posting,
    RefusedBecause,
    Resolution,
    Window,
    WindowKind,
)
from ext_proc.ledger.memory import MemoryLedger
from ext_proc.ledger.redis_ledger import RedisLedger
from tests.ledger_kit import (
    LEASE_MS,
    SECOND_US,
    START_US,
    TestClock,
    account,
    all_keys,
    hold_id,
    on_test_clock,
    one_plan,
    release,
    set_clock,
    settle,
    simple_hold,
    snapshot,
)

pytestmark = pytest.mark.redis

LIFETIME = Window(WindowKind.LIFETIME)

STORIES = {
    "a hold is settled once": """
        hold    a 40  held             0 40
        settle  a 30  settled          30 0
        settle  a 30  exists           30 0
        settle  a 31  already_resolved 30 0
        release a 0   already_resolved 30 0
    """,
    "a hold is released once": """
        hold    a 40  held             0 40
        release a 0   released         0 0
        release a 0   exists           0 0
        settle  a 40  already_resolved 0 0
    """,
    "a repeated hold changes nothing": """
        hold    a 40  held             0 40
        hold    a 40  exists           0 40
        hold    a 41  exists_with_different_amount 0 40
        settle  a 40  settled          40 0
        hold    a 40  already_resolved 40 0
    """,
    "a cap is never passed by holds": """
        hold    a 60  held             0 60
        hold    b 41  refused:contended 0 60
        hold    c 40  held             0 100
        hold    d 101 refused:never_fits 0 100
        settle  a 60  settled          60 40
        hold    e 41  refused:spent    60 40
    """,
    "a settle may exceed its hold": """
        hold    a 60  held             0 60
        settle  a 150 settled          150 0
        hold    b 1   refused:spent    150 0
        hold    c 0   held             150 0
        track   d 5   held             150 5
    """,
    "a refusal is remembered for a minute": """
        hold    a 100 held             0 100
        hold    b 10  refused:contended 0 100
        release a 0   released         0 0
        hold    b 10  refused:contended 0 0
        hold    b 11  exists_with_different_amount 0 0
        wait    59
        hold    b 10  refused:contended 0 0
        wait    1
        hold    b 10  held             0 10
    """,
    "a settle that overtakes its hold entombs it": """
        settle  a 30  tombstoned       0 0
        settle  a 30  exists           0 0
        settle  a 31  already_resolved 0 0
        hold    a 40  already_resolved 0 0
    """,
    "a settle that overtakes its hold is charged when the hold is restored": """
        settle  a 30  tombstoned       0 0
        restore a 40  held             0 40
        settle  a 30  exists           0 40
        settle  a 31  already_resolved 0 40
        restore a 40  exists           0 40
        expire  0                      30 0
        expire  0                      30 0
        restore a 40  already_resolved 30 0
        settle  a 30  exists           30 0
    """,
    "a restored hold passes the cap and a refusal, but not a release": """
        hold    a 101 refused:never_fits 0 0
        restore a 101 held             0 101
        settle  a 99  settled          99 0
        release b 0   tombstoned       99 0
        restore b 40  already_resolved 99 0
        restore c 40  held             99 40
        wait    60
        expire  1                      139 0
        restore c 40  already_resolved 139 0
    """,
    "an expired hold is charged in full and corrected once": """
        hold    a 40  held             0 40
        wait    59
        expire  0                      0 40
        wait    1
        expire  1                      40 0
        expire  0                      40 0
        hold    a 40  already_resolved 40 0
        settle  a 25  corrected        25 0
        settle  a 25  exists           25 0
        settle  a 40  already_resolved 25 0
    """,
    "an expired hold may turn out to have cost more, or nothing": """
        hold    a 40  held             0 40
        hold    b 50  held             0 90
        wait    60
        expire  2                      90 0
        settle  a 75  corrected        125 0
        release b 0   corrected        75 0
    """,
    "a renewed lease does not expire": """
        hold    a 40  held             0 40
        wait    50
        renew   a     renewed          0 40
        wait    50
        expire  0                      0 40
        wait    10
        expire  1                      40 0
        renew   a     not_found        40 0
    """,
    "a hold is extended while there is room": """
        extend  a 10  not_found        0 0
        hold    a 40  held             0 40
        extend  a 10  extended         0 50
        extend  a 10  exists           0 50
        extend  a 9   exists           0 50
        hold    b 30  held             0 80
        extend  a 50  extended         0 100
        extend  a 50  exhausted        0 100
        release b 0   released         0 70
        extend  a 50  extended         0 90
        settle  a 75  settled          75 0
        extend  a 60  already_resolved 75 0
    """,
    "an extended hold expires with all that it carries": """
        hold    a 40  held             0 40
        extend  a 20  extended         0 60
        wait    60
        expire  1                      60 0
        extend  a 30  already_resolved 60 0
        settle  a 45  corrected        45 0
    """,
    "a hold that waited for long can be corrected for as long again, once": """
        lease   172800
        hold    a 40  held             0 40
        wait    172800
        expire  1                      40 0
        wait    172000
        settle  a 25  corrected        25 0
        settle  a 25  exists           25 0
    """,
    "then it is too old": """
        lease   172800
        hold    a 40  held             0 40
        wait    172800
        expire  1                      40 0
        wait    172800
        settle  a 25  too_old          40 0
    """,
    "time that steps back by less than a minute is held at the last change": """
        hold    a 40  held             0 40
        wait    -59
        hold    b 20  held             0 60
        wait    118
        expire  0                      0 60
        wait    1
        expire  2                      60 0
    """,
    "time that steps back by an hour repeats nothing and ends nothing early": """
        hold    a 40  held             0 40
        settle  a 30  settled          30 0
        hold    b 20  held             30 20
        wait    -3600
        hold    a 40  already_resolved 30 20
        settle  a 30  exists           30 20
        hold    b 20  exists           30 20
        hold    c 10  held             30 30
        wait    60
        expire  1                      40 20
        settle  b 15  settled          55 0
        settle  c 5   corrected        50 0
    """,
    "tombstones go, and what comes after them is too old": """
        hold    a 40  held             0 40
        settle  a 30  settled          30 0
        wait    4319
        settle  a 30  exists           30 0
        hold    b 10  held             30 10
        wait    1
        settle  a 30  tombstoned       30 10
        hold    c 10  held             30 20
        wait    4320
        settle  a 30  too_old          30 20
        hold    d 10  too_old          30 20
    """,
}


@dataclass
class Story:
    """One account, and who answers."""

    ledger: Ledger
    clock: TestClock
    spec: AccountSpec = field(default_factory=lambda: account(window=LIFETIME))
    lease_ms: int = LEASE_MS

    async def tell(self, table: str) -> None:
        """Run the rows and check each answer and balance."""
        for line in table.strip().splitlines():
            words = line.split()
            if words[0] == "lease":
                self.lease_ms = int(words[1]) * 1_000
                continue
            if words[0] == "wait":
                await self.wait(int(words[1]))
                continue
            answer = await self.call(words)
            balances, _ = await self.ledger.balances(rule=None, limit=10, cursor="")
            spent, held = (balances[0].spent, balances[0].held) if balances else (0, 0)
            assert [answer, str(spent), str(held)] == words[-3:], line

    async def wait(self, seconds: int) -> None:
        """Move the clock."""
        self.clock.now_us += seconds * SECOND_US
        if isinstance(self.ledger, RedisLedger):
            await set_clock(self.ledger, self.clock)

    async def call(self, words: list[str]) -> str:
        """One row's call and its answer."""
        verb, name = words[0], words[1]
        hold = hold_id(ord(name[0]))
        match verb:
            case "hold" | "track":
                posting = Posting(self.spec, deciding=verb == "hold", fixed=int(words[2]))
                reply = await self.ledger.hold(HoldRequest(hold, (one_plan(posting),), self.lease_ms))
                because = reply.states[0].refused if reply.states else None
                return f"{reply.code}:{because}" if because and reply.code is Code.REFUSED else str(reply.code)
            case "restore":
                request = simple_hold(hold, int(words[2]), self.spec, deciding=False)
                return str((await self.ledger.restore(request)).code)
            case "settle":
                return str((await self.ledger.resolve(settle(hold, int(words[2])))).code)
            case "release":
                return str((await self.ledger.resolve(release(hold))).code)
            case "extend":
                reach = Extension(hold, int(words[2]), 1_000, (self.spec,))
                return str((await self.ledger.extend(reach)).code)
            case "renew":
                return str(await self.ledger.renew([hold], LEASE_MS))
            case _:
                return str(await self.ledger.expire(10))


@pytest.mark.parametrize("store", ["memory", "redis"])
@pytest.mark.parametrize("title", STORIES)
def test_story(title: str, store: str, redis_url: str) -> None:
    """Each row of the table gets its answer, from the model and from Redis."""

    async def run() -> None:
        clock = TestClock()
        if store == "memory":
            await Story(MemoryLedger(clock), clock).tell(STORIES[title])
            return
        ledger = await on_test_clock(redis_url, clock)
        try:
            await Story(ledger, clock).tell(STORIES[title])
        finally:
            await ledger.close()

    asyncio.run(run())


def test_stories_reach_every_code() -> None:
    """No result code is without a story, but those that have tests of their own below."""
    told = " ".join(STORIES.values()).replace(":", " ").split()
    assert {code for code in Code if code not in told} == {Code.UNAVAILABLE, Code.RESET, Code.RESUMED}
    assert {because for because in RefusedBecause if because not in told} == {
        RefusedBecause.CONSTRAINED,
        RefusedBecause.LATCHED,
    }


@pytest.fixture(params=["memory", "redis"])
def ledgers(request: pytest.FixtureRequest, redis_url: str) -> tuple[str, str]:
    """Which ledger a test asks, and where its Redis is."""
    return request.param, redis_url


def ask(ledgers: tuple[str, str], *requests: HoldRequest | Resolution) -> list[HoldReply]:
    """Hold and resolve in order; the holds' answers."""

    async def run() -> list[HoldReply]:
        store, url = ledgers
        clock = TestClock()
        ledger: Ledger = MemoryLedger(clock) if store == "memory" else await on_test_clock(url, clock)
        replies = []
        for request in requests:
            if isinstance(request, Resolution):
                await ledger.resolve(request)
            else:
                replies.append(await ledger.hold(request))
        if isinstance(ledger, RedisLedger):
            await ledger.close()
        return replies

    return asyncio.run(run())


def test_largest_affordable_output_is_granted(ledgers: tuple[str, str]) -> None:
    """A clamp grants exactly the output that fits: one token more would pass the cap."""
    posting = Posting(account(cap=1_000), deciding=True, fixed=100, per_output_milli=2_500)

    (reply,) = ask(ledgers, HoldRequest(hold_id(1), (one_plan(posting, output_min=10, output_max=5_000),), LEASE_MS))

    assert reply.code is Code.HELD
    assert reply.output_limit == 360
    assert reply.states[0].held == 1_000


def test_first_admissible_plan_wins(ledgers: tuple[str, str]) -> None:
    """Plans are tried in order: the dear one does not fit, the cheap one does, the free one is not needed."""
    spec = account(cap=100)
    plans = tuple(one_plan(Posting(spec, deciding=True, fixed=fixed), target=f"a/{fixed}") for fixed in (101, 60, 0))

    (reply,) = ask(ledgers, HoldRequest(hold_id(1), plans, LEASE_MS))

    assert (reply.code, reply.plan_index) == (Code.HELD, 1)


def test_constrained_account_sends_premium_plans_away(ledgers: tuple[str, str]) -> None:
    """Past `spent_below` a plan is not admissible, however much is left, and the next one is taken."""
    spec = account(cap=100)
    premium = one_plan(Posting(spec, deciding=True, fixed=1, spent_below=90))
    cheap = one_plan(Posting(spec, deciding=True, fixed=1))
    first = HoldRequest(hold_id(1), (one_plan(Posting(spec, deciding=True, fixed=90)),), LEASE_MS)
    second = HoldRequest(hold_id(2), (premium, cheap), LEASE_MS)
    third = HoldRequest(hold_id(3), (premium,), LEASE_MS)

    replies = ask(ledgers, first, settle(first.hold_id, 90), second, third)

    assert replies[1].plan_index == 1
    assert replies[2].code is Code.REFUSED
    assert replies[2].states[0].refused is RefusedBecause.CONSTRAINED


def test_refusal_holds_nothing_at_any_level(ledgers: tuple[str, str]) -> None:
    """When one account of four refuses, the other three hold nothing."""
    roomy = [account(f"level-{n}", cap=1_000) for n in range(3)]
    tight = account("tight", cap=10)
    postings = [Posting(spec, deciding=True, fixed=50) for spec in (*roomy, tight)]
    probe = [Posting(spec, deciding=True, fixed=0) for spec in (*roomy, tight)]

    refused, held = ask(
        ledgers,
        HoldRequest(hold_id(1), (one_plan(*postings),), LEASE_MS),
        HoldRequest(hold_id(2), (one_plan(*probe),), LEASE_MS),
    )

    assert [state.account.rule_id for state in refused.states] == ["tight"]
    assert [(state.spent, state.held) for state in held.states] == [(0, 0)] * 4


def test_next_attempt_resolves_the_one_before(ledgers: tuple[str, str]) -> None:
    """Attempt 2 fits only because attempt 1 is released in the same step."""
    spec = account(cap=100)
    first = HoldRequest(hold_id(1), (one_plan(Posting(spec, deciding=True, fixed=80)),), LEASE_MS)
    second = HoldRequest(
        hold_id(1, attempt=2),
        (one_plan(Posting(spec, deciding=True, fixed=70)),),
        LEASE_MS,
        previous=settle(first.hold_id, 20),
    )

    replies = ask(ledgers, first, second, second)

    assert [reply.code for reply in replies] == [Code.HELD, Code.HELD, Code.EXISTS]
    assert (replies[1].states[0].spent, replies[1].states[0].held) == (20, 70)


def test_exact_sliding_window_frees_each_entry_at_its_time(redis_url: str) -> None:
    """Three requests a minute: the fourth is told the instant the first is forgotten, and passes then, not before."""
    spec = account(window=Window(WindowKind.SLIDING, Period.MINUTE), measure=Measure.REQUESTS, cap=3)

    async def run(ledger: Ledger, clock: TestClock) -> None:
        async def hold(number: int) -> HoldReply:
            posting = Posting(spec, deciding=True, fixed=1)
            return await ledger.hold(HoldRequest(hold_id(number, clock()), (one_plan(posting),), LEASE_MS))

        async def wait(step_us: int) -> None:
            clock.now_us += step_us
            if isinstance(ledger, RedisLedger):
                await set_clock(ledger, clock)

        for number in range(3):
            assert (await hold(number)).code is Code.HELD
            await wait(10 * SECOND_US)
        refused = await hold(3)
        assert refused.states[0].window_end_us == START_US + 60 * SECOND_US
        await wait(30 * SECOND_US - 1)
        assert (await hold(4)).code is Code.REFUSED
        await wait(1)
        assert (await hold(5)).code is Code.HELD
        assert (await hold(6)).code is Code.REFUSED

    async def both() -> None:
        clock = TestClock()
        await run(MemoryLedger(clock), clock)
        clock = TestClock()
        ledger = await on_test_clock(redis_url, clock)
        await run(ledger, clock)
        await ledger.close()

    asyncio.run(both())


def test_large_sliding_window_never_passes_its_limit_in_any_minute(redis_url: str) -> None:
    """Above 1,000 the window is kept in sub-windows: no minute ever holds more than the limit, and what is forgotten
    late is at most a sixtieth of the window.
    """
    spec = account(window=Window(WindowKind.SLIDING, Period.MINUTE), measure=Measure.TOKENS, cap=60_000)

    async def run() -> None:
        clock = TestClock(START_US + 123_457)
        ledger = await on_test_clock(redis_url, clock)
        granted: list[tuple[int, int]] = []
        for number in range(200):
            posting = Posting(spec, deciding=True, fixed=1_500)
            reply = await ledger.hold(HoldRequest(hold_id(number, clock()), (one_plan(posting),), LEASE_MS))
            if reply.code is Code.HELD:
                granted.append((clock(), 1_500))
            within = sum(amount for at, amount in granted if at > clock() - 60 * SECOND_US)
            late = sum(amount for at, amount in granted if at > clock() - 61 * SECOND_US)
            assert within <= spec.cap
            assert reply.code is Code.HELD or late + 1_500 > spec.cap
            clock.now_us += 700_001
            await set_clock(ledger, clock)
        await ledger.close()

    asyncio.run(run())


def test_concurrency_is_freed_when_resolved(ledgers: tuple[str, str]) -> None:
    """An open account counts what is in flight, nothing else: two pass, the third after one has ended."""
    spec = account(window=Window(WindowKind.OPEN), measure=Measure.CONCURRENT, cap=2)
    requests = [HoldRequest(hold_id(n), (one_plan(Posting(spec, deciding=True, fixed=1)),), LEASE_MS) for n in range(4)]

    replies = ask(ledgers, *requests[:3], settle(requests[0].hold_id, 500), requests[3])

    assert [reply.code for reply in replies] == [Code.HELD, Code.HELD, Code.REFUSED, Code.HELD]
    assert replies[3].states == (
        AccountState(spec, deciding=True, spent=0, held=2, window_start_us=None, window_end_us=None),
    )


def test_request_belongs_to_the_window_it_was_held_in(redis_url: str) -> None:
    """A request held before midnight and settled after it is charged to the day it was held on."""

    async def run() -> None:
        clock = TestClock(START_US + 86_399 * SECOND_US)
        ledger = await on_test_clock(redis_url, clock)
        spec = account(cap=100)
        posting = Posting(spec, deciding=True, fixed=60)
        first, second = hold_id(1, clock()), hold_id(2, clock())
        await ledger.hold(HoldRequest(first, (one_plan(posting),), LEASE_MS))
        clock.now_us += 2 * SECOND_US
        await set_clock(ledger, clock)
        await ledger.resolve(settle(first, 50))
        reply = await ledger.hold(HoldRequest(second, (one_plan(posting),), LEASE_MS))
        assert (reply.states[0].spent, reply.states[0].held) == (0, 60)
        spent = {await ledger.read("HGET", key, "spent") for key in await all_keys(ledger, "tg:{0}:calendar:*")}
        assert spent == {b"0", b"50"}
        await ledger.close()

    asyncio.run(run())


def test_window_that_ended_since_is_asked_again(redis_url: str) -> None:
    """A worker whose idea of the time is a day old still charges the window of Redis' time."""

    async def run() -> None:
        clock = TestClock()
        ledger = await on_test_clock(redis_url, clock)
        spec = account(cap=100)
        posting = Posting(spec, deciding=True, fixed=10)
        await ledger.hold(HoldRequest(hold_id(1), (one_plan(posting),), LEASE_MS))
        clock.now_us += 3 * 86_400 * SECOND_US
        await set_clock(ledger, clock)
        reply = await ledger.hold(HoldRequest(hold_id(2, clock()), (one_plan(posting),), LEASE_MS))
        assert reply.code is Code.HELD
        assert reply.states[0].window_start_us == START_US + 3 * 86_400 * SECOND_US
        await ledger.close()

    asyncio.run(run())


def test_journal_entry_tells_the_whole_attempt(redis_url: str) -> None:
    """Context, detail and figures become one object; a release is journalled with a charge of nothing."""

    async def run() -> None:
        clock = TestClock()
        ledger = await on_test_clock(redis_url, clock)
        context = '{"caller":{"user":"ada"},"tags":{"repo":"core"},"verdict":"pass"}'
        for number in (1, 2):
            posting = Posting(account(cap=1_000), deciding=True, fixed=100)
            await ledger.hold(HoldRequest(hold_id(number), (one_plan(posting),), LEASE_MS, context=context))
        await ledger.resolve(Resolution(hold_id(1), settle("", 70).charge, Basis.ESTIMATED, '{"status":200}'))
        await ledger.resolve(release(hold_id(2)))
        released, settled = await ledger.journal(10)
        assert settled == {
            "hold_id": hold_id(1),
            "attempt": 1,
            "time": "2099-01-01T00:00:00.000000Z",
            "caller": {"user": "ada"},
            "tags": {"repo": "core"},
            "verdict": "pass",
            "status": 200,
            "charge_nanodollars": 70,
            "hold_nanodollars": 100,
            "input_tokens": 0,
            "output_tokens": 0,
            "basis": "estimated",
        }
        assert (released["basis"], released["charge_nanodollars"]) == ("released", 0)
        await ledger.close()

    asyncio.run(run())


HOLD_KEYS = ["clock", "leases", "accounts", "hold:{id}", "refused:{id}", "{account}", "{sliding}", "{slots}"]
RESOLVE_KEYS = ["clock", "leases", "journal", "outbox", "hold:{id}", "{account}", "{sliding}"]
EXPIRE_KEYS = ["clock", "leases", "journal", "accounts", "hold:{id}", "{account}", "{sliding}"]


@pytest.mark.parametrize(
    ("verb", "kind"),
    [*(("hold", k) for k in HOLD_KEYS), *(("resolve", k) for k in RESOLVE_KEYS), *(("expire", k) for k in EXPIRE_KEYS)],
)
def test_key_of_another_type_is_found_before_anything_is_written(verb: str, kind: str, redis_url: str) -> None:
    """Whatever key somebody has overwritten, the script fails before its first write: nothing is half done."""
    budget = account(cap=1_000)
    limit = account("rate", window=Window(WindowKind.SLIDING, Period.MINUTE), measure=Measure.TOKENS, cap=1_000)

    async def run() -> None:
        ledger = await on_test_clock(redis_url, TestClock())
        postings = [Posting(budget, deciding=True, fixed=100), Posting(limit, deciding=True, fixed=100)]
        request = HoldRequest(hold_id(1), (one_plan(*postings),), 0 if verb == "expire" else LEASE_MS)
        await ledger.hold(request)
        keys = [key.decode() for key in await all_keys(ledger)]
        names = {
            "id": hold_id(1),
            "account": next(key for key in keys if ":calendar:" in key).removeprefix("tg:{0}:"),
            "sliding": next(key for key in keys if ":sliding:" in key).removeprefix("tg:{0}:"),
            "slots": next(key for key in keys if ":slots:" in key).removeprefix("tg:{0}:"),
        }
        if verb == "hold":
            await ledger.read("DEL", *(key for key in keys if not key.endswith("testclock")))
        key = "tg:{0}:" + kind.format(**names)
        await ledger.read("DEL", key)
        if not kind.startswith(("hold:", "refused:")):
            await ledger.read("SET", key, "somebody was here")
        else:
            await ledger.read("RPUSH", key, "somebody was here")
        before = await snapshot(ledger)
        if verb == "hold":
            assert (await ledger._hold(request)).code is Code.UNAVAILABLE
        elif verb == "resolve":
            assert (await ledger._resolve(settle(hold_id(1), 800))).code is Code.UNAVAILABLE
        else:
            assert await ledger.expire(10) == 0
        assert await snapshot(ledger) == before
        assert ledger.counters.refused_by_store == 1
        ledger._retries.clear()
        await ledger.close()

    asyncio.run(run())


@pytest.mark.parametrize("field", ["spent", "held", "exp", "crossed"])
def test_corrupt_figure_is_found_before_anything_is_written(field: str, redis_url: str) -> None:
    """A balance that is no integer is an error, never taken for nothing: the hold is `unavailable`, nothing written."""

    async def run() -> None:
        ledger = await on_test_clock(redis_url, TestClock())
        posting = Posting(account(cap=1_000), deciding=True, fixed=100)
        await ledger.hold(HoldRequest(hold_id(1), (one_plan(posting),), LEASE_MS))
        (key,) = await all_keys(ledger, "tg:{0}:calendar:*")
        for nonsense in ("12.5", "much"):
            await ledger.read("HSET", key, field, nonsense)
            before = await snapshot(ledger)
            reply = await ledger.hold(HoldRequest(hold_id(2), (one_plan(posting),), LEASE_MS))
            assert reply.code is Code.UNAVAILABLE
            assert "corrupt" in ledger.last_error
            assert await snapshot(ledger) == before
        await ledger.close()

    asyncio.run(run())


def test_large_step_back_of_redis_time_is_counted(redis_url: str) -> None:
    """A step of a minute is bridged in silence by the last time seen; a larger one is believed and counted."""

    async def run() -> None:
        clock = TestClock()
        ledger = await on_test_clock(redis_url, clock)
        spec = account(cap=1_000)

        async def hold_at(now_us: int, number: int) -> int:
            clock.now_us = now_us
            await set_clock(ledger, clock)
            posting = Posting(spec, deciding=True, fixed=1)
            reply = await ledger.hold(HoldRequest(hold_id(number), (one_plan(posting),), LEASE_MS))
            assert reply.stamp is not None
            return reply.stamp.redis_us

        later = START_US + 3_600 * SECOND_US
        assert await hold_at(later, 1) == later
        assert await hold_at(later - 60 * SECOND_US, 2) == later
        assert await ledger.read("HGET", "tg:{0}:clock", "steps") is None
        assert await hold_at(later - 61 * SECOND_US, 3) == later - 61 * SECOND_US
        assert await ledger.read("HGET", "tg:{0}:clock", "steps") == b"1"
        await ledger.close()

    asyncio.run(run())


def test_redis_has_one_epoch_for_its_life(redis_url: str) -> None:
    """The epoch is set once and the sequence only rises: neither is mistaken for a loss."""

    async def run() -> None:
        ledger = await on_test_clock(redis_url, TestClock())
        stamps = []
        for number in range(3):
            posting = Posting(account(cap=1_000), deciding=True, fixed=1)
            stamps.append((await ledger.hold(HoldRequest(hold_id(number), (one_plan(posting),), LEASE_MS))).stamp)
            stamps.append((await ledger.resolve(settle(hold_id(number), 1))).stamp)
        epochs = {stamp.epoch for stamp in stamps if stamp is not None}
        assert len(epochs) == 1
        assert "" not in epochs
        assert [stamp.seq for stamp in stamps if stamp is not None] == [1, 2, 3, 4, 5, 6]
        assert ledger.counters.epochs_changed == ledger.counters.sequence_lost == 0
        await ledger.close()

    asyncio.run(run())


def test_rate_window_stores_nothing_it_has_forgotten(redis_url: str) -> None:
    """A rate window that is used for a long time keeps the fields of its last period only."""

    async def run() -> None:
        clock = TestClock()
        ledger = await on_test_clock(redis_url, clock)
        spec = account(cap=100, window=Window(WindowKind.SLIDING, Period.SECOND), measure=Measure.REQUESTS)
        sizes = []
        for number in range(60):
            posting = Posting(spec, deciding=True, fixed=1)
            await ledger.hold(HoldRequest(hold_id(number, clock()), (one_plan(posting),), LEASE_MS))
            await ledger.resolve(settle(hold_id(number, clock()), 1))
            clock.now_us += SECOND_US // 2
            await set_clock(ledger, clock)
            (key,), (slots,) = [await all_keys(ledger, f"tg:{{0}}:{kind}:*") for kind in ("sliding", "slots")]
            sizes.append((await ledger.read("HLEN", key), await ledger.read("ZCARD", slots)))
        assert sizes[-1] == sizes[5]
        await ledger.close()

    asyncio.run(run())


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_extension_is_the_largest_that_fits_and_every_account_follows(store: str, redis_url: str) -> None:
    """The account that may refuse sets how far it goes; the rest of the hold takes the same tokens, past its caps."""
    cost = account("cost", window=LIFETIME, cap=100)
    tokens = account("tokens", window=LIFETIME, measure=Measure.TOKENS, cap=15)
    requests = account("requests", window=LIFETIME, measure=Measure.REQUESTS, cap=1)
    postings = (
        Posting(cost, deciding=True, fixed=0, per_output_milli=2_500),
        Posting(tokens, deciding=True, fixed=5, per_output_milli=1_000),
        Posting(requests, deciding=True, fixed=1),
    )

    async def run() -> None:
        clock = TestClock()
        ledger: Ledger = MemoryLedger(clock) if store == "memory" else await on_test_clock(redis_url, clock)
        hold = hold_id(1)
        await ledger.hold(HoldRequest(hold, (one_plan(*postings, output_min=10, output_max=10),), LEASE_MS))

        extended = await ledger.extend(Extension(hold, 1_000, 2_500, (cost,)))
        raised = await ledger.extend(Extension(hold, 50, 2_500, (replace(cost, cap=1_000),)))

        assert (extended.code, extended.output) == (Code.EXTENDED, 40)
        assert (raised.code, raised.output) == (Code.EXTENDED, 50)
        balances, _ = await ledger.balances(rule=None, limit=10, cursor="")
        assert {balance.rule: balance.held for balance in balances} == {"cost": 125, "tokens": 55, "requests": 1}
        if isinstance(ledger, RedisLedger):
            await ledger.close()

    asyncio.run(run())
