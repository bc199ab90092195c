"""Goal: what Redis acknowledged survives what Redis survives; what it loses is noticed, counted and brought back.

Method: real servers with an append-only file, killed, cut and failed over at chosen moments.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pytest

from ext_proc.ledger import ids
from ext_proc.ledger.interface import Code, HoldRequest, Measure, Period, Posting, Window, WindowKind
from ext_proc.ledger.options import LedgerOptions
from ext_proc.ledger.redis_ledger import RedisLedger
from tests.conftest import RedisServer, redis_binary
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
    """A power failure cuts the file at any byte: everything in Redis is as before or after a step, never between."""

    async def history(server: RedisServer) -> tuple[list[str], int, int]:
        """The digests of all data before a hold, after it, and after its settle; where the file began and ended."""
        ledger = RedisLedger.connect(server.url, options())  # not started: Redis 6 would keep the scripts in the file
        await spend(ledger, range(1))
        asked = request(ledger, 1)
        digests, begin = [digest(server)], aof_size(server)
        assert (await ledger.hold(asked)).code is Code.HELD
        digests.append(digest(server))
        assert (await ledger.resolve(settle(asked.hold_id, 130))).code is Code.SETTLED
        digests.append(digest(server))
        await ledger.close()
        return digests, begin, aof_size(server)

    settings = (*AOF, "--aof-load-truncated", "yes", *debug_commands())
    original = tmp_path / "original"
    with server_in(original, *settings) as server:
        digests, begin, end = asyncio.run(history(server))
        server.stop()
    whole = aof(original).read_bytes()

    def digest_after(cut: int) -> str:
        with tempfile.TemporaryDirectory(prefix="tg-cut-") as name:
            directory = Path(name) / "redis"
            shutil.copytree(original, directory)
            aof(directory).write_bytes(whole[:cut])
            server = SocketServer(directory, *settings)
            server.start()
            try:
                return digest(server)
            finally:
                server.kill()

    cuts = range(begin, end + 1)
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = list(pool.map(digest_after, cuts)) if redis_major() == 7 else digests_reloaded(original, settings, cuts)
        around = [at for at in range(1, len(cuts)) if found[at - 1] != found[at]]
        started = {at: pool.submit(digest_after, cuts[at]) for step in around for at in (step - 1, step)}
    assert {at: future.result() for at, future in started.items()} == {at: found[at] for at in started}
    assert len(set(digests)) == 3
    assert [found[0], found[-1]] == [digests[0], digests[-1]]
    assert [step for step, _ in groupby(found)] == digests


def digests_reloaded(original: Path, settings: tuple[str, ...], cuts: range) -> list[str]:
    """The digests after each cut, from one server that loads its file again as it does at a start.

    Not with Redis 7, which ends itself when it is told to load a file that is cut.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="tg-cut-") as name:
        directory = Path(name) / "redis"
        shutil.copytree(original, directory)
        whole = aof(directory).read_bytes()
        server = SocketServer(directory, *settings)
        server.start()
        try:
            for cut in cuts:
                with aof(directory).open("r+b") as file:
                    file.truncate()
                    file.write(whole[:cut])
                server.ask("DEBUG", "LOADAOF")
                found.append(digest(server))
        finally:
            server.kill()
    return found


class SocketServer(RedisServer):
    """A server without a port: nobody can be there first, however many are started at once."""

    def __init__(self, directory: Path, *options: str) -> None:
        super().__init__(directory, *options, "--port", "0", "--unixsocket", "redis.sock")

    def connect(self) -> socket.socket:
        """A connection to its socket."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(1)
        try:
            connection.connect(str(self.directory / "redis.sock"))
        except OSError:
            connection.close()
            raise
        return connection


def digest(server: RedisServer) -> str:
    """A digest of all that is stored: every key, with its value and whether it expires."""
    answer = server.ask("DEBUG", "DIGEST") or ""
    assert re.fullmatch("[0-9a-f]{40}", answer), answer
    return answer


def redis_major() -> int:
    """The server's major version."""
    version = subprocess.run([redis_binary(), "--version"], capture_output=True, check=True, text=True).stdout
    found = re.search(r"v=(\d+)", version)
    assert found is not None, version
    return int(found.group(1))


def debug_commands() -> tuple[str, ...]:
    """What allows DEBUG: since Redis 7 somebody must."""
    return ("--enable-debug-command", "yes") if redis_major() >= 7 else ()


def aof(directory: Path) -> Path:
    """The append-only file that grows: since Redis 7 it is the last part of several, in a directory of their own."""
    (file,) = (*directory.glob("appendonly.aof"), *directory.glob("appendonlydir/*.incr.aof"))
    return file


def aof_size(server: RedisServer) -> int:
    """How long the append-only file is now."""
    size: int = aof(server.directory).stat().st_size
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
