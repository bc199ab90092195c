"""Goal: behind Sentinels the ledger follows the primary."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ext_proc.ledger import ids
from ext_proc.ledger.interface import Code, Window, WindowKind
from ext_proc.ledger.options import LedgerOptions
from ext_proc.ledger.redis_ledger import RedisLedger
from tests.conftest import RedisServer, free_port
from tests.ledger_kit import account, settle, simple_hold, until

pytestmark = [pytest.mark.crash, pytest.mark.redis]

SPEC = account(cap=10**6, window=Window(WindowKind.LIFETIME))


class Sentinel(RedisServer):
    """A Sentinel: the same binary, with a configuration file that it rewrites."""

    def __init__(self, directory: Path, primary: RedisServer) -> None:
        directory.mkdir()
        configuration = directory / "sentinel.conf"
        configuration.write_text(
            f"sentinel monitor tollgate 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds tollgate 500\nsentinel failover-timeout tollgate 5000\n"
        )
        super().__init__(directory, "--sentinel", port=free_port())
        self.configuration = configuration


def test_failover_by_sentinel_is_followed(tmp_path: Path) -> None:
    """The primary dies, the Sentinel promotes the replica, and the ledger works on there with what was replicated."""

    async def run() -> None:
        nodes = [RedisServer(tmp_path / name, "--save", "") for name in ("primary", "replica")]
        for node in nodes:
            node.directory.mkdir()
            node.start()
        primary, replica = nodes
        replica.ask("REPLICAOF", "127.0.0.1", str(primary.port))
        sentinel = Sentinel(tmp_path / "sentinel", primary)
        sentinel.start()
        try:
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/tollgate"
            options = LedgerOptions(deadline_ms=2_000, breaker_failures=1, breaker_pause_ms=50)
            ledger = RedisLedger.connect(url, options)
            await ledger.start()
            asked = simple_hold(ids.mint(ledger.now_us(), bytes(8)), 100, SPEC)
            assert (await ledger.hold(asked)).code is Code.HELD
            await until(lambda: replica.ask("EXISTS", "tg:{0}:leases") == "1")
            await until(lambda: knows_replica(sentinel))
            primary.kill()

            async def is_settled() -> bool:
                return (await ledger.resolve(settle(asked.hold_id, 70))).code in (Code.SETTLED, Code.EXISTS)

            await until(is_settled)
            (balance,), _ = await ledger.balances(rule=None, limit=1, cursor="")
            assert (balance.spent, balance.held) == (70, 0)
            assert ledger.counters.servers_changed >= 1
            await ledger.close()
        finally:
            for process in (sentinel, *nodes):
                process.kill()

    asyncio.run(run())


def knows_replica(sentinel: RedisServer) -> bool:
    """Whether the Sentinel has found the replica: it cannot promote what it does not know."""
    return sentinel.ask("SENTINEL", "REPLICAS", "tollgate") == "*1"
