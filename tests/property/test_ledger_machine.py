"""The same calls drive the model and a real Redis: every answer must be equal, after every step the books must balance.

Time is a value here: the scripts run with a clock that reads a key, the model with the same number.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ext_proc.ledger import ids
from ext_proc.ledger.amounts import amount
from ext_proc.ledger.interface import (
    AccountSpec,
    Basis,
    Charge,
    Code,
    ExtendReply,
    Extension,
    HoldReply,
    HoldRequest,
    Measure,
    Period,
    Plan,
    Posting,
    Resolution,
    Window,
    WindowKind,
)
from ext_proc.ledger.memory import MemoryLedger
from ext_proc.ledger.outage import admitted
from tests.conftest import running_redis
from tests.ledger_kit import DAY_US, LEASE_MS, SECOND_US, TestClock, on_test_clock, set_clock, without_epoch

pytestmark = pytest.mark.redis

T = TypeVar("T")

EXAMPLES = 60 * int(os.environ.get("TOLLGATE_TEST_SCALE", "1"))
"""The nightly run sets the scale to 20."""

PHASES = tuple(Phase) if "TOLLGATE_TEST_NO_SHRINK" not in os.environ else (Phase.generate,)
"""The mutation check wants to know whether, not why."""

WINDOWS = (
    (Measure.COST, Window(WindowKind.CALENDAR, Period.HOUR)),
    (Measure.COST, Window(WindowKind.CALENDAR, Period.DAY, "Europe/Berlin")),
    (Measure.TOKENS, Window(WindowKind.CALENDAR, Period.WEEK, "America/New_York")),
    (Measure.COST, Window(WindowKind.LIFETIME)),
    (Measure.TOKENS, Window(WindowKind.SLIDING, Period.MINUTE)),
    (Measure.REQUESTS, Window(WindowKind.SLIDING, Period.MINUTE)),
    (Measure.INPUT_TOKENS, Window(WindowKind.SLIDING, Period.HOUR)),
    (Measure.CONCURRENT, Window(WindowKind.OPEN)),
)


def spec(index: int, bucket: int, cap: int) -> AccountSpec:
    """One of a few accounts, so that requests meet on them."""
    measure, window = WINDOWS[index]
    return AccountSpec(
        document_type="gateway-budget-config",
        document_name="budgets",
        rule_id=f"rule-{index}",
        expanded_id=f"rule-{index}-{bucket}",
        bucket=(("metadata.repo", f"repo-{bucket}" if bucket else None),),
        measure=measure,
        window=window,
        cap=cap,
        latch=index == 3,
    )


class LedgerMachine(RuleBasedStateMachine):
    """Holds, settles, releases, expiries, repeats and late calls, in any order, at any time."""

    redis_url = ""
    buckets = 2
    spec = staticmethod(spec)

    @initialize()
    def begin(self) -> None:
        """An empty Redis and an empty model."""
        self.runner = asyncio.Runner()
        self.clock = TestClock()
        self.model = MemoryLedger(self.clock)
        self.redis: Any = self.run(on_test_clock(self.redis_url, self.clock))
        self.count = 0
        self.holds: list[HoldRequest] = []
        self.granted: dict[str, HoldReply] = {}
        self.resolutions: list[Resolution] = []
        self.ended: set[str] = set()
        self.restored: set[str] = set()
        self.time_was_monotone = True
        self.caps: dict[tuple[int, int], int] = {}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """To completion, in the machine's own event loop."""
        return self.runner.run(work)

    def teardown(self) -> None:
        """Close what was opened."""
        if hasattr(self, "redis"):
            self.run(self.redis.close())
            self.runner.close()

    def compare(self, method: str, *arguments: object) -> Any:
        """Ask both, and demand the same answer."""
        expected = self.run(getattr(self.model, method)(*arguments))
        actual = self.run(getattr(self.redis, method)(*arguments))
        a, b = without_epoch(expected), without_epoch(actual)
        assert a == b, f"{self.redis.last_error}\nmodel {a}\nredis {b}"
        return expected

    @rule(data=st.data(), count=st.integers(1, 3), follows=st.booleans())
    def hold(self, data: st.DataObject, count: int, follows: bool) -> None:
        """A new request, with one to three plans over a few accounts."""
        self.count += 1
        hold_id = ids.mint(self.clock(), self.count.to_bytes(8, "big"))
        previous = None
        if follows and self.holds:
            earlier = data.draw(st.sampled_from(self.holds))
            hold_id = ids.of_attempt(earlier.hold_id, int(earlier.hold_id.rpartition(".")[2]) + 1)
            previous = Resolution(earlier.hold_id, data.draw(charges()), Basis.REPORTED)
            if any(request.hold_id == hold_id for request in self.holds):
                return
        plans = tuple(self.plan(data) for _ in range(count))
        request = HoldRequest(
            hold_id, plans, LEASE_MS, context='{"caller": {"user": "ada"}}', series=data.draw(tags()), previous=previous
        )
        self.holds.append(request)
        self.ask(request)

    def plan(self, data: st.DataObject) -> Plan:
        """A plan over distinct accounts."""
        output_min = data.draw(st.integers(0, 50))
        places = data.draw(
            st.lists(
                st.tuples(st.integers(0, len(WINDOWS) - 1), st.integers(0, self.buckets - 1)), max_size=4, unique=True
            )
        )
        postings = []
        for index, bucket in places:
            cap = self.caps.setdefault((index, bucket), data.draw(st.sampled_from((0, 1, 10, 300, 5_000))))
            concurrent = WINDOWS[index][0] is Measure.CONCURRENT
            postings.append(
                Posting(
                    account=self.spec(index, bucket, cap),
                    deciding=data.draw(st.booleans()),
                    fixed=1 if concurrent else data.draw(st.integers(0, 200)),
                    per_output_milli=0 if concurrent else data.draw(st.sampled_from((0, 1, 333, 1000, 2_500))),
                    spent_below=data.draw(st.one_of(st.none(), st.integers(0, 5_000))),
                    spent_from=data.draw(st.one_of(st.none(), st.none(), st.integers(0, 3_000))),
                )
            )
        return Plan("account/model", tuple(postings), output_min, output_min + data.draw(st.integers(0, 500)))

    def ask(self, request: HoldRequest) -> HoldReply:
        """Hold on both. An id is granted once, and a repeat gets the first answer."""
        reply: HoldReply = self.compare("hold", request)
        if reply.code is Code.EXISTS and request.hold_id not in self.restored:
            first = self.granted[request.hold_id]
            assert replace(first, code=Code.EXISTS, stamp=None) == replace(reply, stamp=None)
        if reply.code is Code.HELD:
            assert request.hold_id not in self.granted
            self.granted[request.hold_id] = reply
            self.check_never_over(request, reply)
        return reply

    def check_never_over(self, request: HoldRequest, reply: HoldReply) -> None:
        """No account that decided is past its cap, unless nothing was asked of it."""
        for posting, state in zip(request.plans[reply.plan_index].postings, reply.states, strict=True):
            never_over = state.spent + state.held <= posting.account.cap
            assert never_over or not posting.deciding or amount(posting, reply.output_limit) == 0

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def repeat_hold(self, data: st.DataObject) -> None:
        """Any earlier call again, perhaps long after."""
        self.ask(data.draw(st.sampled_from(self.holds)))

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def reuse_id(self, data: st.DataObject) -> None:
        """The same id for something else."""
        request = data.draw(st.sampled_from(self.holds))
        other = replace(request, plans=(*request.plans, Plan("other/model", (), 0, 1)))
        self.ask(other)

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), basis=st.sampled_from((Basis.REPORTED, Basis.ESTIMATED, Basis.RELEASED)))
    def resolve(self, data: st.DataObject, basis: Basis) -> None:
        """Settle or release any hold: open, refused, resolved, expired."""
        request = data.draw(st.sampled_from(self.holds))
        resolution = Resolution(request.hold_id, data.draw(charges()), basis, '{"status": 200}')
        self.resolutions.append(resolution)
        self.end(resolution)

    def end(self, resolution: Resolution) -> None:
        """Resolve on both. A hold ends once."""
        reply = self.compare("resolve", resolution)
        if reply.code in (Code.SETTLED, Code.RELEASED, Code.CORRECTED):
            assert resolution.hold_id in self.granted
            assert resolution.hold_id not in self.ended
            self.ended.add(resolution.hold_id)

    @rule(data=st.data())
    def resolve_unknown(self, data: st.DataObject) -> None:
        """A settle that overtakes its hold: the hold is never granted afterwards."""
        self.count += 1
        hold_id = ids.mint(self.clock(), self.count.to_bytes(8, "big"))
        assert (
            self.compare("resolve", Resolution(hold_id, data.draw(charges()), Basis.REPORTED)).code is Code.TOMBSTONED
        )
        request = HoldRequest(hold_id, (self.plan(data),), LEASE_MS)
        self.holds.append(request)
        assert self.compare("hold", request).code is Code.ALREADY_RESOLVED

    @rule(data=st.data(), ended=st.sampled_from((None, Basis.REPORTED, Basis.RELEASED)))
    def restore(self, data: st.DataObject, ended: Basis | None) -> None:
        """What was admitted in an outage is brought back, before or after its end: past caps, and charged once."""
        self.count += 1
        hold_id = ids.mint(self.clock(), self.count.to_bytes(8, "big"))
        if ended is not None:
            self.compare("resolve", Resolution(hold_id, data.draw(charges()), ended))
        request = admitted(HoldRequest(hold_id, (self.plan(data),), LEASE_MS, series=data.draw(tags())), 0, 0)
        self.holds.append(request)
        code = self.compare("restore", request).code
        assert code is (Code.ALREADY_RESOLVED if ended is Basis.RELEASED else Code.HELD)
        if code is Code.HELD:
            self.granted[hold_id] = HoldReply(code)
            self.restored.add(hold_id)

    @precondition(lambda self: self.resolutions)
    @rule(data=st.data())
    def repeat_resolution(self, data: st.DataObject) -> None:
        """Any earlier settle or release again."""
        self.end(data.draw(st.sampled_from(self.resolutions)))

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        """Push some leases."""
        chosen = data.draw(st.lists(st.sampled_from(self.holds), min_size=1, max_size=3))
        self.compare("renew", [request.hold_id for request in chosen], LEASE_MS)

    @precondition(lambda self: self.granted)
    @rule(data=st.data(), cost_milli=st.sampled_from((0, 1, 333, 1_000, 2_500)), more=st.integers(-5, 400))
    def extend(self, data: st.DataObject, cost_milli: int, more: int) -> None:
        """An answer goes on past what was held, if the accounts that may refuse have room for it."""
        hold_id = data.draw(st.sampled_from(sorted(self.granted)))
        granted = self.granted[hold_id]
        refusing = tuple(
            replace(state.account, cap=data.draw(st.sampled_from((0, 10, 300, 5_000))))
            for state in granted.states
            if data.draw(st.booleans())
        )
        extension = Extension(hold_id, max(0, granted.output_limit + more), cost_milli, refusing)
        reply: ExtendReply = self.compare("extend", extension)
        if reply.code is Code.EXTENDED:
            assert reply.output <= extension.output
            assert self.compare("extend", replace(extension, output=reply.output)).code is Code.EXISTS

    @precondition(lambda self: self.account_names())
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        """Somebody begins an account anew by hand, with requests in flight."""
        self.compare("reset", data.draw(st.sampled_from(self.account_names())), "by the test")

    @precondition(lambda self: self.account_names())
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """Somebody opens a latched account, or one that is not."""
        lifetime = [name for name in self.account_names() if name.startswith("lifetime:")]
        if lifetime:
            self.compare("resume", data.draw(st.sampled_from(lifetime)), "by the test")

    @rule(limit=st.integers(1, 10))
    def expire(self, limit: int) -> None:
        """The reaper comes by."""
        self.compare("expire", limit)

    @rule(
        step_us=st.sampled_from(
            (1, SECOND_US, 30 * SECOND_US, 61 * SECOND_US, 3_600 * SECOND_US, 5_000 * SECOND_US, 90_000 * SECOND_US)
        )
    )
    def advance(self, step_us: int) -> None:
        """Time passes."""
        self.set_clock(self.clock() + step_us)

    @rule(step_us=st.sampled_from((SECOND_US, 59 * SECOND_US, 3_700 * SECOND_US)))
    def step_back(self, step_us: int) -> None:
        """Redis time steps back, by a little or by a lot."""
        self.time_was_monotone &= step_us < 60 * SECOND_US
        self.set_clock(self.clock() - step_us)

    def set_clock(self, now_us: int) -> None:
        """The same time on both sides."""
        self.clock.now_us = now_us
        self.run(set_clock(self.redis, self.clock))

    @rule(
        index=st.integers(0, len(WINDOWS) - 1),
        bucket=st.integers(0, 1),
        cap=st.sampled_from((0, 5, 300, 2_000, 10_000)),
    )
    def change_cap(self, index: int, bucket: int, cap: int) -> None:
        """Somebody edits the policy."""
        self.caps[index, bucket] = cap

    @invariant()
    def books_are_equal(self) -> None:
        """Both list the same balances, journal and number of open holds; nothing is negative."""
        if not hasattr(self, "redis"):
            return
        self.compare("open_holds")
        self.compare("journal", 20)
        told = [self.run(ledger.alerts("", 1_000)) for ledger in (self.model, self.redis)]
        assert [replace(alert, id="") for alert in told[0]] == [replace(alert, id="") for alert in told[1]]
        expected = self.run(self.model.balances(rule=None, limit=100, cursor=""))
        actual = self.run(self.redis.balances(rule=None, limit=100, cursor=""))
        assert expected == actual
        assert all(balance.spent >= 0 and balance.held >= 0 for balance in expected[0])

    @invariant()
    def spend_is_attributed_alike(self) -> None:
        """Both name the same top consumers, and the same spend by tag, hour and day."""
        if not hasattr(self, "redis"):
            return
        for name, kept in self.model._accounts.items():
            if kept.top and kept.expires_us > self.clock():
                self.compare("top_consumers", name, 10)
        bounds = (self.clock() - 3 * DAY_US, self.clock() + DAY_US)
        for tag, period in (("repo", Period.HOUR), ("odd {tag}", Period.DAY)):
            expected, actual = (
                self.run(ledger.series(tag, period, start_us=bounds[0], end_us=bounds[1]))
                for ledger in (self.model, self.redis)
            )
            assert expected == actual

    @invariant()
    def open_holds_add_up(self) -> None:
        """What an account holds is what the open holds on it set aside; nothing spent is negative. Where Redis time
        stepped back by an hour, accounts that were past their time are back, without what they missed.
        """
        if not hasattr(self, "redis") or not self.time_was_monotone:
            return
        for model in self.all_models():
            for account in model._accounts.values():
                if account.expires_us <= model._begin():
                    continue
                held = sum(
                    posting.amount
                    for hold_id in (*model._leases, *model._parts)
                    for posting in model._holds[hold_id].postings
                    if posting.key == account.name and posting.generation == account.generation
                    if posting.slot_us is None or posting.slot_us in account.slots
                )
                assert held == account.held
                assert account.spent >= 0

    def all_models(self) -> Iterable[MemoryLedger]:
        """The models of every realm."""
        return (self.model,)

    def account_names(self) -> list[str]:
        """The accounts there have been."""
        return sorted(name for model in self.all_models() for name in model._accounts)


def tags() -> st.SearchStrategy[tuple[tuple[str, str], ...]]:
    """Tags whose spend is kept, with values that would break a careless encoding."""
    values = st.sampled_from(("core", "a b;c", "{0}", "-", "é"))
    return st.lists(st.tuples(st.sampled_from(("repo", "pipeline", "odd {tag}")), values), max_size=2, unique=True).map(
        tuple
    )


def charges() -> st.SearchStrategy[Charge]:
    """Small charges, often above what was held."""
    return st.builds(Charge, st.integers(0, 400), st.integers(0, 200), st.integers(0, 200), st.integers(0, 1))


@pytest.fixture(scope="module")
def own_redis() -> Iterator[str]:
    """A Redis of this module's own: thousands of FLUSHALLs would disturb its neighbours."""
    with running_redis("--save", "", "--appendonly", "no") as server:
        yield server.url


def test_redis_answers_as_the_model_does(own_redis: str) -> None:
    """Every sequence of calls gets the same answers from Redis as from the model, and no balance is ever negative."""
    machine = type("Machine", (LedgerMachine,), {"redis_url": own_redis})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            phases=PHASES,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
