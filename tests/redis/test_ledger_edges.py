"""Goal: the rare lines of the scripts do what the model does: the instants themselves, rules edited while their account
lives, one step that both spends and asks, and what is stored afterwards.

Method: `Pair` asks the model and Redis the same. What the model cannot know, such as an expiry, is read from Redis.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from ext_proc.ledger.amounts import MAX_AMOUNT
from ext_proc.ledger.interface import (
    Code,
    Extension,
    HoldReply,
    Measure,
    Period,
    Posting,
    RefusedBecause,
    TopConsumer,
    Window,
    WindowKind,
)
from tests.ledger_kit import (
    DAY_US,
    LEASE_MS,
    SECOND_US,
    START_US,
    Pair,
    Told,
    account,
    all_keys,
    hold_id,
    one_plan,
    settle,
    simple_hold,
    snapshot,
)

pytestmark = pytest.mark.redis

LIFETIME = Window(WindowKind.LIFETIME)
MINUTE = Window(WindowKind.SLIDING, Period.MINUTE)
OPEN = Window(WindowKind.OPEN)
RATE = account("rate", cap=100, window=MINUTE, measure=Measure.TOKENS)
KEEP_US = 72 * 60 * SECOND_US


async def the_key(both: Pair, kind: str) -> str:
    """The only key of a kind."""
    (key,) = await all_keys(both.redis, f"tg:{{0}}:{kind}:*")
    return key.decode()


EXPIRIES_MS = """
local time, ends = redis.call('TIME'), {}
for i, key in ipairs(KEYS) do
  local left = redis.call('PTTL', key)
  ends[i] = left < 0 and left or time[1] * 1000 + math.floor(time[2] / 1000) + left
end
return ends
"""


async def expiries_us(both: Pair, *keys: str) -> list[int]:
    """When Redis forgets these keys, to the few milliseconds that reading takes."""
    read = await both.redis.read("EVAL", EXPIRIES_MS, len(keys), *keys)
    return [at_ms * 1_000 for at_ms in cast("list[int]", read)]


# --- one step that both spends and asks -----------------------------------------------------------------------------


def test_attempt_is_refused_for_what_the_one_before_it_has_just_spent(told: Told) -> None:
    """The settle of attempt 1 latches the account: attempt 2, in the same step, hears of it and of who spent it."""

    async def story(both: Pair) -> None:
        spec = replace(account(cap=100, window=LIFETIME), latch=True)
        await both.spend(spec, 20, (("user", "ada"), ("repo", "core")))
        await both.spend(spec, 5, (("repo", "docs"),))
        await both.hold(Posting(spec, deciding=True, fixed=10), series=(("user", "bob"), ("repo", "core")))
        first = both.last
        reply = await both.hold(
            Posting(spec, deciding=True, fixed=0), hold_id=hold_id(3, attempt=2), previous=settle(first, 90)
        )
        assert reply.states[0].refused is RefusedBecause.LATCHED
        assert reply.states[0].top_consumer == TopConsumer("repo", "core", 110)

    told(story)


def test_attempt_after_a_rate_window_has_passed_frees_nothing_twice(told: Told) -> None:
    """Attempt 2 settles attempt 1 in the very microsecond in which that leaves its rate window: it is empty, once."""

    async def story(both: Pair) -> None:
        for later_us in (59_999_999, 60_000_000):
            await both.hold(Posting(RATE, deciding=True, fixed=60))
            first = both.last
            await both.move(later_us)
            attempt = hold_id(both.count, both.clock() - later_us, attempt=2)
            await both.hold(Posting(RATE, deciding=True, fixed=7), hold_id=attempt, previous=settle(first, 50))
            await both.move(SECOND_US)
            await both.hold(Posting(RATE, deciding=True, fixed=0))
            await both.move(120 * SECOND_US)

    told(story)


def test_repeated_call_is_no_change(told: Told) -> None:
    """An answer that is only repeated, and a reaper that finds nothing, are not numbered as changes."""

    async def story(both: Pair) -> None:
        request = simple_hold(hold_id(1), 10, account())
        assert (await both.ask("hold", request)).stamp.seq == 1
        assert (await both.ask("hold", request)).stamp.seq == 1
        follows = replace(simple_hold(hold_id(1, attempt=2), 5, account()), previous=settle(hold_id(1), 10))
        assert (await both.ask("hold", follows)).stamp.seq == 2
        assert (await both.ask("hold", follows)).stamp.seq == 2
        assert await both.ask("open_holds") == 1
        assert (await both.ask("resolve", settle(hold_id(1), 10))).stamp.seq == 2
        assert await both.ask("expire", 10) == 0
        assert (await both.ask("hold", request)).stamp.seq == 2
        assert both.redis.counters.refused_by_store == 0

    told(story)


# --- extensions -----------------------------------------------------------------------------------------------------


def test_extension_grants_the_last_token_there_is(told: Told) -> None:
    """One token that fits is granted, the next is not; and neither the repeat nor the refusal is a change."""

    async def story(both: Pair) -> None:
        spec = account(cap=100, window=LIFETIME)
        await both.hold(Posting(spec, deciding=True, fixed=99))
        for code in (Code.EXTENDED, Code.EXISTS):
            reply = await both.ask("extend", Extension(both.last, 1, 1_000, (spec,)))
            assert (reply.code, reply.output, reply.stamp.seq) == (code, 1, 2)
        reply = await both.ask("extend", Extension(both.last, 9, 1_000, (spec,)))
        assert (reply.code, reply.output, reply.stamp.seq) == (Code.EXHAUSTED, 1, 2)

    told(story)


def test_extension_leaves_what_others_spent(told: Told) -> None:
    """The room of an extension is what the cap leaves beside all that was spent and is held before it."""

    async def story(both: Pair) -> None:
        spec = account(cap=100, window=LIFETIME)
        await both.spend(spec, 60)
        await both.hold(Posting(spec, deciding=True, fixed=30))
        reply = await both.ask("extend", Extension(both.last, 50, 1_000, (spec,)))
        assert (reply.code, reply.output) == (Code.EXTENDED, 10)

    told(story)


def test_extension_has_the_room_that_a_rate_window_has_forgotten(told: Told) -> None:
    """What left the window while the answer went on is free for it; where that is not enough, nothing has changed."""

    async def story(both: Pair) -> None:
        await both.hold(Posting(RATE, deciding=True, fixed=60))
        await both.move(30 * SECOND_US)
        await both.hold(Posting(RATE, deciding=True, fixed=30))
        hold = both.last
        await both.move(31 * SECOND_US)
        assert (await both.ask("extend", Extension(hold, 9, 0, (replace(RATE, cap=30),)))).code is Code.EXHAUSTED
        reply = await both.ask("extend", Extension(hold, 90, 0, (RATE,)))
        assert (reply.code, reply.output) == (Code.EXTENDED, 70)
        await both.hold(Posting(RATE, deciding=True, fixed=0))

    told(story)


def test_extension_asks_no_account_that_has_begun_anew(told: Told) -> None:
    """An account that was reset while the answer went on does not refuse it, and does not take it either."""

    async def story(both: Pair) -> None:
        spec = account(cap=100, window=LIFETIME)
        await both.hold(Posting(spec, deciding=True, fixed=40))
        hold = both.last
        (balance,), _ = await both.model.balances(rule=None, limit=1, cursor="")
        assert await both.ask("reset", balance.name, "by ada") is Code.RESET
        await both.spend(spec, 95)
        reply = await both.ask("extend", Extension(hold, 50, 1_000, (spec,)))
        assert (reply.code, reply.output) == (Code.EXTENDED, 50)

    told(story)


# --- the instants themselves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("early_us", [0, 1])
def test_lifetime_account_is_forgotten_to_the_microsecond(early_us: int, told: Told) -> None:
    """Ninety days after the last use, and up to a day more: use in between pushes that only when it has to."""

    async def story(both: Pair) -> None:
        spec = account(cap=100, window=LIFETIME)
        await both.spend(spec, 40)
        await both.move(DAY_US)
        await both.hold(Posting(spec, deciding=True, fixed=0))
        await both.move(90 * DAY_US - early_us)
        reply = await both.hold(Posting(spec, deciding=True, fixed=0))
        assert reply.states[0].spent == (40 if early_us else 0)

    told(story)


def test_threshold_of_an_odd_cap_is_told_by_the_unit_that_passes_it(told: Told) -> None:
    """Where a percent of the cap is no whole unit, the next whole one tells it, and none before."""

    async def story(both: Pair) -> None:
        for amount in (112, 1, 21, 1):
            await both.spend(account(cap=150), amount)
        assert [(alert.percent, alert.spent) for alert in await both.model.alerts("", 10)] == [(75, 113), (90, 135)]

    told(story)


def test_large_rate_window_is_free_at_the_end_of_a_sixtieth(told: Told) -> None:
    """Past a thousand units what is held counts until the sub-window of a second that it fell in is a minute old."""

    async def story(both: Pair) -> None:
        await both.move(1_234_567)
        reply = await both.hold(Posting(replace(RATE, cap=5_000), deciding=True, fixed=10))
        assert reply.states[0].window_end_us == START_US + 62 * SECOND_US

    told(story)


def test_spend_that_meets_its_cap_latches(told: Told) -> None:
    """Exactly the cap is exhausted: the account stays shut in the next window."""

    async def story(both: Pair) -> None:
        spec = replace(account(cap=100), latch=True)
        await both.spend(spec, 99)
        await both.move(DAY_US)
        await both.spend(spec, 100)
        await both.move(DAY_US)
        assert (await both.hold(Posting(spec, deciding=True, fixed=0))).states[0].refused is RefusedBecause.LATCHED

    told(story)


def test_lease_is_never_pulled_in(told: Told) -> None:
    """A renewal by a shorter lease than is left changes nothing; one by a longer pushes the end to the microsecond."""

    async def story(both: Pair) -> None:
        await both.hold(Posting(account(), deciding=True, fixed=10))
        hold = both.last
        assert await both.ask("renew", [hold, "unknown"], LEASE_MS // 2) is Code.RENEWED
        await both.move(LEASE_MS * 1_000 - 1)
        assert await both.ask("expire", 10) == 0
        assert await both.ask("renew", [hold], 1_000) is Code.RENEWED
        await both.move(SECOND_US - 1)
        assert await both.ask("expire", 10) == 0
        await both.move(1)
        assert await both.ask("expire", 10) == 1

    told(story)


# --- rules edited while their account lives -------------------------------------------------------------------------


def test_latch_is_edited_while_its_account_lives(told: Told) -> None:
    """A rule that begins to latch, or ceases to, is obeyed by the next charge of the account there is."""

    async def story(both: Pair) -> None:
        for before, after in ((False, True), (True, False)):
            plain, edited = (replace(account(f"{before}", window=LIFETIME), latch=latch) for latch in (before, after))
            await both.spend(plain, 50)
            await both.spend(edited, 60)
            reply = await both.hold(Posting(replace(plain, latch=True), deciding=True, fixed=0))
            assert (reply.code is Code.REFUSED) is after

    told(story)


def test_thresholds_are_edited_while_their_account_lives(told: Told) -> None:
    """A threshold that is added below the spend is told with the next hold, one above it when it is passed."""

    async def story(both: Pair) -> None:
        spec = replace(account(cap=100), alert_thresholds=(50, 90))
        await both.spend(spec, 60)
        edited = replace(spec, alert_thresholds=(55, 70))
        await both.hold(Posting(edited, deciding=True, fixed=1))
        await both.spend(edited, 15)
        await both.hold(Posting(replace(edited, alert_thresholds=()), deciding=True, fixed=1))
        await both.hold(Posting(spec, deciding=True, fixed=1))
        assert [alert.percent for alert in await both.model.alerts("", 10)] == [50, 55, 70, 50]

    told(story)


def test_threshold_passed_and_armed_again_in_one_step_is_told_again(told: Told) -> None:
    """Attempt 1 passes a threshold in the step in which attempt 2 brings a raised cap: it lies ahead again."""

    async def story(both: Pair) -> None:
        spec = account(cap=100)
        raised = replace(spec, cap=1_000)
        await both.hold(Posting(spec, deciding=True, fixed=10))
        attempt, first = hold_id(both.count, both.clock(), attempt=2), settle(both.last, 80)
        await both.hold(Posting(raised, deciding=True, fixed=10), hold_id=attempt, previous=first)
        await both.spend(raised, 700)
        assert [(alert.percent, alert.cap) for alert in await both.model.alerts("", 10)] == [(75, 100), (75, 1_000)]

    told(story)


def test_a_cap_of_nothing_has_no_thresholds(told: Told) -> None:
    """An account whose cap is 0 tells nothing, and tells again what it is past once the cap is back."""

    async def story(both: Pair) -> None:
        spec = account(cap=100)
        await both.spend(spec, 80)
        await both.spend(replace(spec, cap=0), 1)
        await both.spend(replace(spec, cap=200), 80)
        assert [alert.percent for alert in await both.model.alerts("", 10)] == [75, 75]

    told(story)


# --- plans ----------------------------------------------------------------------------------------------------------


def test_plan_that_waits_for_a_spend_is_left_out_until_then(told: Told) -> None:
    """`spent_from` leaves a plan out until that much is spent, of every account that it waits for."""

    async def story(both: Pair) -> None:
        one, other = account("one", window=LIFETIME), account("other", window=LIFETIME)
        waits = one_plan(
            Posting(one, deciding=False, fixed=0, spent_from=10), Posting(other, deciding=False, fixed=0, spent_from=20)
        )
        always = one_plan(Posting(one, deciding=False, fixed=1, spent_from=0), target="always")
        chosen = []
        for spec, amount in ((one, 0), (one, 10), (other, 19), (other, 1)):
            await both.spend(spec, amount)
            chosen.append((await both.hold(plans=(waits, always))).plan_index)
        assert chosen == [1, 1, 1, 0]

    told(story)


def test_plan_that_waits_explains_no_refusal(told: Told) -> None:
    """Where every plan waits the request is refused without a reason, and an account that would refuse is not shut."""

    async def story(both: Pair) -> None:
        waits_for, shut = account("one", window=LIFETIME), replace(account("two", window=LIFETIME), latch=True)
        await both.spend(shut, 95, (("user", "ada"),))
        postings = (
            Posting(waits_for, deciding=False, fixed=0, spent_from=1),
            Posting(shut, deciding=True, fixed=10),
        )
        assert await refused(both, postings) == ()
        assert (await both.hold(Posting(shut, deciding=True, fixed=5))).code is Code.HELD
        none = await both.hold(plans=())
        assert (none.code, none.plan_index, none.states) == (Code.REFUSED, 0, ())

    told(story)


async def refused(both: Pair, postings: tuple[Posting, ...]) -> tuple[RefusedBecause | None, ...]:
    """Why these postings are refused."""
    reply: HoldReply = await both.hold(*postings)
    assert reply.code is Code.REFUSED
    return tuple(state.refused for state in reply.states)


def test_constrained_from_the_first_request(told: Told) -> None:
    """`spent_below` of 0 is past from the start; a rate window that constrains names no time at which it would not."""

    async def story(both: Pair) -> None:
        await both.spend(RATE, 0)
        for spec in (account(), RATE):
            assert await refused(both, (Posting(spec, deciding=True, fixed=1, spent_below=0),)) == (
                RefusedBecause.CONSTRAINED,
            )

    told(story)


@pytest.mark.parametrize(
    ("milli", "output", "held"), [(100, 1, 1), (333, 4, 2), (2_500, 3, 8), (1_000, 7, 7), (333, 2_999, 999)]
)
def test_part_of_a_step_is_held_whole(milli: int, output: int, held: int, told: Told) -> None:
    """What a rate makes of an output is rounded up to the next whole step, never down."""

    async def story(both: Pair) -> None:
        posting = Posting(account(cap=1_000), deciding=True, fixed=0, per_output_milli=milli)
        reply = await both.hold(plans=(one_plan(posting, output_min=output, output_max=output),))
        assert reply.states[0].held == held

    told(story)


def test_largest_amount_fits_the_largest_cap(told: Told) -> None:
    """An amount that saturates is granted whole by a cap that does, and by no other."""

    async def story(both: Pair) -> None:
        for cap, limit in ((MAX_AMOUNT, 10**7), (MAX_AMOUNT - 1, 10**6)):
            posting = Posting(account(f"{cap}", cap=cap), deciding=True, fixed=0, per_output_milli=9 * 10**12)
            reply = await both.hold(plans=(one_plan(posting, output_max=10**7),))
            assert (reply.code, reply.output_limit >= limit) == (Code.HELD, True)
            assert (reply.output_limit == 10**7) is (cap == MAX_AMOUNT)

    told(story)


# --- what is stored afterwards --------------------------------------------------------------------------------------


def test_expired_hold_is_in_the_series(told: Told) -> None:
    """What an expiry charges is spend by tag like any other, and so is its correction."""

    async def story(both: Pair) -> None:
        await both.hold(Posting(account(), deciding=True, fixed=10), series=(("repo", "core"),))
        hold = both.last
        await both.move(LEASE_MS * 1_000)
        assert await both.ask("expire", 10) == 1
        assert (await both.ask("resolve", settle(hold, 7))).code is Code.CORRECTED
        hours = await both.model.series("repo", Period.HOUR, start_us=START_US, end_us=START_US + SECOND_US)
        assert [point.cost_nanodollars for point in hours["core"]] == [7]

    told(story)


def test_expired_concurrency_is_free_again(told: Told) -> None:
    """A hold that nobody settled is charged where money is counted, and nothing where only the open requests are."""

    async def story(both: Pair) -> None:
        spec = account("open", cap=2, window=OPEN, measure=Measure.CONCURRENT)
        await both.hold(Posting(spec, deciding=True, fixed=1))
        await both.move(LEASE_MS * 1_000)
        assert await both.ask("expire", 10) == 1
        state = (await both.hold(Posting(spec, deciding=True, fixed=1))).states[0]
        assert (state.spent, state.held) == (0, 1)

    told(story)


def test_accounts_of_the_past_leave_the_list(told: Told) -> None:
    """The list of accounts is cleaned whenever the reaper comes by, though no hold expires: it never grows for ever."""

    async def story(both: Pair) -> None:
        for _ in range(3):
            await both.spend(account(), 10)
            await both.move(DAY_US)
        await both.move(KEEP_US - 1)
        assert await both.ask("expire", 10) == 0
        assert await both.redis.read("ZCARD", "tg:{0}:accounts") == 2
        await both.move(1)
        assert await both.ask("expire", 10) == 0
        assert await both.redis.read("ZCARD", "tg:{0}:accounts") == 1

    told(story)


def test_hold_that_somebody_deleted_leaves_the_reaper_alone(told: Told) -> None:
    """A lease without its hold is taken off the list and charges nothing."""

    async def story(both: Pair) -> None:
        await both.hold(Posting(account(), deciding=True, fixed=10))
        hold = both.last
        await both.redis.read("DEL", f"tg:{{0}}:hold:{hold}")
        await both.move(LEASE_MS * 1_000)
        assert await both.redis.expire(10) == 0
        assert await both.redis.open_holds() == 0
        assert both.redis.counters.refused_by_store == 0

    told(story)


def test_what_belongs_together_is_forgotten_together(told: Told) -> None:
    """An account's top consumers, and a rate window's slots, live as long as it does, also when it is pushed."""

    async def story(both: Pair) -> None:
        spec = account(cap=10**6, window=LIFETIME)
        for step_us in (0, 100 * SECOND_US, 50 * SECOND_US, 400 * SECOND_US, 2 * DAY_US):
            await both.move(step_us)
            await both.hold(Posting(spec, deciding=True, fixed=1), Posting(RATE, deciding=True, fixed=1))
            if not step_us:
                await both.ask("resolve", settle(both.last, 5))
                await both.spend(spec, 5, (("repo", "core"),))
            for kinds in (("lifetime", "top"), ("sliding", "slots")):
                whole, part = await expiries_us(both, *[await the_key(both, kind) for kind in kinds])
                assert abs(whole - part) < SECOND_US
                assert part > both.clock()

    told(story)


def test_series_are_kept_for_nine_days_and_four_hundred(told: Told) -> None:
    """Spend by hour is forgotten nine days after the hour began, by day 401 days after the day."""

    async def story(both: Pair) -> None:
        await both.move(5 * 3_600 * SECOND_US + 77)
        expected = (START_US + 5 * 3_600 * SECOND_US + 9 * DAY_US, START_US + 401 * DAY_US)
        for _ in range(2):
            await both.spend(account(), 5, (("repo", "core"),))
            ends = await expiries_us(both, *[await the_key(both, f"series:{period}") for period in ("hour", "day")])
            assert [abs(end - at) < SECOND_US for end, at in zip(ends, expected, strict=True)] == [True, True]

    told(story)


def test_rate_window_that_somebody_deleted_begins_anew(told: Told) -> None:
    """Slots without their window count for nothing, in no answer, and do not outlive the new one."""

    async def story(both: Pair) -> None:
        for _ in range(2):
            await both.hold(Posting(RATE, deciding=True, fixed=10))
            await both.move(SECOND_US)
        await both.redis.read("DEL", await the_key(both, "sliding"))
        both.model._accounts.clear()
        for _ in range(2):
            await both.hold(Posting(RATE, deciding=True, fixed=10))
            await both.move(SECOND_US)
        slots = await the_key(both, "slots")
        assert await both.redis.read("ZCARD", slots) == 2
        assert (await expiries_us(both, slots))[0] > both.clock()

    told(story)


def test_rate_window_whose_time_steps_back_takes_no_late_settle(told: Told) -> None:
    """A slot that was forgotten stays so, though Redis time steps back to where it would count again."""

    async def story(both: Pair) -> None:
        await both.hold(Posting(RATE, deciding=True, fixed=60))
        forgotten = both.last
        await both.move(61 * SECOND_US)
        await both.hold(Posting(RATE, deciding=True, fixed=5))
        await both.move(-110 * SECOND_US)
        assert (await both.ask("resolve", settle(forgotten, 50))).code is Code.SETTLED
        await both.hold(Posting(RATE, deciding=True, fixed=0))

    told(story)


# --- what somebody has overwritten ----------------------------------------------------------------------------------


@pytest.mark.parametrize("nonsense", ["12.5", "much"])
@pytest.mark.parametrize("field", ["h", "s"])
def test_corrupt_slot_is_found_before_anything_is_written(field: str, nonsense: str, told: Told) -> None:
    """An amount of a rate window that is no integer stops holds and settles before their first write."""

    async def story(both: Pair) -> None:
        budget = Posting(account(), deciding=True, fixed=1)
        postings = (budget, Posting(RATE, deciding=True, fixed=10))
        await both.hold(*postings)
        hold = both.last
        key = await the_key(both, "sliding")
        await both.redis.read("HSET", key, f"{field}{both.clock()}", nonsense)
        before = await snapshot(both.redis)
        assert (await both.redis._resolve(settle(hold, 1))).code is Code.UNAVAILABLE
        if field == "h":
            late = replace(simple_hold(hold_id(99), 0, account()), plans=(one_plan(*postings),))
            assert (await both.redis._hold(late)).code is Code.UNAVAILABLE
        assert await snapshot(both.redis) == before
        assert "corrupt slot" in both.redis.last_error
        both.redis._retries.clear()

    told(story)


@pytest.mark.parametrize(
    ("verb", "kind"), [("reset", "journal"), ("reset", "top"), ("reset", "account"), ("resume", "journal")]
)
def test_key_of_another_type_stops_what_is_done_by_hand(verb: str, kind: str, told: Told) -> None:
    """Whatever key somebody has overwritten, a reset or a resume by hand fails before its first write."""

    async def story(both: Pair) -> None:
        spec = replace(account(cap=100, window=LIFETIME), latch=True)
        await both.spend(spec, 100, (("user", "ada"),))
        (balance,), _ = await both.redis.balances(rule=None, limit=1, cursor="")
        key = {"account": f"tg:{{0}}:{balance.name}", "top": f"tg:{{0}}:top:{balance.name}"}.get(
            kind, f"tg:{{0}}:{kind}"
        )
        await both.redis.read("SET", key, "somebody was here")
        before = await snapshot(both.redis)
        assert await getattr(both.redis, verb)(balance.name, "by ada") is Code.UNAVAILABLE
        assert await snapshot(both.redis) == before

    told(story)
