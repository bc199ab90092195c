"""Goal: under concurrency, timeouts and retries the ledger behaves as if each call happened at one instant.

Method: fifty clients on ten workers meet on three accounts. An eleventh worker makes ten of their calls, one at a time,
behind a proxy that breaks its connection once, so that it asks again, or twice, so that nobody hears what became of the
call: so many, however slow the machine is. What they asked and heard is a history. A search (after Wing and Gong, as in
porcupine) looks for an order in which the model gives the same answers, and which keeps what ended before something
else began before it. A call without an answer may have happened at any time after it was made, or never; but a settle
is kept until Redis has it. What each client asks comes from the seed, which names the test.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
import os
import random
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import pytest

from ext_proc.ledger import ids
from ext_proc.ledger.interface import (
    Basis,
    Code,
    HoldReply,
    HoldRequest,
    Posting,
    Resolution,
    ResolveReply,
    Window,
    WindowKind,
)
from ext_proc.ledger.memory import MemoryLedger
from ext_proc.ledger.options import LedgerOptions
from ext_proc.ledger.redis_ledger import RedisLedger
from tests.ledger_kit import DroppingProxy, account, connected, one_plan, release, settle, until

pytestmark = pytest.mark.redis

SEEDS = range(4 * int(os.environ.get("TOLLGATE_TEST_SCALE", "1")))
CLIENTS = 50
WORKERS = 10
BREAKS = 6  # calls that are made again because their connection broke
LOSSES = 4  # calls whose fate nobody hears: the search tries each in every place
LEASE_MS = 3_600_000  # nothing expires: time is no part of this
STEADFAST = LedgerOptions(deadline_ms=120_000, connect_timeout_ms=120_000, breaker_failures=1_000, breaker_pause_ms=10)
"""However slow the machine is, only what the test loses is lost."""
ACCOUNTS = tuple(
    account(f"rule-{n}", cap=cap, window=Window(WindowKind.LIFETIME)) for n, cap in enumerate((400, 900, 2_500))
)
CHANGES = {Code.HELD, Code.SETTLED, Code.RELEASED, Code.TOMBSTONED}
"""What is answered so has changed something, and is the first to have done it."""
MAX_STEPS = 20_000

T = TypeVar("T")
Trouble = Literal["lost", "broken"] | None
Answer = HoldReply | ResolveReply | None
Books = tuple[tuple[str, int, int], ...]
State = tuple[int, int, Books, frozenset[tuple[str, bool, bool]], frozenset[str]]


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asked, between which two moments, and what it heard: None where it heard nothing."""

    asked: HoldRequest | Resolution
    began: int
    ended: float
    answer: Answer
    first_try: bool = False  # of a call that was made again, and was answered then

    @property
    def may_not_have_happened(self) -> bool:
        """Whether it may have got lost for good: what ends a hold is kept until Redis has it."""
        return self.first_try or (self.answer is None and isinstance(self.asked, HoldRequest))


class Traffic:
    """Fifty clients, and the history they make."""

    def __init__(self, seed: int, url: str) -> None:
        self.history: list[Call] = []
        self._seed = seed
        self._url = url
        chance = random.Random(f"{seed}")
        troubled = chance.sample(range(2 * CLIENTS), LOSSES + BREAKS)  # requests of which a call gets into trouble
        self._lost, self._broken = troubled[:LOSSES], troubled[LOSSES:]
        self._moments = itertools.count()
        self._workers: list[RedisLedger] = []
        self._proxies: list[DroppingProxy] = []
        self._lossy = asyncio.Lock()

    async def run(self) -> Books:
        """All clients to their end, then the books as they are once every worker has said its last word."""
        try:
            for _ in range(WORKERS + 1):
                proxy = DroppingProxy(int(self._url.rsplit(":", 1)[1].split("/")[0]))
                self._proxies.append(proxy)
                self._workers.append(RedisLedger.connect(await proxy.start(), STEADFAST))
                await self._workers[-1].start()
            async with asyncio.TaskGroup() as clients:  # where one fails, the others end at once
                for number in range(CLIENTS):
                    clients.create_task(self._client(number))
            await until(lambda: not any(worker.waiting_resolutions for worker in self._workers))
        finally:
            for worker in self._workers:
                await worker.close()
            for proxy in self._proxies:
                await proxy.stop()
        async with connected(self._url, STEADFAST) as ledger:
            return await books(ledger)

    async def _client(self, number: int) -> None:
        """One request after the other, as gateways make them when things go wrong."""
        chance = random.Random(f"{self._seed}/{number}")  # whatever the others do, this client asks the same
        for turn in range(2):
            request = self._request(chance, number * 2 + turn)
            end = self._end(chance, request.hold_id)
            ask, trouble = self._ask, self._trouble_of(number * 2 + turn)
            match chance.randrange(6):
                case 0:  # the settle does not wait for the hold
                    await asyncio.gather(ask(chance, request, trouble=trouble), ask(chance, end))
                case 1:  # two workers make the same hold
                    await asyncio.gather(ask(chance, request, trouble=trouble), ask(chance, request))
                    await ask(chance, end)
                case 2:  # the second attempt ends the first
                    await ask(chance, request)
                    later = replace(request, hold_id=ids.of_attempt(request.hold_id, 2), previous=end)
                    await ask(chance, later, trouble=trouble)
                    await ask(chance, self._end(chance, later.hold_id))
                case 3:  # it is settled twice
                    await ask(chance, request)
                    await asyncio.gather(ask(chance, end, trouble=trouble), ask(chance, end))
                case _:
                    first = chance.random() < 0.5
                    await ask(chance, request, trouble=trouble if first else None)
                    await ask(chance, end, trouble=None if first else trouble)

    def _trouble_of(self, number: int) -> Trouble:
        return "lost" if number in self._lost else "broken" if number in self._broken else None

    def _request(self, chance: random.Random, number: int) -> HoldRequest:
        chosen = chance.sample(ACCOUNTS, chance.randint(1, 3))
        postings = (Posting(spec, chance.random() < 0.9, chance.randint(1, 150)) for spec in chosen)
        hold_id = ids.mint(self._workers[0].now_us(), number.to_bytes(8, "big"))
        return HoldRequest(hold_id, (one_plan(*postings),), LEASE_MS, keep_if_unavailable=True)

    def _end(self, chance: random.Random, hold_id: str) -> Resolution:
        return release(hold_id) if chance.random() < 0.3 else settle(hold_id, chance.randint(0, 120))

    async def _ask(self, chance: random.Random, asked: HoldRequest | Resolution, *, trouble: Trouble = None) -> None:
        """Ask any worker; the one that gets into trouble is asked nothing else, so that no other call is touched."""
        if trouble is None:
            assert await self._call(chance.choice(self._workers[:WORKERS]), asked) is not Code.UNAVAILABLE
            return
        async with self._lossy:
            proxy = self._proxies[-1]
            what = chance.choice(("requests", "answers"))
            seen = proxy.requests_seen if what == "requests" else proxy.answers_seen
            setattr(proxy, f"passes_{what}", False)
            seen.clear()
            call = asyncio.ensure_future(self._call(self._workers[-1], asked))
            try:
                await seen.wait()
                proxy.reset_peers()
                if trouble == "broken":
                    proxy.passes_requests = proxy.passes_answers = True
                proxy.accepts = trouble == "broken"
                assert (await call is Code.UNAVAILABLE) == (trouble == "lost")
            finally:
                proxy.accepts = proxy.passes_requests = proxy.passes_answers = True

    async def _call(self, worker: RedisLedger, asked: HoldRequest | Resolution) -> Code:
        """One call, written down."""
        began = next(self._moments)
        broken = worker.counters.retried
        answer = await (worker.hold(asked) if isinstance(asked, HoldRequest) else worker.resolve(asked))
        unknown = answer.code is Code.UNAVAILABLE
        ended = math.inf if unknown else next(self._moments)
        if not unknown and worker.counters.retried > broken and answer.code not in CHANGES:
            self.history.append(Call(asked, began, math.inf, None, first_try=True))
        if isinstance(asked, HoldRequest) and asked.previous is not None and unknown:
            self.history.append(Call(asked.previous, began, math.inf, None))  # kept like any other end
        self.history.append(Call(asked, began, ended, None if unknown else answer))
        return answer.code


async def books(ledger: RedisLedger) -> Books:
    """What every account has spent and holds."""
    found, _ = await ledger.balances(rule=None, limit=100, cursor="")
    return tuple(sorted((balance.rule, balance.spent, balance.held) for balance in found))


def order_of(history: list[Call], final: Books) -> list[Call] | None:
    """An order of the calls in which the model gives the answers heard and ends with these books; None without one.

    Raises AssertionError after MAX_STEPS calls of the model: that is no order found, and no proof that there is none.
    """
    now_us = max(ids.minted_us(call.asked.hold_id) for call in history)
    start = MemoryLedger(lambda: now_us)
    calls = sorted(history, key=lambda call: call.began)
    steps = itertools.count()
    dead: set[State] = set()
    path: list[Call] = []
    stack = [(start, 0, following(calls, 0, start))]
    while stack:
        model, done, left = stack[-1]
        if books_of(model) == final and all(done >> n & 1 or is_idle(model, call) for n, call in enumerate(calls)):
            return path
        for number, then in left:
            assert next(steps) < MAX_STEPS, "no order found"
            after = done | 1 << number
            if state_of(after, then) not in dead:
                path.append(calls[number])
                stack.append((then, after, following(calls, after, then)))
                break
        else:
            dead.add(state_of(done, model))
            stack.pop()
            if path:
                path.pop()
    return None


def is_idle(model: MemoryLedger, call: Call) -> bool:
    """Whether a call need not be in the order: it may have got lost, or what is kept of it will change nothing."""
    if call.may_not_have_happened:
        return True
    return call.answer is None and asked_of(model, call.asked)[0]._seq == model._seq


def following(calls: list[Call], done: int, model: MemoryLedger) -> Iterator[tuple[int, MemoryLedger]]:
    """The calls that may come next, each with the model after it.

    Redis numbers its changes. What changes nothing and is answered as heard may come now, whatever else may; the change
    that was heard to be the next one is it; and only where nobody heard of the next one, it is one that got lost.
    """
    open_calls = [n for n in range(len(calls)) if not done >> n & 1]
    first_end = min((calls[n].ended for n in open_calls), default=math.inf)
    able = [n for n in open_calls if calls[n].began < first_end]
    changes = []
    for n in able:
        heard = calls[n].answer
        if heard is None or heard.stamp is None or heard.stamp.seq not in (model._seq, model._seq + 1):
            continue
        then, expected = asked_of(model, calls[n].asked)
        if heard == replace(expected, stamp=replace(heard.stamp, seq=then._seq)):
            if then._seq == model._seq:
                yield n, then
                return
            changes.append((n, then))
    yield from changes
    heard_next = {a.stamp.seq for n in open_calls if (a := calls[n].answer) and a.stamp and a.code in CHANGES}
    if model._seq + 1 not in heard_next:
        to_be_held = {calls[n].asked.hold_id for n in open_calls if (a := calls[n].answer) and a.code is Code.HELD}
        for n in able:
            if calls[n].answer is None and calls[n].asked.hold_id not in to_be_held:
                then, _ = asked_of(model, calls[n].asked)
                if then._seq != model._seq:
                    yield n, then


def asked_of(model: MemoryLedger, asked: HoldRequest | Resolution) -> tuple[MemoryLedger, HoldReply | ResolveReply]:
    """A model that has gone on by this call, and its answer."""
    then = fork(model)
    if isinstance(asked, HoldRequest):
        return then, at_once(then.hold(asked))
    return then, at_once(then.resolve(asked))


def state_of(done: int, model: MemoryLedger) -> State:
    """All that the rest of the search depends on: each id has one end, whose figures need not be told apart."""
    holds = frozenset((hold_id, held.resolved, held.waiting is None) for hold_id, held in model._holds.items())
    return done, model._seq, books_of(model), holds, frozenset(model._refused)


def books_of(model: MemoryLedger) -> Books:
    """The model's books."""
    return tuple(sorted((kept.spec.expanded_id, kept.spent, kept.held) for kept in model._accounts.values()))


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of what waits for nothing."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("the model waited")


def fork(model: MemoryLedger) -> MemoryLedger:
    """A model that goes its own way from here."""
    other = copy.copy(model)
    other._accounts = {name: copy.copy(kept) for name, kept in model._accounts.items()}
    for kept in other._accounts.values():
        kept.top = dict(kept.top)
    other._holds = {hold_id: copy.copy(held) for hold_id, held in model._holds.items()}
    other._refused, other._leases = dict(model._refused), dict(model._leases)
    other._journal, other._outbox = list(model._journal), list(model._outbox)
    return other


@pytest.mark.parametrize("seed", SEEDS)
def test_there_is_one_order_that_explains_every_answer(seed: int, redis_url: str) -> None:
    """However calls of fifty clients overlap, time out and are repeated, they happened in some order, each at once."""
    traffic = Traffic(seed, redis_url)
    final = asyncio.run(traffic.run())
    silent = [call for call in traffic.history if call.answer is None]
    lost = sum(not call.first_try for call in silent)
    assert LOSSES <= lost <= 2 * LOSSES  # an attempt that is lost leaves the end of the one before it unheard too
    assert order_of(traffic.history, final) is not None


def test_search_finds_no_order_where_there_is_none() -> None:
    """Two holds of 60 on a cap of 100, both granted; or a charge that is not in the books: no order explains them."""
    spec = account(cap=100, window=Window(WindowKind.LIFETIME))
    model = MemoryLedger(lambda: 1_000_000)
    first, second = (
        HoldRequest(ids.mint(1_000_000, bytes([n] * 8)), (one_plan(Posting(spec, deciding=True, fixed=60)),), LEASE_MS)
        for n in (1, 2)
    )
    model, granted = asked_of(model, first)
    one = Call(first, 0, 2, granted)
    other = Call(second, 1, 3, granted)
    charge = settle(first.hold_id, 50)
    charged = Call(charge, 4, math.inf, None)
    books_held, books_spent = books_of(model), None
    model, _ = asked_of(model, charge)
    books_spent = books_of(model)

    assert order_of([one], books_held) == [one]
    assert order_of([one, other], books_held) is None
    assert order_of([one, charged], books_spent) == [one, charged]
    assert order_of([one, charged], books_held) is None
    assert order_of([one, replace(other, ended=math.inf, answer=None)], books_held) == [one]
    assert charged.answer is None
    assert charge.basis is Basis.REPORTED
