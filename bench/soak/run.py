"""One soak: traffic, disruptions, samples, and at the end the books."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.errors import BenchError
from bench.machine import describe
from bench.soak import disruptions
from bench.soak.books import Books, balance
from bench.soak.client import send
from bench.soak.journal import Journal, balance_of
from bench.soak.memory import Growth, Memory, resident_kib
from bench.soak.provider import Provider
from bench.soak.records import Balance, Disruption, Sent
from bench.soak.stack import Options, Stack, stack
from bench.soak.traffic import Request, requests
from ext_proc.mock_provider.server import listening

IN_FLIGHT_MAX = 400
_POINTS_MAX = 120


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how much, and from which seed."""

    seconds: float
    rate: float
    seed: int
    options: Options


class Soak:
    """`run` answers the report, as JSON."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self._plan = plan
        self._directory = directory
        self._provider = Provider()
        self._memory = Memory()
        self._sent: list[Sent] = []
        self._disruptions: list[Disruption] = []
        self._skipped = 0

    async def run(self) -> dict[str, Any]:
        """Everything, from start to stop."""
        async with contextlib.AsyncExitStack() as opened:
            url = await opened.enter_async_context(listening("127.0.0.1:0", self._provider.mock))
            # Started and stopped in a thread: what it waits for is served by this loop.
            running = stack(self._directory, url, self._plan.options)
            up = await asyncio.to_thread(running.__enter__)
            try:
                result = await self._with(up)
            finally:
                await asyncio.to_thread(running.__exit__, None, None, None)
        if up.process.returncode != 0:
            result["findings"].append(f"tollgate ended with status {up.process.returncode}")
        left = [name for name, pid in result.pop("pids").items() if resident_kib(pid) is not None]
        result["findings"] += [f"{name} is still running" for name in left]
        result["ok"] = not result["findings"]
        return result

    async def _with(self, up: Stack) -> dict[str, Any]:
        journal = Journal(up.redis_url)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            began = time.monotonic()
            chores = [
                asyncio.create_task(self._every(2.0, self._collect(journal))),
                asyncio.create_task(self._every(max(1.0, self._plan.seconds / 720), self._sample(up))),
                asyncio.create_task(self._disturb(up, session, began)),
            ]
            await self._traffic(up, session, began)
            quiet_until = time.monotonic()
            for chore in chores:
                if chore.done():
                    chore.result()  # a failure of ours is to be seen
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            _say("traffic has ended; waiting until nothing is held")
            balances = await self._settled(up, session)
            self._provider.collect()
            if not await journal.follow():
                raise BenchError("Redis does not answer at the end of the soak")
            redis_bytes = await journal.memory_bytes()
        await journal.close()
        books = balance(self._sent, self._provider.bill, journal.posted, balances, self._disruptions)
        return self._report(books, began, quiet_until, redis_bytes, up.children)

    async def _traffic(self, up: Stack, session: aiohttp.ClientSession, began: float) -> None:
        """At a steady rate, whatever the stack does. What would be too much at once is left out and counted."""
        under_way: set[asyncio.Task[None]] = set()
        for index, request in enumerate(requests(self._plan.seed)):
            at = began + index / self._plan.rate
            if at > began + self._plan.seconds:
                break
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            if len(under_way) >= IN_FLIGHT_MAX:
                self._skipped += 1
                continue

            task = asyncio.create_task(self._one(session, up.listen, request))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _one(self, session: aiohttp.ClientSession, listen: str, request: Request) -> None:
        self._sent.append(await send(session, listen, request))

    async def _disturb(self, up: Stack, session: aiohttp.ClientSession, began: float) -> None:
        for at, service, number in disruptions.plan(self._plan.seconds, self._plan.seed):
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            done = await disruptions.disrupt(up, session, service, number, len(self._disruptions) + self._plan.seed)
            self._disruptions.append(done)
            _say(f"{done.began - began:7.0f} s  {service} {number}, whole again after {done.ended - done.began:.1f} s")

    def _collect(self, journal: Journal) -> Callable[[], Awaitable[None]]:
        async def collect() -> None:
            self._provider.collect()
            await journal.follow()

        return collect

    def _sample(self, up: Stack) -> Callable[[], Awaitable[None]]:
        async def sample() -> None:
            self._memory.sample(time.monotonic(), up.children)

        return sample

    @staticmethod
    async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await work()
            await asyncio.sleep(seconds)

    async def _settled(self, up: Stack, session: aiohttp.ClientSession) -> list[Balance]:
        """The accounts once nothing is held, or as they are when even the last lease must have run out."""
        give_up_at = time.monotonic() + 2 * self._plan.options.hold_lease_seconds + 60
        while True:
            async with session.get(f"{up.admin}/v1/budgets", params={"limit": "1000"}) as answer:
                accounts = (await answer.json()).get("accounts", []) if answer.status == 200 else []
            balances = [balance_of(account) for account in accounts]
            self._provider.collect()
            quiet = balances and all(one.held == 0 for one in balances) and not self._provider.under_way
            if quiet or time.monotonic() > give_up_at:
                return balances
            await asyncio.sleep(1.0)

    def _report(
        self, books: Books, began: float, quiet_until: float, redis_bytes: int, children: dict[str, int]
    ) -> dict[str, Any]:
        quiet_from = max([began + disruptions.LAST_AT * self._plan.seconds, *(one.ended for one in self._disruptions)])
        quiet_requests = sum(quiet_from <= one.began <= quiet_until for one in self._sent)
        growth = self._memory.growth(quiet_from, quiet_until, quiet_requests)
        findings = [*books.findings, *_not_flat(growth)]
        if not growth:
            findings.append("no process lived through the quiet part: memory was not judged")
        return {
            "machine": describe(),
            "plan": {**asdict(self._plan), "took_seconds": round(time.monotonic() - began)},
            "requests": len(self._sent),
            "left_out": self._skipped,
            "by_kind": _by_kind(self._sent),
            "disruptions": [_relative(one, began) for one in self._disruptions],
            "books": {"totals": books.totals, "by_basis": books.by_basis, "explained": dict(books.explained)},
            "memory": {name: asdict(one) for name, one in growth.items()},
            "memory_kib": {
                name: [(round(at - began), kib) for at, kib in series.points[:: len(series.points) // _POINTS_MAX + 1]]
                for name, series in self._memory.series.items()
            },
            "redis_bytes": redis_bytes,
            "findings": findings,
            "pids": children,
        }


def _not_flat(growth: dict[str, Growth]) -> list[str]:
    return [
        f"{name}: memory grew from {one.before_kib} to {one.after_kib} KiB with nothing disturbed, "
        f"more than the {one.allowed_kib} KiB allowed"
        for name, one in growth.items()
        if not one.is_flat
    ]


def _by_kind(sent: list[Sent]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for one in sent:
        seen = str(one.status or "no answer") + ("" if one.whole or not one.status else ", not to its end")
        found.setdefault(one.kind, Counter())[seen] += 1
    return {kind: dict(counts.most_common()) for kind, counts in sorted(found.items())}


def _relative(one: Disruption, began: float) -> dict[str, Any]:
    return {**asdict(one), "began": round(one.began - began, 1), "ended": round(one.ended - began, 1)}


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
