"""Goal: what Redis acknowledged survives what Redis survives; what it loses is noticed, counted and brought back.

Method: real servers with an append-only file, killed, cut and failed over at chosen moments.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ext_proc.ledger import ids
from ext_proc.ledger.interface import Code, HoldRequest, Measure, Period, Posting, Window, WindowKind
from ext_proc.ledger.options import LedgerOptions
from ext_proc.ledger.redis_ledger import RedisLedger
from tests.conftest import RedisServer
from tests.ledger_kit import DroppingProxy, account, one_plan, settle, until

pytestmark = [pytest.mark.crash, pytest.mark.redis]

AOF = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--aof-use-rdb-preamble", "no")
LIFETIME = Window(WindowKind.LIFETIME)
SPEC = account(cap=10**9, window=LIFETIME)
RATE = account("rate", cap=10**6, window=Window(WindowKind.SLIDING, Period.DAY), measure=Measure.REQUESTS)


def options(ring_dir: Path | None = None) -> LedgerOptions:
    """Patient where the machine is busy, quick to look again where Redis is away."""
    return LedgerOptions(deadline_ms=2_000, breaker_failures=2, breaker_pause_ms=20, ring_dir=ring_dir)


def request(ledger: RedisLedger, number: int, amount: int = 100) -> HoldRequest:
    """A hold on a budget and a rate limit."""
    postings = (Posting(SPEC, deciding=True, fixed=amount), Posting(RATE, deciding=True, fixed=1))
    hold_id = ids.mint(ledger.now_us(), number.to_bytes(8, "big"))
    return HoldRequest(hold_id, (one_plan(*postings),), 600_000, series=(("repo", "core"),))


async def books(ledger: RedisLedger) -> tuple[int, int, int, int]:
    """Spent, held, journal entries, open holds."""
    balances, _ = await ledger.balances(rule=SPEC.rule_id, limit=1, cursor="")
    spent, held = (balances[0].spent, balances[0].held) if balances else (0, 0)
    return spent, held, len(await ledger.journal(100_000)), await ledger.open_holds()


@contextmanager
def server_in(directory: Path, *options: str) -> Iterator[RedisServer]:
    """A redis-server on this directory; the test may kill it."""
    directory.mkdir(exist_ok=True)
    server = RedisServer(directory, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.mark.parametrize("killed_after", [1, 57, 200])
def test_kill_of_redis_loses_nothing_acknowledged(killed_after: int, tmp_path: Path) -> None:
    """Redis is killed (-9) in the middle of traffic: every hold and charge it acknowledged is there afterwards."""

    async def run() -> None:
        with server_in(tmp_path / "redis", *AOF) as server:
            ledger = RedisLedger.connect(server.url, options())
            await ledger.start()
            held: set[int] = set()
            settled: set[int] = set()

            async def client(number: int) -> None:
                asked = request(ledger, number)
                if (await ledger.hold(asked)).code is not Code.HELD:
                    return
                held.add(number)
                if number % 3 and (await ledger.resolve(settle(asked.hold_id, 70))).code is Code.SETTLED:
                    settled.add(number)
                if len(settled) == killed_after:
                    server.kill()

            for start in range(0, 400, 20):
                await asyncio.gather(*(client(number) for number in range(start, start + 20)))
            retried = ledger.waiting_resolutions
            server.start()
            await until(lambda: ledger.is_available and ledger.waiting_resolutions == 0)
            spent, still_held, entries, open_holds = await books(ledger)
            assert len(settled) >= killed_after
            assert retried > 0 or len(held) == len(settled)
            assert ledger.counters.epochs_changed == ledger.counters.sequence_lost == 0
            assert spent % 70 == 0
            assert spent // 70 >= len(settled)
            assert still_held == open_holds * 100
            assert entries >= len(settled)
            await ledger.close()

    asyncio.run(run())


def test_append_only_file_cut_anywhere_is_before_or_after(tmp_path: Path) -> None:
    """A power failure cuts the file at any byte: each state is that of before or after a step, never between."""

    async def history(server: RedisServer) -> list[tuple[int, int, int, int]]:
        ledger = RedisLedger.connect(server.url, options())
        await ledger.start()
        asked = [request(ledger, number) for number in range(3)]
        await ledger.hold(asked[0])
        await ledger.resolve(settle(asked[0].hold_id, 70))
        states = [await books(ledger)]
        sizes = [aof_size(server)]
        for step in (ledger.hold(asked[1]), ledger.resolve(settle(asked[1].hold_id, 130)), ledger.hold(asked[2])):
            await step
            states.append(await books(ledger))
            sizes.append(aof_size(server))
        await ledger.close()
        tail.extend((sizes[0], sizes[-1]))
        return states

    async def state_after(directory: Path) -> tuple[int, int, int, int]:
        with server_in(directory, *AOF, "--aof-load-truncated", "yes") as server:
            ledger = RedisLedger.connect(server.url, options())
            await ledger._asker.look()
            found = await books(ledger)
            await ledger.close()
            return found

    tail: list[int] = []
    original = tmp_path / "original"
    with server_in(original, *AOF) as server:
        states = asyncio.run(history(server))
        server.stop()
    whole = (original / "appendonly.aof").read_bytes()
    seen = set()
    for cut in range(tail[0], tail[1] + 1):
        directory = tmp_path / "cut"
        directory.mkdir()
        (directory / "appendonly.aof").write_bytes(whole[:cut])
        found = asyncio.run(state_after(directory))
        assert found in states, f"cut at {cut} of {len(whole)}"
        seen.add(found)
        shutil.rmtree(directory)
    assert seen == set(states)


def aof_size(server: RedisServer) -> int:
    """How long the append-only file is now."""
    size: int = (server.directory / "appendonly.aof").stat().st_size
    return size


@pytest.mark.parametrize("with_ring", [True, False])
def test_failover_that_lost_writes_is_noticed_and_made_good(with_ring: bool, tmp_path: Path) -> None:
    """Replication is cut, the primary takes ten more charges and dies, the replica takes over: the loss is counted, and
    a worker with a ring brings back what it had acknowledged; without one the loss is exactly those ten.
    """

    async def run() -> None:
        with (
            server_in(tmp_path / "primary", "--save", "", "--repl-diskless-sync-delay", "0") as primary,
            server_in(tmp_path / "replica", "--save", "") as replica,
        ):
            replication = DroppingProxy(primary.port)
            link_port = (await replication.start()).rsplit(":", maxsplit=1)[1].split("/", maxsplit=1)[0]
            clients = DroppingProxy(primary.port)
            url = await clients.start()
            watcher = RedisLedger.connect(replica.url, options())
            await watcher.read("REPLICAOF", "127.0.0.1", link_port)

            async def is_linked() -> bool:
                return b"master_link_status:up" in bytes(str(await watcher.read("INFO", "replication")), "utf-8")

            await until(is_linked)
            ledger = RedisLedger.connect(url, options(tmp_path / "ring" if with_ring else None))
            await ledger.start()
            await spend(ledger, range(20))

            async def has_caught_up() -> bool:
                return await watcher.read("XLEN", "tg:{0}:journal") == 20

            await until(has_caught_up)
            replication.passes_answers = False
            await spend(ledger, range(20, 30))
            assert await watcher.read("XLEN", "tg:{0}:journal") == 20
            primary.kill()
            await watcher.read("REPLICAOF", "NO", "ONE")
            clients.retarget(replica.port)
            await until(lambda: ledger.is_available)
            await ledger._asker.look()
            assert ledger.counters.sequence_lost + ledger.counters.servers_changed >= 1
            if with_ring:
                await until(lambda: ledger.counters.reconciled >= 20)
                assert (await books(ledger))[:2] == (30 * 70, 0)
            else:
                assert (await books(ledger))[:2] == (20 * 70, 0)
            await ledger.close()
            await watcher.close()
            await clients.stop()
            await replication.stop()

    asyncio.run(run())


async def spend(ledger: RedisLedger, numbers: range) -> None:
    """Hold and settle 70 for each."""
    for number in numbers:
        asked = request(ledger, number)
        assert (await ledger.hold(asked)).code is Code.HELD
        assert (await ledger.resolve(settle(asked.hold_id, 70))).code is Code.SETTLED


def test_redis_that_comes_back_empty_is_noticed_and_filled(tmp_path: Path) -> None:
    """A restart without data is counted as another epoch; the ring brings back recent charges and open holds, once."""

    async def run() -> None:
        with server_in(tmp_path / "redis", "--save", "", "--appendonly", "no") as server:
            ledger = RedisLedger.connect(server.url, options(tmp_path / "ring"))
            await ledger.start()
            await spend(ledger, range(10))
            still_open = request(ledger, 99)
            await ledger.hold(still_open)
            server.kill()
            server.start()
            await ledger._asker.look()
            await until(lambda: ledger.counters.reconciled >= 21)
            assert ledger.counters.epochs_changed == 1
            assert (await books(ledger))[:2] == (700, 100)
            assert (await ledger.resolve(settle(still_open.hold_id, 30))).code is Code.SETTLED
            assert (await books(ledger))[:2] == (730, 0)
            await ledger.close()

    asyncio.run(run())
