"""Goal: a ledger split over several realms keeps the promises of one that is whole.

Method: the same calls drive a model in one realm and a split ledger; what comes in order must be answered alike. Then
the split ledger is torn: its calls die between the realms' steps, and the books must balance once the reaper has been.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from ext_proc.ledger.connections import open_channel
from ext_proc.ledger.interface import (
    AccountBalance,
    AccountSpec,
    Code,
    Extension,
    HoldReply,
    HoldRequest,
    Posting,
    Resolution,
)
from ext_proc.ledger.outage import admitted
from ext_proc.ledger.realms import Realms
from ext_proc.ledger.realms_ledger import RealmsLedger
from ext_proc.ledger.redis_ledger import RedisLedger
from ext_proc.ledger.scripts import load_scripts
from tests.conftest import running_redis
from tests.ledger_kit import CLOCK_LUA, LEASE_MS, PATIENT, TestClock, hold_id, one_plan, set_clock, settle
from tests.property.test_ledger_machine import EXAMPLES, PHASES, LedgerMachine, spec

pytestmark = pytest.mark.redis

REALMS = Realms(tenant_realms=4)
TENANTS = (None, "acme", "globex")
EVERYTHING = 1_000


def test_tenants_of_these_tests_live_in_different_realms() -> None:
    """The accounts of the shared realm and of both tenants lie in three realms, else the tests below show nothing."""
    assert len({REALMS.of_account(tenant_spec(0, bucket, 0)) for bucket in range(3)}) == 3


def tenant_spec(index: int, bucket: int, cap: int) -> AccountSpec:
    """One of a few accounts: of the organisation, or of one of two tenants."""
    tenant = TENANTS[bucket]
    whole = spec(index, bucket, cap)
    return whole if tenant is None else replace(whole, bucket=(*whole.bucket, ("tenant", tenant)))


async def split_on_test_clock(url: str, clock: TestClock) -> RealmsLedger:
    """A split ledger on an empty Redis whose scripts read the test's clock."""
    scripts = load_scripts(CLOCK_LUA)
    ledgers = {}
    for realm in REALMS.names:
        options = replace(PATIENT, realm=realm)
        ledgers[realm] = RedisLedger(open_channel(url, realm, options.connect_timeout_ms), options, scripts=scripts)
        await ledgers[realm].read("FLUSHALL")
    split = RealmsLedger(REALMS, ledgers)
    await move_clocks(split, clock)
    return split


async def move_clocks(split: RealmsLedger, clock: TestClock) -> None:
    """Tell the Redis of every realm the test's time."""
    for realm, ledger in split._stores.items():
        await set_clock(ledger, clock, realm)


class RealmsMachine(LedgerMachine):
    """The machine of one realm, over three; calls come one after the other, so nothing may differ."""

    buckets = len(TENANTS)
    spec = staticmethod(tenant_spec)

    @initialize()
    def begin(self) -> None:
        """An empty Redis and an empty model."""
        super().begin()
        self.run(self.redis.close())
        self.places: dict[str, tuple[str, ...]] = {}
        self.open_both()

    def open_both(self) -> None:
        """The two that must agree."""
        self.redis = self.split = self.run(split_on_test_clock(self.redis_url, self.clock))

    def set_clock(self, now_us: int) -> None:
        """The same time on both sides, in every realm."""
        self.clock.now_us = now_us
        self.run(move_clocks(self.split, self.clock))

    def step_back(self) -> None:
        """Each realm has a clock of its own: what a step back does is shown for one."""

    def extend(self) -> None:
        """A part may carry more than its home grants: this is shown by a test of its own."""

    @rule()
    def expire(self) -> None:
        """The reaper comes by, in every realm."""
        self.compare("expire", EVERYTHING)

    def compare(self, method: str, *arguments: Any) -> Any:
        """Ask both, and demand the same answer, whatever realms it came from."""
        if method == "hold" and arguments[0].previous is not None:
            previous = self.placed(arguments[0].previous)
            arguments = (replace(arguments[0], previous=previous),)
        elif method == "resolve":
            arguments = (self.placed(arguments[0]),)
        expected, actual = self.ask_both(method, *arguments)
        if isinstance(actual, HoldReply) and actual.realms:
            self.places[arguments[0].hold_id] = actual.realms
        a, b = timeless(expected), timeless(actual)
        assert a == b, f"{self.redis.last_error}\nwhole {a}\nsplit {b}"
        return actual

    def ask_both(self, method: str, *arguments: Any) -> tuple[Any, Any]:
        """The answers of both."""
        expected = self.run(getattr(self.model, method)(*arguments))
        return expected, self.run(getattr(self.redis, method)(*arguments))

    def placed(self, resolution: Resolution) -> Resolution:
        """A resolution as a ticket leads to it: with the realms its hold was granted in."""
        return replace(resolution, realms=self.places.get(resolution.hold_id, ()))

    @invariant()
    def books_are_equal(self) -> None:
        """Both list the same balances, journal, alerts and number of open holds; nothing is negative."""
        if not hasattr(self, "split"):
            return
        self.compare("open_holds")
        journals = [self.run(ledger.journal(EVERYTHING)) for ledger in (self.model, self.redis)]
        assert sorted(map(str, journals[0])) == sorted(map(str, journals[1]))
        told = [self.run(ledger.alerts("", EVERYTHING)) for ledger in (self.model, self.redis)]
        assert sorted(repr(replace(a, id="")) for a in told[0]) == sorted(repr(replace(a, id="")) for a in told[1])
        expected = self.run(self.model.balances(rule=None, limit=EVERYTHING, cursor=""))[0]
        actual: list[AccountBalance] = []
        cursor = ""
        while True:
            page, cursor = self.run(self.redis.balances(rule=None, limit=3, cursor=cursor))
            actual += page
            if not cursor:
                break
        assert sorted(map(repr, expected)) == sorted(map(repr, actual))
        assert all(balance.spent >= 0 and balance.held >= 0 for balance in expected)


def timeless(answer: Any) -> Any:
    """An answer without when and where it was given."""
    if isinstance(answer, HoldReply):
        return replace(answer, stamp=None, realms=())
    return replace(answer, stamp=None) if hasattr(answer, "stamp") else answer


@pytest.fixture(scope="module")
def own_redis() -> Iterator[str]:
    """A Redis of this module's own: thousands of FLUSHALLs would disturb its neighbours."""
    with running_redis("--save", "", "--appendonly", "no") as server:
        yield server.url


def run_machine(machine: type[RealmsMachine], url: str, examples: int) -> None:
    """A machine against one server."""
    run_state_machine_as_test(
        type(machine.__name__, (machine,), {"redis_url": url}),
        settings=settings(
            max_examples=examples,
            phases=PHASES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_extension_is_bounded_by_every_realm(own_redis: str) -> None:
    """An answer goes on as far as the account with the least room lets it, in whatever realm that is."""

    async def run() -> None:
        split = await split_on_test_clock(own_redis, TestClock())
        tight, wide = tenant_spec(0, 0, 500), tenant_spec(0, 1, 5_000)
        other = (replace(wide, bucket=tight.bucket), replace(tight, bucket=wide.bucket))
        for number, (shared, own) in enumerate(((tight, wide), other)):
            postings = tuple(Posting(spec, deciding=True, fixed=100) for spec in (shared, own))
            request = HoldRequest(hold_id(number), (one_plan(*postings),), LEASE_MS)
            reply = await split.hold(request)
            asked = Extension(request.hold_id, 10_000, 1_000, (shared, own), reply.realms)
            extended = await split.extend(asked)
            assert (extended.code, extended.output) == (Code.EXTENDED, 400)
            assert (await split.extend(asked)).code is Code.EXHAUSTED
            end = replace(settle(request.hold_id, 300), realms=reply.realms)
            assert (await split.resolve(end)).code is Code.SETTLED
            held, _ = await split.balances(rule=None, limit=10, cursor="")
            assert [balance.held for balance in held] == [0] * len(held)
            for realm in REALMS.names:
                await split._stores[realm].read("FLUSHALL")
            await move_clocks(split, TestClock())
        await split.close()

    asyncio.run(run())


def test_restored_hold_is_not_taken_for_the_tombstones_around_it(own_redis: str) -> None:
    """A settle that came before its hold entombed the id in every realm; what is restored in one stands."""

    async def run() -> None:
        split = await split_on_test_clock(own_redis, TestClock())
        await split.resolve(settle(hold_id(1), 30))
        posting = Posting(tenant_spec(0, 1, 500), deciding=True, fixed=100)
        request = HoldRequest(hold_id(1), (one_plan(posting),), LEASE_MS)
        assert (await split.restore(admitted(request, 0, 0))).code is Code.HELD
        other = replace(request, plans=(*request.plans, one_plan(target="other/model")))
        assert (await split.hold(other)).code is Code.EXISTS_WITH_DIFFERENT_AMOUNT
        await split.close()

    asyncio.run(run())


def test_split_ledger_answers_as_a_whole_one(own_redis: str) -> None:
    """Every sequence of calls gets the same answers from three realms as from one: nothing is refused, granted, charged
    or told because accounts live apart.
    """
    run_machine(RealmsMachine, own_redis, EXAMPLES // 4)
