"""Goal: under concurrency, timeouts and retries the ledger behaves as if each call happened at one instant.

Method: fifty clients on ten workers, each behind a proxy that loses requests, answers and connections, meet on three
accounts. What they asked and heard is a history. A search (after Wing and Gong, as in porcupine) looks for an order in
which the model gives the same answers, and which keeps what ended before something else began before it. A call without
an answer may have happened at any time after it was made, or never; but a settle is kept until Redis has it. Every
choice comes from one seed, which names the test.
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
from typing import Any, TypeVar

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
LOSSES = 1  # of all that is under way on one connection: the search tries each in every place
LEASE_MS = 3_600_000  # nothing expires: time is no part of this
HASTY = LedgerOptions(deadline_ms=1_000, breaker_failures=1_000, breaker_pause_ms=10, connect_timeout_ms=500)
ACCOUNTS = tuple(
    account(f"rule-{n}", cap=cap, window=Window(WindowKind.LIFETIME)) for n, cap in enumerate((400, 900, 2_500))
)
DONE_BEFORE = {Code.HELD, Code.SETTLED, Code.RELEASED, Code.TOMBSTONED}
"""Codes in whose place a worker hears `exists` where its own first try had got through."""
MAX_STEPS = 20_000

T = TypeVar("T")
Answer = HoldReply | ResolveReply | None
Books = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asked, between which two moments, and what it heard: None where it heard nothing."""

    asked: HoldRequest | Resolution
    began: int
    ended: float
    answer: Answer

    @property
    def may_not_have_happened(self) -> bool:
        """Whether it may have got lost for good: what ends a hold is kept until Redis has it."""
        return self.answer is None and isinstance(self.asked, HoldRequest)


class Traffic:
    """Fifty clients, and the history they make."""

    def __init__(self, seed: int, url: str) -> None:
        self.chance = random.Random(seed)  # a history that can be made again
        self.history: list[Call] = []
        self._losses = 0
        self._url = url
        self._moments = itertools.count()
        self._workers: list[RedisLedger] = []
        self._proxies: list[DroppingProxy] = []

    async def run(self) -> Books:
        """All clients to their end, then the books as they are once every worker has said its last word."""
        try:
            for _ in range(WORKERS):
                proxy = DroppingProxy(int(self._url.rsplit(":", 1)[1].split("/")[0]))
                self._proxies.append(proxy)
                self._workers.append(RedisLedger.connect(await proxy.start(), HASTY))
                await self._workers[-1].start()
            await asyncio.gather(*(self._client(number) for number in range(CLIENTS)))
            for proxy in self._proxies:
                proxy.passes_requests = proxy.passes_answers = True
                proxy.reset_peers()
            await until(lambda: not any(worker.waiting_resolutions for worker in self._workers))
        finally:
            for worker in self._workers:
                await worker.close()
            for proxy in self._proxies:
                await proxy.stop()
        async with connected(self._url) as ledger:
            return await books(ledger)

    async def _client(self, number: int) -> None:
        """One request after the other, as gateways make them when things go wrong."""
        for turn in range(2):
            request = self._request(number * 2 + turn)
            end = self._end(request.hold_id)
            match self.chance.randrange(6):
                case 0:  # the settle does not wait for the hold
                    await asyncio.gather(self._ask(request), self._ask(end))
                case 1:  # two workers make the same hold
                    await asyncio.gather(self._ask(request), self._ask(request))
                    await self._ask(end)
                case 2:  # the second attempt ends the first
                    await self._ask(request)
                    later = replace(request, hold_id=ids.of_attempt(request.hold_id, 2), previous=end)
                    await self._ask(later)
                    await self._ask(self._end(later.hold_id))
                case 3:  # it is settled twice
                    await self._ask(request)
                    await asyncio.gather(self._ask(end), self._ask(end))
                case _:
                    await self._ask(request)
                    await self._ask(end)

    def _request(self, number: int) -> HoldRequest:
        chosen = self.chance.sample(ACCOUNTS, self.chance.randint(1, 3))
        postings = (Posting(spec, self.chance.random() < 0.9, self.chance.randint(1, 150)) for spec in chosen)
        hold_id = ids.mint(self._workers[0].now_us(), number.to_bytes(8, "big"))
        return HoldRequest(hold_id, (one_plan(*postings),), LEASE_MS, keep_if_unavailable=True)

    def _end(self, hold_id: str) -> Resolution:
        return release(hold_id) if self.chance.random() < 0.3 else settle(hold_id, self.chance.randint(0, 120))

    async def _ask(self, asked: HoldRequest | Resolution) -> None:
        """Ask any worker, through whatever its connection does now."""
        sound = [n for n, proxy in enumerate(self._proxies) if proxy.passes_answers and proxy.passes_requests]
        chosen = self.chance.choice(sound)
        worker, proxy = self._workers[chosen], self._proxies[chosen]
        loses = self._losses < LOSSES and self.chance.random() < 0.05
        if loses:
            self._losses += 1
            proxy.passes_answers, proxy.passes_requests = self.chance.choice(((False, True), (True, False)))
        began = next(self._moments)
        answer = await (worker.hold(asked) if isinstance(asked, HoldRequest) else worker.resolve(asked))
        if loses:
            proxy.passes_answers = proxy.passes_requests = True
            proxy.reset_peers()
        unknown = answer.code is Code.UNAVAILABLE
        ended = math.inf if unknown else next(self._moments)
        if isinstance(asked, HoldRequest) and asked.previous is not None and unknown:
            self.history.append(Call(asked.previous, began, math.inf, None))  # kept like any other end
        self.history.append(Call(asked, began, ended, None if unknown else answer))


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
    dead: set[tuple[int, Books]] = set()
    path: list[Call] = []
    stack = [(start, 0, candidates(calls, 0, start))]
    while stack:
        model, done, left = stack[-1]
        if books_of(model) == final and all(done >> n & 1 or is_idle(model, call) for n, call in enumerate(calls)):
            return path
        for number in left:
            assert next(steps) < MAX_STEPS, "no order found"
            following = fork(model)
            after = done | 1 << number
            if not agrees(calls[number].answer, asked_of(following, calls[number].asked)):
                continue
            if calls[number].answer is None and following._seq == model._seq:
                continue  # nobody heard of it and it changes nothing: it need not be anywhere
            if (after, books_of(following)) in dead:
                continue
            path.append(calls[number])
            stack.append((following, after, candidates(calls, after, following)))
            break
        else:
            dead.add((done, books_of(model)))
            stack.pop()
            if path:
                path.pop()
    return None


def is_idle(model: MemoryLedger, call: Call) -> bool:
    """Whether a call need not be in the order: it may have got lost, or what is kept of it will change nothing."""
    if call.may_not_have_happened:
        return True
    following = fork(model)
    asked_of(following, call.asked)
    return call.answer is None and following._seq == model._seq


def candidates(calls: list[Call], done: int, model: MemoryLedger) -> Iterator[int]:
    """The calls that may come next, the likeliest first: Redis numbers its changes, and a gap in the numbers is a call
    whose answer got lost.
    """
    open_calls = [n for n in range(len(calls)) if not done >> n & 1]
    first_end = min((calls[n].ended for n in open_calls), default=math.inf)
    able = [n for n in open_calls if calls[n].began < first_end]

    known = [
        (answer.stamp.seq, n) for n in able if (answer := calls[n].answer) is not None and answer.stamp is not None
    ]
    silent = [] if model._seq + 1 in taken(calls, open_calls) else [n for n in able if calls[n].answer is None]
    return iter(
        [
            *(n for seq, n in sorted(known) if seq <= model._seq + 1),
            *silent,
            *(n for seq, n in sorted(known) if seq > model._seq + 1),
        ]
    )


def taken(calls: list[Call], open_calls: list[int]) -> set[int]:
    """The numbers of changes that are those of calls somebody heard of."""
    answers = (calls[n].answer for n in open_calls)
    return {a.stamp.seq for a in answers if a is not None and a.stamp is not None and a.code in DONE_BEFORE}


def agrees(heard: Answer, expected: HoldReply | ResolveReply) -> bool:
    """Whether a client may hear this where the model says that. Both number the changes there have been: what a worker
    had to ask twice, because its connection broke, was done at the first try and may be answered at a later number.
    """
    if heard is None:
        return True
    if heard.stamp is None or expected.stamp is None:
        return False
    heard_seq, expected_seq = heard.stamp.seq, expected.stamp.seq
    if heard.code is Code.EXISTS and expected.code in DONE_BEFORE:
        expected = replace(expected, code=Code.EXISTS)
    may_be_second = heard.code in (Code.EXISTS, Code.REFUSED) and heard_seq > expected_seq
    in_turn = may_be_second or heard_seq == expected_seq
    return in_turn and replace(heard, stamp=None) == replace(expected, stamp=None)


def asked_of(model: MemoryLedger, asked: HoldRequest | Resolution) -> HoldReply | ResolveReply:
    """The model's answer."""
    if isinstance(asked, HoldRequest):
        return at_once(model.hold(asked))
    return at_once(model.resolve(asked))


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
    assert 0 < len(silent) < len(traffic.history)
    assert order_of(traffic.history, final) is not None


def test_search_finds_no_order_where_there_is_none() -> None:
    """Two holds of 60 on a cap of 100, both granted; or a charge that is not in the books: no order explains them."""
    spec = account(cap=100, window=Window(WindowKind.LIFETIME))
    model = MemoryLedger(lambda: 1_000_000)
    first, second = (
        HoldRequest(ids.mint(1_000_000, bytes([n] * 8)), (one_plan(Posting(spec, deciding=True, fixed=60)),), LEASE_MS)
        for n in (1, 2)
    )
    granted = asked_of(model, first)
    one = Call(first, 0, 2, granted)
    other = Call(second, 1, 3, granted)
    charge = settle(first.hold_id, 50)
    charged = Call(charge, 4, math.inf, None)
    books_held, books_spent = books_of(model), None
    asked_of(model, charge)
    books_spent = books_of(model)

    assert order_of([one], books_held) == [one]
    assert order_of([one, other], books_held) is None
    assert order_of([one, charged], books_spent) == [one, charged]
    assert order_of([one, charged], books_held) is None
    assert order_of([one, replace(other, ended=math.inf, answer=None)], books_held) == [one]
    assert charged.answer is None
    assert charge.basis is Basis.REPORTED
