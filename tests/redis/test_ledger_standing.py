"""Standings read from a live Redis: what judges there judges here, and reading leaves no trace."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ext_proc.ledger.connections import open_channel
from ext_proc.ledger.interface import (
    AccountSpec,
    Basis,
    Charge,
    Code,
    HoldRequest,
    Measure,
    Period,
    Posting,
    Resolution,
    Window,
    WindowKind,
)
from ext_proc.ledger.keys import DEFAULT_REALM
from ext_proc.ledger.live_standings import Standings
from ext_proc.ledger.memory import MemoryLedger
from ext_proc.ledger.redis_ledger import RedisLedger
from ext_proc.ledger.standing import Standing
from tests.ledger_kit import (
    DAY_US,
    LEASE_MS,
    SECOND_US,
    TestClock,
    account,
    all_keys,
    hold_id,
    on_test_clock,
    one_plan,
    set_clock,
)

pytestmark = [pytest.mark.redis, pytest.mark.anyio]

MINUTE = Window(WindowKind.SLIDING, Period.MINUTE)
SERIES = (("pipeline", "nightly"),)
BUDGET = account("daily", cap=100)
LATCHING = replace(account("latching", cap=20, window=Window(WindowKind.LIFETIME)), latch=True)
EXACT = account("minute", cap=10, measure=Measure.REQUESTS, window=MINUTE)
COARSE = account("tokens", cap=5_000, measure=Measure.TOKENS, window=MINUTE)
OPEN = account("open", cap=4, measure=Measure.CONCURRENT, window=Window(WindowKind.OPEN))
FRESH = account("fresh")
ALL = (BUDGET, LATCHING, EXACT, COARSE, OPEN, FRESH)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def request(number: int, clock: TestClock, *asks: tuple[AccountSpec, int]) -> HoldRequest:
    """A request for these amounts, tagged, with everything deciding."""
    plan = one_plan(*(Posting(spec, deciding=True, fixed=amount) for spec, amount in asks))
    return HoldRequest(hold_id(number, clock.now_us), (plan,), LEASE_MS, series=SERIES)


async def spend(ledger: RedisLedger, clock: TestClock) -> None:
    """Two charges 25 seconds apart, which shut the latching account, and one hold left open on the others."""
    amounts = ((BUDGET, 15), (EXACT, 1), (COARSE, 700), (OPEN, 1))
    for number in range(3):
        latching = ((LATCHING, 9),) if number < 2 else ()
        reply = await ledger.hold(request(number, clock, *amounts, *latching))
        assert reply.code is Code.HELD
        if number < 2:
            charge = Charge(cost_nanodollars=10, input_tokens=300, output_tokens=350, requests=1)
            await ledger.resolve(Resolution(hold_id(number, clock.now_us), charge, Basis.REPORTED))
            clock.now_us += 25 * SECOND_US
            await set_clock(ledger, clock)


async def standings(url: str, clock: TestClock) -> dict[AccountSpec, Standing]:
    channel = open_channel(url, DEFAULT_REALM, 1_000)
    try:
        return await Standings(channel).read(ALL, clock.now_us)
    finally:
        await channel.close()


@pytest.mark.parametrize("later_us", [0, 20 * SECOND_US, 40 * SECOND_US, 70 * SECOND_US, 2 * DAY_US])
@pytest.mark.parametrize(
    "asks",
    [
        ((BUDGET, 60),),
        ((BUDGET, 70),),
        ((BUDGET, 90),),
        ((LATCHING, 1),),
        ((EXACT, 7),),
        ((EXACT, 8),),
        ((COARSE, 4_000),),
        ((OPEN, 3),),
        ((OPEN, 4),),
        ((FRESH, 100),),
        tuple((spec, 3) for spec in ALL),
    ],
)
async def test_a_ledger_that_took_standings_over_answers_as_redis_does(
    redis_url: str, asks: tuple[tuple[AccountSpec, int], ...], later_us: int
) -> None:
    """Whatever is asked next, at whatever time, the two give the same answer with the same figures."""
    clock = TestClock()
    ledger = await on_test_clock(redis_url, clock)
    try:
        await spend(ledger, clock)
        clock.now_us += later_us
        await set_clock(ledger, clock)
        model = MemoryLedger(clock)
        for spec, standing in (await standings(redis_url, clock)).items():
            model.stand(spec, standing)

        asked = request(9, clock, *asks)
        there, here = await ledger.hold(asked), await model.hold(asked)

        assert replace(here, stamp=None) == replace(there, stamp=None)
    finally:
        await ledger.close()


async def test_reading_standings_changes_nothing(redis_url: str) -> None:
    """Every key holds afterwards what it held before, and no key is new."""
    clock = TestClock()
    ledger = await on_test_clock(redis_url, clock)
    try:
        await spend(ledger, clock)

        async def everything() -> dict[bytes, object]:
            return {key: await ledger.read("DUMP", key) for key in await all_keys(ledger)}

        before = await everything()
        await standings(redis_url, clock)

        assert await everything() == before
    finally:
        await ledger.close()


async def test_a_latched_account_and_its_top_consumer_are_read(redis_url: str) -> None:
    """Shut stays shut over there too, and the refusal names who spent it."""
    clock = TestClock()
    ledger = await on_test_clock(redis_url, clock)
    try:
        await spend(ledger, clock)

        found = (await standings(redis_url, clock))[LATCHING]

        assert found.latched
        assert [(top.tag, top.value, top.spent) for top in found.top] == [("pipeline", "nightly", 20)]
    finally:
        await ledger.close()
