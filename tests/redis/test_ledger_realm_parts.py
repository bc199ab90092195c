"""Goal: one realm's share of a hold over several: weighed, held, ended as its home ended, on the model and Redis alike.

Method: `Pair` asks both the steps that a split ledger makes, one realm's at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from ext_proc.ledger.interface import (
    Basis,
    Charge,
    Code,
    Ended,
    Extension,
    HoldReply,
    HoldRequest,
    Part,
    Posting,
    Resolution,
    Weighing,
    Window,
    WindowKind,
)
from ext_proc.ledger.journal import JournalFigures, posting_row
from tests.ledger_kit import (
    LEASE_MS,
    SECOND_US,
    Pair,
    Told,
    account,
    hold_id,
    one_plan,
    release,
    settle,
    snapshot,
    without_epoch,
)

pytestmark = pytest.mark.redis

LIFETIME = Window(WindowKind.LIFETIME)
SPEC = account(cap=100, window=LIFETIME)
KEEP_US = 72 * 60 * SECOND_US
HOME = "t7"


def part(number: int, amount: int, *, home: str = HOME, **other: Any) -> HoldRequest:
    """One realm's part of a hold; the whole holds at least 70 nano-dollars."""
    plan = one_plan(Posting(SPEC, deciding=True, fixed=amount))
    kept = Part("the whole", home=home, hold_nanodollars=70)
    return replace(HoldRequest(hold_id(number), (plan,), LEASE_MS, series=(("repo", "core"),), part=kept), **other)


async def rows(both: Pair) -> list[dict[str, object]]:
    """The posting rows, the same in both."""
    raw = cast("list[Any]", await both.redis.read("XRANGE", "tg:{0}:postings", "-", "+"))
    found = []
    for _, fields in raw:
        named = {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
        figures = JournalFigures(
            hold_id=named["id"],
            time_us=int(named["us"]),
            charge_nanodollars=int(named["charge"]),
            hold_nanodollars=int(named["hold"]),
            input_tokens=0,
            output_tokens=0,
            basis=Basis(named["basis"]),
            correction=named["correction"] == "1",
        )
        found.append(posting_row(figures, named["home"]))
    assert found == both.model._postings
    return found


async def weighed(both: Pair, request: HoldRequest) -> Weighing:
    """What both say to a part; saying it changes nothing."""
    before = await snapshot(both.redis)
    expected, actual = await both.model.weigh(request), await both.redis.weigh(request)
    assert expected.outputs == actual.outputs
    assert without_epoch(expected.reply) == without_epoch(actual.reply)
    assert await snapshot(both.redis) == before
    return expected


def test_every_plan_is_weighed(told: Told) -> None:
    """Each plan is told its largest output, or that it is refused, or that it waits; nothing is held by it."""

    async def story(both: Pair) -> None:
        await both.spend(SPEC, 40)
        plans = (
            one_plan(Posting(SPEC, deciding=True, fixed=0, spent_from=41)),
            one_plan(Posting(SPEC, deciding=True, fixed=61)),
            one_plan(Posting(SPEC, deciding=True, fixed=10, per_output_milli=1_000), output_min=1, output_max=90),
            one_plan(output_max=7),
        )
        request = part(9, 0, plans=plans)
        assert (await weighed(both, request)).outputs == (Weighing.LEFT_OUT, Weighing.REFUSES, 50, 7)
        assert (await both.ask("hold", part(9, 10))).code is Code.HELD
        reply = (await weighed(both, request)).reply
        assert reply is not None
        assert reply.code is Code.EXISTS

    told(story)


def test_part_ends_as_it_is_told_and_leaves_a_row(told: Told) -> None:
    """A part is no open hold of its realm and is not journalled there: its end leaves a row with its home's name."""

    async def story(both: Pair) -> None:
        for number, end in enumerate((settle(hold_id(0), 30), release(hold_id(1)))):
            assert (await both.ask("hold", part(number, 40))).code is Code.HELD
            assert await both.ask("open_holds") == 0
            assert (await both.ask("resolve", end)).code is (Code.SETTLED, Code.RELEASED)[number]
            assert (await both.ask("resolve", end)).code is Code.EXISTS
        told_of = [
            (row["charge_nanodollars"], row["hold_nanodollars"], row["basis"], row["home"]) for row in await rows(both)
        ]
        assert told_of == [(30, 70, "reported", HOME), (0, 70, "released", HOME)]
        assert await both.ask("journal", 10) == ()
        assert await both.redis.read("KEYS", "tg:{0}:series:*") == []
        await both.move(LEASE_MS * 1_000)
        assert await both.ask("overdue_parts", 10) == ()

    told(story)


def test_part_that_is_taken_back_leaves_nothing(told: Told) -> None:
    """A withdrawn part is no charge and leaves no row; it can only come back as what was admitted all the same."""

    async def story(both: Pair) -> None:
        await both.ask("hold", part(1, 40))
        assert await both.ask("withdraw", hold_id(1)) is Code.RELEASED
        assert await both.ask("withdraw", hold_id(1)) is Code.EXISTS
        assert await both.ask("withdraw", hold_id(2)) is Code.TOMBSTONED
        assert await rows(both) == []
        for number in (1, 2):
            assert (await both.ask("hold", part(number, 40))).code is Code.ALREADY_RESOLVED
        assert (await both.ask("restore", part(1, 40))).code is Code.HELD
        assert (await both.ask("resolve", settle(hold_id(2), 9))).code is Code.TOMBSTONED
        assert (await both.ask("restore", part(2, 40))).code is Code.HELD

    told(story)


def test_part_whose_lease_ran_out_asks_its_home(told: Told) -> None:
    """The reaper leaves parts alone and names them, oldest first, with their home; a renewal puts that off."""

    async def story(both: Pair) -> None:
        for number in range(3):
            await both.ask("hold", part(number, 20, home=f"t{number}"))
            await both.move(SECOND_US)
        assert await both.ask("renew", [hold_id(0)], LEASE_MS) is Code.RENEWED
        await both.move((LEASE_MS // 1_000 - 2) * SECOND_US)
        assert await both.ask("expire", 10) == 0
        assert await both.ask("overdue_parts", 10) == ((hold_id(1), "t1"),)
        await both.move(2 * SECOND_US - 1)
        assert await both.ask("overdue_parts", 10) == ((hold_id(1), "t1"), (hold_id(2), "t2"))
        await both.move(1)
        assert len(await both.ask("overdue_parts", 10)) == 3
        assert await both.ask("overdue_parts", 1) == ((hold_id(1), "t1"),)

    told(story)


def test_part_expires_when_its_home_did_and_is_corrected_once(told: Told) -> None:
    """A part that is charged in full says so in its row; its late settle corrects it; asked twice it expires once."""

    async def story(both: Pair) -> None:
        await both.ask("hold", part(1, 40))
        await both.move(LEASE_MS * 1_000)
        for _ in range(2):
            assert await both.ask("expire_part", hold_id(1)) is Code.SETTLED
            (balance,), _ = await both.model.balances(rule=None, limit=1, cursor="")
            assert (balance.spent, balance.held) == (40, 0)
        assert (await both.ask("resolve", settle(hold_id(1), 25))).code is Code.CORRECTED
        assert await both.ask("expire_part", hold_id(1)) is Code.SETTLED
        told_of = [(row["charge_nanodollars"], row["basis"]) for row in await rows(both)]
        assert told_of == [(70, "expired"), (25 - 70, "reported")]
        assert both.redis.counters.refused_by_store == 0

    told(story)


def test_restored_part_is_charged_the_settle_that_was_there_before(told: Told) -> None:
    """A part whose settle overtook its restoring is overdue at once, and is then charged that settle."""

    async def story(both: Pair) -> None:
        await both.ask("resolve", settle(hold_id(1), 33))
        assert (await both.ask("restore", part(1, 40))).code is Code.HELD
        assert await both.ask("overdue_parts", 10) == ((hold_id(1), HOME),)
        await both.ask("expire_part", hold_id(1))
        (balance,), _ = await both.model.balances(rule=None, limit=1, cursor="")
        assert (balance.spent, balance.held) == (33, 0)
        assert await both.ask("overdue_parts", 10) == ()

    told(story)


def test_part_remembers_the_refusal_of_another_realm(told: Told) -> None:
    """A realm that is told of a refusal holds nothing and repeats it, also where its own accounts have room."""

    async def story(both: Pair) -> None:
        plan = one_plan(Posting(SPEC, deciding=True, fixed=10))
        kept = Part("the whole", plan_index=2, home=HOME, refused=True)
        request = HoldRequest(hold_id(1), (plan,), LEASE_MS, part=kept)
        for _ in range(2):
            reply: HoldReply = await both.ask("hold", request)
            assert (reply.code, reply.plan_index, reply.states) == (Code.REFUSED, 2, ())

    told(story)


def test_home_says_how_a_hold_ended(told: Told) -> None:
    """Open, expired, resolved with its charge, withdrawn; a hold it has never heard of is withdrawn by asking."""

    async def story(both: Pair) -> None:
        charge = Charge(cost_nanodollars=9, input_tokens=3, output_tokens=4, requests=1)
        resolution = Resolution(hold_id(1), charge, Basis.ESTIMATED)
        for number in (1, 2):
            await both.ask("hold", part(number, 20, home=""))
        assert (await both.ask("outcome", hold_id(1))).ended is Ended.OPEN
        await both.ask("resolve", resolution)
        assert (await both.ask("outcome", hold_id(1))).resolution == resolution
        await both.move(LEASE_MS * 1_000)
        await both.ask("expire", 10)
        assert (await both.ask("outcome", hold_id(2))).ended is Ended.EXPIRED
        for _ in range(2):
            assert (await both.ask("outcome", hold_id(3))).ended is Ended.WITHDRAWN
        assert (await both.ask("hold", part(3, 20, home=""))).code is Code.ALREADY_RESOLVED
        await both.move(KEEP_US - LEASE_MS * 1_000)
        assert (await both.ask("outcome", hold_id(4))).ended is Ended.WITHDRAWN
        await both.move(1)
        assert (await both.ask("outcome", hold_id(5))).ended is Ended.EXPIRED

    told(story)


def test_extended_part_is_charged_what_it_carries(told: Told) -> None:
    """A part is extended like a whole hold, and expires with all that it carries by then."""

    async def story(both: Pair) -> None:
        await both.ask("hold", part(1, 40))
        reply = await both.ask("extend", Extension(hold_id(1), 50, 1_000, (SPEC,)))
        assert (reply.code, reply.output) == (Code.EXTENDED, 50)
        await both.ask("expire_part", hold_id(1))
        assert [row["charge_nanodollars"] for row in await rows(both)] == [90]

    told(story)


@pytest.mark.parametrize(
    ("verb", "kind"),
    [("hold", "parts"), ("resolve", "parts"), ("resolve", "postings"), ("expire", "parts"), ("expire", "postings")],
)
def test_key_of_another_type_stops_a_part(verb: str, kind: str, told: Told) -> None:
    """Whatever key somebody has overwritten, what is asked of a part fails before its first write."""

    async def story(both: Pair) -> None:
        if verb != "hold":
            await both.redis.hold(part(1, 40))
        await both.redis.read("SET", f"tg:{{0}}:{kind}", "somebody was here")
        before = await snapshot(both.redis)
        if verb == "hold":
            assert (await both.redis._hold(part(1, 40))).code is Code.UNAVAILABLE
        elif verb == "resolve":
            assert (await both.redis._resolve(settle(hold_id(1), 9))).code is Code.UNAVAILABLE
        else:
            assert await both.redis.expire_part(hold_id(1)) is Code.UNAVAILABLE
        assert await snapshot(both.redis) == before
        both.redis._retries.clear()

    told(story)
