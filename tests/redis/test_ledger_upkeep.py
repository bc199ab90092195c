"""Goal: operators see what the store is, how large it is and what was dropped from it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import cast

import pytest

from ext_proc.ledger import ids
from ext_proc.ledger.interface import Code, Part, Period, Posting, Window, WindowKind
from ext_proc.ledger.options import Retention
from ext_proc.ledger.redis_ledger import RedisLedger
from tests.conftest import running_redis
from tests.ledger_kit import PATIENT, account, all_keys, connected, one_plan, settle, simple_hold

pytestmark = pytest.mark.redis


async def spend(ledger: RedisLedger, count: int) -> None:
    """Hold and settle so many requests."""
    for number in range(count):
        request = simple_hold(ids.mint(ledger.now_us(), number.to_bytes(8, "big")), 10, account(cap=10**6))
        assert (await ledger.hold(request)).code is Code.HELD
        await ledger.resolve(settle(request.hold_id, 7))


def test_unsafe_settings_are_named(redis_url: str) -> None:
    """A Redis that keeps nothing on disk, or evicts, is reported with the setting that would be right."""

    async def run() -> None:
        async with connected(redis_url) as ledger:
            await ledger.read("CONFIG", "SET", "maxmemory", str(1 << 30))
            await ledger.read("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            try:
                health = await ledger.health()
            finally:
                await ledger.read("CONFIG", "SET", "maxmemory-policy", "noeviction")
            assert health is not None
            assert health.version.split(".")[0] in {"6", "7", "8"}
            assert health.max_memory_bytes == 1 << 30
            assert ["appendonly" in warning for warning in health.warnings] == [False, True]
            assert "noeviction" in health.warnings[0]

    asyncio.run(run())


def test_safe_settings_raise_no_warning() -> None:
    """An append-only Redis without eviction is reported as it should be: nothing to say."""

    async def run(url: str) -> None:
        async with connected(url) as ledger:
            health = await ledger.health()
            assert health is not None
            assert health.warnings == ()

    with running_redis("--appendonly", "yes") as server:
        asyncio.run(run(server.url))


def test_stats_count_every_kind_of_key(redis_url: str) -> None:
    """The keys of the ledger are counted by kind, with their bytes; a stranger's keys are not."""

    async def run() -> None:
        async with connected(redis_url) as ledger:
            await spend(ledger, 5)
            await ledger.read("SET", "stranger", "1")
            kinds = {kind.kind: kind for kind in await ledger.stats()}
            assert {name: kinds[name].keys for name in ("calendar", "hold", "journal", "clock")} == {
                "calendar": 1,
                "hold": 5,
                "journal": 1,
                "clock": 1,
            }
            assert all(kind.bytes > 0 for kind in kinds.values())
            assert "stranger" not in kinds

    asyncio.run(run())


def test_journal_is_trimmed_by_size_and_age_and_says_so(redis_url: str) -> None:
    """Past its size the oldest entries go, past its age all that are older; what went is counted in Redis."""

    async def run() -> None:
        options = replace(PATIENT, retention=Retention(journal_max_bytes=8_000))
        async with connected(redis_url, options) as ledger:
            await spend(ledger, 200)
            dropped = await ledger.trim_journal()
            kept = cast("int", await ledger.read("XLEN", "tg:{0}:journal"))
            assert dropped > 0
            assert kept + dropped == 200
            assert cast("int", await ledger.read("MEMORY", "USAGE", "tg:{0}:journal")) <= 16_000
            assert await ledger.trim_journal() < kept
            newest = (await ledger.journal(1))[0]["hold_id"]
            assert newest is not None
        aged = replace(PATIENT, retention=Retention(journal_ms=-1_000))
        async with connected(redis_url, aged) as ledger:
            await ledger.trim_journal()
            assert await ledger.journal(10) == ()
            assert await ledger.read("HGET", "tg:{0}:clock", "journal_dropped") == b"200"

    asyncio.run(run())


def test_posting_rows_are_trimmed_by_their_own_size_and_counted(redis_url: str) -> None:
    """A realm that keeps rows but no journal is bounded all the same: by size, by age, and what went is counted."""

    async def run() -> None:
        options = replace(PATIENT, retention=Retention(journal_max_bytes=8_000))
        async with connected(redis_url, options) as ledger:
            for number in range(200):
                request = simple_hold(ids.mint(ledger.now_us(), number.to_bytes(8, "big")), 10, account(cap=10**6))
                await ledger.hold(replace(request, part=Part("the whole", home="t7")))
                await ledger.resolve(settle(request.hold_id, 7))
            dropped = await ledger.trim_journal()
            assert 0 < dropped < 200
            assert await ledger.read("XLEN", "tg:{0}:postings") == 200 - dropped
            assert await ledger.read("HGET", "tg:{0}:clock", "journal_dropped") is None
        aged = replace(PATIENT, retention=Retention(journal_ms=-1_000))
        async with connected(redis_url, aged) as ledger:
            await ledger.trim_journal()
            assert await ledger.read("HGET", "tg:{0}:clock", "postings_dropped") == b"200"

    asyncio.run(run())


def test_every_key_expires_but_those_in_use(redis_url: str) -> None:
    """After requests with tags and rate windows only the fixed keys and open holds are without an expiry."""

    async def run() -> None:
        async with connected(redis_url) as ledger:
            await spend(ledger, 3)
            rate = account("rate", cap=100, window=Window(WindowKind.SLIDING, Period.DAY))
            tagged = simple_hold(ids.mint(ledger.now_us(), bytes(8)), 10, account(cap=10**6))
            plan = one_plan(*tagged.plans[0].postings, Posting(rate, deciding=True, fixed=1))
            await ledger.hold(replace(tagged, plans=(plan,), series=(("repo", "core"),)))
            await ledger.resolve(settle(tagged.hold_id, 7))
            kinds = {key.decode().split(":")[2] for key in await all_keys(ledger)}
            assert kinds >= {"calendar", "sliding", "slots", "top", "series", "hold"}
            lasting = set()
            for key in cast("list[bytes]", await ledger.read("KEYS", "*")):
                if await ledger.read("PTTL", key) == -1:
                    lasting.add(key.decode().removeprefix("tg:{0}:"))
            assert lasting == {"clock", "journal", "accounts"}

    asyncio.run(run())


def test_empty_redis_is_given_its_epoch_at_first_sight(redis_url: str) -> None:
    """A Redis without data gets an epoch when it is first looked at, and keeps it: another one means another life."""

    async def run() -> None:
        async with connected(redis_url) as ledger:
            epoch = await ledger.read("HGET", "tg:{0}:clock", "epoch")
            assert epoch
            await spend(ledger, 1)
            assert await ledger.read("HGET", "tg:{0}:clock", "epoch") == epoch

    asyncio.run(run())
