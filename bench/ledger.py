"""What the ledger costs: CPU of the worker per hold and settle, time of Redis per script, bytes per thing it keeps.

    python bench/ledger.py [redis://…]      without a URL it starts a redis-server of its own

Client CPU is `time.process_time` of this process over many hold + settle pairs, at several numbers in flight; Redis
time is its own `INFO commandstats`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import cast

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent))

from ext_proc.ledger import ids
from ext_proc.ledger.interface import (
    AccountSpec,
    Basis,
    Charge,
    Code,
    HoldRequest,
    Measure,
    Period,
    Plan,
    Posting,
    Resolution,
    Window,
    WindowKind,
)
from ext_proc.ledger.options import LedgerOptions
from ext_proc.ledger.redis_ledger import RedisLedger
from tests.conftest import running_redis

PAIRS = 4_000
CONTEXT = (
    '{"caller":{"user":"ada","team":"search"},"tags":{"repo":"core","pipeline":"review","cost_center":"search"},'
    '"requested_model":"openai-main/gpt-4o","served_model":"openai-main/gpt-4o-mini","dialect":"openai-chat",'
    '"rules":["team-daily","org-monthly","rate"],"verdict":"pass"}'
)
DETAIL = '{"usage":{"input_uncached":1200,"output":340},"status":200,"price_version":"2026-11-01"}'


def accounts(count: int) -> list[AccountSpec]:
    """Budgets of several windows and one rate limit, as a request meets them."""
    windows = [
        Window(WindowKind.CALENDAR, Period.DAY),
        Window(WindowKind.CALENDAR, Period.MONTH, "Europe/Berlin"),
        Window(WindowKind.SLIDING, Period.MINUTE),
        Window(WindowKind.LIFETIME),
    ]
    return [
        AccountSpec(
            "gateway-budget-config",
            "budgets",
            f"rule-{n}",
            f"rule-{n}",
            (("metadata.repo", "core"),),
            Measure.COST,
            windows[n % len(windows)],
            2**50,
        )
        for n in range(count)
    ]


def request(ledger: RedisLedger, specs: list[AccountSpec]) -> HoldRequest:
    """One hold on all of them."""
    postings = tuple(Posting(spec, n < 2, 1_000_000, 2_500_000) for n, spec in enumerate(specs))
    hold_id = ids.mint(ledger.now_us(), os.urandom(8))
    series = (("cost_center", "search"), ("repo", "core"))
    return HoldRequest(hold_id, (Plan("openai-main/gpt-4o", postings, 1, 1_024),), 120_000, CONTEXT, series)


async def pairs(ledger: RedisLedger, specs: list[AccountSpec], in_flight: int) -> float:
    """µs of this process per hold + settle."""
    left = iter(range(PAIRS))

    async def client() -> None:
        for _ in left:
            asked = request(ledger, specs)
            assert (await ledger.hold(asked)).code is Code.HELD
            charge = Charge(cost_nanodollars=3_000_000, input_tokens=1_200, output_tokens=340, requests=1)
            await ledger.resolve(Resolution(asked.hold_id, charge, Basis.REPORTED, DETAIL))

    started = time.process_time()
    await asyncio.gather(*(client() for _ in range(in_flight)))
    return (time.process_time() - started) / PAIRS * 1e6


async def redis_us(ledger: RedisLedger, specs: list[AccountSpec]) -> tuple[float, float]:
    """µs of Redis per hold and per settle."""
    figures = []
    asked = [request(ledger, specs) for _ in range(1_000)]
    for work in (
        ledger.hold,
        lambda item: ledger.resolve(
            Resolution(item.hold_id, Charge(cost_nanodollars=3_000_000), Basis.REPORTED, DETAIL)
        ),
    ):
        await ledger.read("CONFIG", "RESETSTAT")
        for start in range(0, len(asked), 50):
            await asyncio.gather(*(work(item) for item in asked[start : start + 50]))
        info = cast("bytes", await ledger.read("INFO", "commandstats")).decode()
        line = next(line for line in info.splitlines() if line.startswith("cmdstat_evalsha:"))
        figures.append(float(line.split("usec_per_call=")[1].split(",")[0]))
    return figures[0], figures[1]


async def memory(ledger: RedisLedger) -> None:
    """Bytes per account of each kind, open hold, tombstone and journal entry."""

    async def used() -> int:
        info = cast("bytes", await ledger.read("INFO", "memory")).decode()
        return int(next(line for line in info.splitlines() if line.startswith("used_memory:")).split(":")[1])

    count = 2_000
    await ledger.read("FLUSHALL")
    asked = [request(ledger, []) for _ in range(count)]
    before = await used()
    await asyncio.gather(*(ledger.hold(item) for item in asked))
    held = await used()
    print(f"open hold without accounts: {(held - before) / count:.0f} bytes")
    await asyncio.gather(
        *(ledger.resolve(Resolution(item.hold_id, Charge(), Basis.REPORTED, DETAIL)) for item in asked)
    )
    resolved = await used()
    journal = cast("int", await ledger.read("MEMORY", "USAGE", "tg:{0}:journal", "SAMPLES", 0))
    print(f"journal entry: {journal / count:.0f} bytes; tombstone: {(resolved - before - journal) / count:.0f} bytes")
    for kind in ("calendar", "lifetime", "sliding", "slots"):
        await ledger.hold(request(ledger, accounts(4)))
        keys = cast("list[bytes]", await ledger.read("KEYS", f"tg:{{0}}:{kind}:*"))
        print(f"{kind} account: {await ledger.read('MEMORY', 'USAGE', keys[0], 'SAMPLES', 0)} bytes")


async def main(url: str) -> None:
    """All figures."""
    ledger = RedisLedger.connect(url, LedgerOptions(deadline_ms=10_000))
    await ledger.start()
    await pairs(ledger, accounts(3), 32)  # warm
    for in_flight in (1, 8, 32, 128):
        cpu_us = await pairs(ledger, accounts(3), in_flight)
        print(f"{in_flight:4} in flight, 3 accounts: {cpu_us:6.1f} µs CPU per hold+settle")
    for count in (0, 1, 3, 6, 10):
        hold, settle = await redis_us(ledger, accounts(count))
        print(f"{count:4} accounts: Redis {hold:5.1f} µs per hold, {settle:5.1f} µs per settle")
    await memory(ledger)
    await ledger.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        uvloop.run(main(sys.argv[1]))
    else:
        with running_redis("--save", "", "--appendonly", "no") as server:
            uvloop.run(main(server.url))
