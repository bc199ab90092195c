"""Goal: a split ledger that is cut short between the steps of its realms leaves balanced books.

Method: two split ledgers, one over models and one over Redis, whose calls die or lose an answer at the same step. Redis
must be left as the models are, and once the reaper has been every part has ended as its home did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from ext_proc.ledger import ids, keys
from ext_proc.ledger.interface import (
    Basis,
    Code,
    Ended,
    HoldReply,
    HoldRequest,
    Outcome,
    RealmLedger,
    Resolution,
    ResolveReply,
    Weighing,
)
from ext_proc.ledger.memory import MemoryLedger
from ext_proc.ledger.outage import admitted
from ext_proc.ledger.split_ledger import SplitLedger
from tests.conftest import running_redis
from tests.ledger_kit import LEASE_MS
from tests.property.test_ledger_machine import EXAMPLES, charges
from tests.property.test_ledger_realms import EVERYTHING, REALMS, RealmsMachine, run_machine, split_on_test_clock

pytestmark = pytest.mark.redis

DIED = "died"


class DiedError(Exception):
    """The worker was killed here."""


class Fault(StrEnum):
    """What comes between a worker and a realm."""

    KILLED_BEFORE = "killed before it asked"
    KILLED_AFTER = "killed before the answer came"
    LOST_REQUEST = "no answer: the request was lost"
    LOST_ANSWER = "no answer: the answer was lost"


class Fuse:
    """Burns with each question to a realm; the one at its end comes to grief."""

    def __init__(self) -> None:
        self._left = -1
        self._fault = Fault.KILLED_BEFORE
        self._dead = False
        self._asking: set[asyncio.Task[Any]] = set()

    def light(self, left: int, fault: Fault) -> None:
        """After so many questions."""
        self._left, self._fault = left, fault

    async def burn_out(self) -> None:
        """What was asked before a death is answered, though nobody hears it; then there is another worker."""
        while self._asking:
            await asyncio.wait(self._asking)
        self._dead = False

    async def ask(self, name: str, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """One question to one realm."""
        if self._dead:
            raise DiedError
        strikes = self._left == 0
        self._left -= 1
        if strikes and self._fault is Fault.KILLED_BEFORE:
            self._dead = True
            raise DiedError
        if strikes and self._fault is Fault.LOST_REQUEST:
            return NO_ANSWER[name]
        self._dead |= strikes and self._fault is Fault.KILLED_AFTER
        task = asyncio.ensure_future(call())
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        answer = await task
        if self._dead:
            raise DiedError
        return NO_ANSWER[name] if strikes else answer


NO_ANSWER: dict[str, Any] = {
    "hold": HoldReply(Code.UNAVAILABLE),
    "restore": HoldReply(Code.UNAVAILABLE),
    "weigh": Weighing(reply=HoldReply(Code.UNAVAILABLE)),
    "resolve": ResolveReply(Code.UNAVAILABLE),
    "withdraw": Code.UNAVAILABLE,
    "outcome": Outcome(Ended.UNKNOWN),
    "overdue_parts": (),
    "expire_part": Code.UNAVAILABLE,
    "expire": 0,
    "renew": Code.UNAVAILABLE,
}


class Fused:
    """The ledger of one realm, on a fuse."""

    def __init__(self, ledger: Any, fuse: Fuse) -> None:
        self._ledger = ledger
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        """Its methods; those that are steps of a call burn the fuse."""
        method = getattr(self._ledger, name)
        if name not in NO_ANSWER:
            return method
        return lambda *arguments: self._fuse.ask(name, lambda: method(*arguments))


def postings(realm: str) -> str:
    """The key of a realm's posting rows."""
    return f"{keys.prefix(realm)}postings"


class TornMachine(RealmsMachine):
    """Calls die, or lose an answer, between the steps that realms are asked in. Both sides are split, and torn alike:
    the one over Redis must be left as the one over models is.
    """

    def open_both(self) -> None:
        """Two split ledgers, on one fuse each."""
        self.split = self.run(split_on_test_clock(self.redis_url, self.clock))
        self.models = {realm: MemoryLedger(self.clock) for realm in REALMS.names}
        self.fuses = (Fuse(), Fuse())
        self.model = self.torn(self.models, self.fuses[0])
        self.redis = self.torn(self.split._stores, self.fuses[1])

    def torn(self, ledgers: Mapping[str, Any], fuse: Fuse) -> Any:
        """A split ledger whose realms hang on a fuse."""
        split = SplitLedger(REALMS, {name: cast("RealmLedger", Fused(one, fuse)) for name, one in ledgers.items()})
        split.last_error = ""  # type: ignore[attr-defined]  # what the base machine shows when answers differ
        return split

    def all_models(self) -> Iterable[MemoryLedger]:
        """The models of every realm."""
        return self.models.values()

    def teardown(self) -> None:
        """Close what was opened."""
        if hasattr(self, "split"):
            self.run(self.split.close())
            self.runner.close()

    @rule(left=st.integers(0, 6), fault=st.sampled_from(tuple(Fault)))
    def light(self, left: int, fault: Fault) -> None:
        """The next call that asks so many realms comes to grief there."""
        for fuse in self.fuses:
            fuse.light(left, fault)

    def ask_both(self, method: str, *arguments: Any) -> tuple[Any, Any]:
        """The answers of both; DIED where they were cut short."""
        told = []
        for ledger, fuse in zip((self.model, self.redis), self.fuses, strict=True):
            try:
                told.append(self.run(getattr(ledger, method)(*arguments)))
            except DiedError:
                told.append(DIED)
            self.run(fuse.burn_out())
        return told[0], told[1]

    def ask(self, request: HoldRequest) -> HoldReply:
        """Hold on both. An id whose answer was lost may be asked for again, so that EXISTS may be its first."""
        answer = self.compare("hold", request)
        reply: HoldReply = HoldReply(Code.UNAVAILABLE) if answer is DIED else answer
        if reply.code in {Code.HELD, Code.EXISTS}:
            self.granted.setdefault(request.hold_id, reply)
        if reply.code is Code.HELD:
            self.check_never_over(request, reply)
        return reply

    def end(self, resolution: Resolution) -> None:
        """Resolve on both. At home a hold ends once."""
        self.compare("resolve", resolution)

    def resolve_unknown(self) -> None:
        """A lost answer leaves an id that is not unknown: this is shown by the machine that is not torn."""

    @rule(data=st.data(), settled=st.booleans())
    def restore(self, data: st.DataObject, *, settled: bool) -> None:
        """What was admitted in an outage is brought back, as often as it takes, before or after its end."""
        self.count += 1
        hold_id = ids.mint(self.clock(), self.count.to_bytes(8, "big"))
        asked = HoldRequest(hold_id, (self.plan(data),), LEASE_MS, keep_if_unavailable=True)
        self.holds.append(asked)
        if data.draw(st.booleans()):
            self.ask(asked)
        request = admitted(asked, 0, 0)
        end = Resolution(hold_id, data.draw(charges()), Basis.REPORTED, realms=REALMS.of_plan(request.plans[0]))
        steps = ["resolve", "restore"] if settled else ["restore", "resolve"]
        for step in (*steps, *steps):
            self.compare(step, end if step == "resolve" else request)
        self.places[hold_id] = end.realms

    @rule()
    def recover(self) -> None:
        """Leases run out and the reaper comes by twice: first homes and then parts, wherever their homes stand."""
        for fuse in self.fuses:
            fuse.light(-1, Fault.LOST_ANSWER)
        for _ in range(2):
            self.set_clock(self.clock() + 2 * LEASE_MS * 1_000)
            self.compare("expire", EVERYTHING)
        assert self.run(self.split.open_holds()) == 0
        assert not any(ledger._parts for ledger in self.models.values())
        self.open_holds_add_up()  # to nothing

    @invariant()
    def parts_end_as_their_home_did(self) -> None:
        """Wherever a hold was cut short: a part that has ended was charged what its home was charged, or in full as its
        home was before it was corrected.
        """
        for ledger in getattr(self, "models", {}).values():
            for hold_id, part in ledger._holds.items():
                if not part.home or part.expires_us is None:
                    continue
                home = self.models[part.home]._holds.get(hold_id)
                if part.expired:
                    assert home is not None
                    assert home.expired or home.resolved
                elif part.fingerprint != "withdrawn":
                    assert home is not None
                    assert home.resolved
                    assert home.fingerprint == part.fingerprint

    @invariant()
    def spend_is_attributed_alike(self) -> None:
        """What it is made of is compared realm by realm."""
        for realm, model in getattr(self, "models", {}).items():
            expected = self.run(model.balances(rule=None, limit=EVERYTHING, cursor=""))
            assert expected == self.run(self.split._stores[realm].balances(rule=None, limit=EVERYTHING, cursor=""))
            rows = cast("list[Any]", self.run(self.split._stores[realm].read("XRANGE", postings(realm), "-", "+")))
            told = [(fields[1].decode(), int(fields[fields.index(b"charge") + 1])) for _, fields in rows]
            assert sorted(told) == sorted(
                (str(r["hold_id"]), int(str(r["charge_nanodollars"]))) for r in model._postings
            )


@pytest.fixture(scope="module")
def own_redis() -> Iterator[str]:
    """A Redis of this module's own: thousands of FLUSHALLs would disturb its neighbours."""
    with running_redis("--save", "", "--appendonly", "no") as server:
        yield server.url


def test_torn_calls_leave_balanced_books(own_redis: str) -> None:
    """Whatever step between realms a call dies at, or loses its answer at: nothing is over, Redis is left as the model
    is, and after the reaper nothing is held and each part has ended as its home did.
    """
    run_machine(TornMachine, own_redis, EXAMPLES // 4)
