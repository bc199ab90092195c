"""Goal: the ledger's promises hold on a Redis Cluster of three primaries as on one server."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from ext_proc.ledger import ids
from ext_proc.ledger.interface import Code, Window, WindowKind
from ext_proc.ledger.redis_ledger import RedisLedger
from tests.conftest import RedisServer
from tests.ledger_kit import PATIENT, account, settle, simple_hold, until
from tests.property.test_ledger_machine import LedgerMachine

pytestmark = [pytest.mark.crash, pytest.mark.redis]

SLOTS = 16_384
PRIMARIES = 3


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    """Three primaries, each with a third of the slots."""
    with tempfile.TemporaryDirectory(prefix="tg-cluster-") as directory:
        servers = [start_node(Path(directory) / str(number)) for number in range(PRIMARIES)]
        try:
            for number, server in enumerate(servers):
                share = range(number * SLOTS // PRIMARIES, (number + 1) * SLOTS // PRIMARIES)
                assert server.ask("CLUSTER", "ADDSLOTS", *map(str, share)) == "OK"
                assert server.ask("CLUSTER", "MEET", "127.0.0.1", str(servers[0].port)) == "OK"
            asyncio.run(until(lambda: all(is_ready(server) for server in servers)))
            places = ",".join(f"127.0.0.1:{server.port}" for server in servers)
            yield f"redis+cluster://{places}"
        finally:
            for server in servers:
                server.kill()


def start_node(directory: Path) -> RedisServer:
    """One node. Its bus listens 10,000 above its port, so the port must leave room."""
    directory.mkdir()
    while True:
        server = RedisServer(directory, "--cluster-enabled", "yes", "--save", "", "--cluster-node-timeout", "2000")
        if server.port < 55_000:
            server.start()
            return server


def is_ready(server: RedisServer) -> bool:
    """Whether the node sees all slots served."""
    server.ask("CLUSTER", "INFO")
    return server.ask("EXISTS", "{0}") in {"0", "1"} or (server.ask("EXISTS", "{0}") or "").startswith("-MOVED")


def test_cluster_answers_as_the_model_does(cluster_url: str) -> None:
    """Every sequence of calls gets the same answers from a cluster as from the model."""
    machine = type("ClusterMachine", (LedgerMachine,), {"redis_url": cluster_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_three_realms_in_three_slots_never_pass_their_caps(cluster_url: str) -> None:
    """Accounts of three realms, on three primaries, under 300 clients each: exactly what fits is admitted."""

    async def run() -> None:
        spec = account("tenant-budget", cap=50 * 100, window=Window(WindowKind.LIFETIME))
        ledgers = [RedisLedger.connect(cluster_url, replace(PATIENT, realm=realm)) for realm in ("a", "b", "c")]

        async def client(ledger: RedisLedger, number: int) -> bool:
            request = simple_hold(ids.mint(ledger.now_us(), number.to_bytes(8, "big")), 100, spec)
            reply = await ledger.hold(request)
            if reply.code is Code.HELD:
                assert (await ledger.resolve(settle(request.hold_id, 100))).code is Code.SETTLED
            return reply.code is Code.HELD

        for ledger in ledgers:
            await ledger.start()
        admitted = await asyncio.gather(*(client(ledger, n) for ledger in ledgers for n in range(300)))
        assert sum(admitted) == 3 * 50
        for ledger in ledgers:
            (balance,), _ = await ledger.balances(rule=None, limit=1, cursor="")
            assert (balance.spent, balance.held) == (spec.cap, 0)
            await ledger.close()

    asyncio.run(run())
