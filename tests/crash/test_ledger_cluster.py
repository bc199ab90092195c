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
from redis.crc import key_slot

from ext_proc.ledger import ids, keys
from ext_proc.ledger.interface import Code, HoldRequest, Posting, Window, WindowKind
from ext_proc.ledger.realms import ONE_REALM
from ext_proc.ledger.realms_ledger import RealmsLedger, open_ledger
from tests.conftest import RedisServer
from tests.ledger_kit import PATIENT, account, one_plan, settle, until
from tests.property.test_ledger_machine import LedgerMachine
from tests.property.test_ledger_realms import REALMS, RealmsMachine, run_machine, tenant_spec
from tests.property.test_ledger_torn import TornMachine

pytestmark = [pytest.mark.crash, pytest.mark.redis]

SLOTS = 16_384
PRIMARIES = 3
LIFETIME = Window(WindowKind.LIFETIME)


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


def test_split_ledger_answers_as_a_whole_one_on_a_cluster(cluster_url: str) -> None:
    """Every sequence of calls gets the same answers from realms on three primaries as from one realm."""
    assert len({third_of(REALMS.of_account(tenant_spec(0, bucket, 0))) for bucket in range(3)}) == PRIMARIES
    run_machine(RealmsMachine, cluster_url, 10)


def test_torn_calls_leave_balanced_books_on_a_cluster(cluster_url: str) -> None:
    """Calls that die between realms on three primaries leave what they leave in the model, and balance once reaped."""
    run_machine(TornMachine, cluster_url, 10)


def third_of(realm: str) -> int:
    """Which third of the slots a realm lies in."""
    slot: int = key_slot(keys.prefix(realm).encode())
    return slot * PRIMARIES // SLOTS


def test_keys_and_realms_share_a_cluster(cluster_url: str) -> None:
    """What the gateway keeps beside the ledger is written and read in the slot it belongs to."""

    async def run() -> None:
        ledger = open_ledger(cluster_url, ONE_REALM, PATIENT)
        await ledger.start()
        try:
            for key in ("tg:{keys}:probe", "tg:{0}:probe"):
                assert await ledger.read("SET", key, "x") == b"OK"
                assert await ledger.read("GET", key) == b"x"
        finally:
            await ledger.close()

    asyncio.run(run())


@pytest.mark.parametrize("excess", [0, 37])
def test_three_accounts_in_three_slots_never_pass_their_caps(cluster_url: str, excess: int) -> None:
    """A thousand clients over four workers, each request on three accounts in three slots, each settling above its
    hold: what is over is what settles added, on every account. Where none exceeds its hold, nothing is over.
    """

    async def run() -> None:
        specs = [
            account(f"crowd-{excess}", cap=200 * 100, window=LIFETIME, bucket=bucket)
            for bucket in ((), (("tenant", "acme"),), (("tenant", "globex"),))
        ]
        assert {third_of(REALMS.of_account(spec)) for spec in specs} == set(range(PRIMARIES))
        workers = [RealmsLedger.connect(cluster_url, REALMS, replace(PATIENT, deadline_ms=30_000)) for _ in range(4)]
        await asyncio.gather(*(worker.start() for worker in workers))

        async def client(number: int) -> bool:
            ledger = workers[number % 4]
            hold_id = ids.mint(ledger.now_us(), (10_000 * excess + number).to_bytes(8, "big"))
            postings = [Posting(spec, deciding=True, fixed=100) for spec in specs]
            reply = await ledger.hold(HoldRequest(hold_id, (one_plan(*postings),), 600_000))
            if reply.code is not Code.HELD:
                assert reply.code is Code.REFUSED
                return False
            assert all(state.spent + state.held <= state.account.cap for state in reply.states)
            charge = replace(settle(hold_id, 100 + excess), realms=reply.realms)
            assert (await workers[(number + 1) % 4].resolve(charge)).code is Code.SETTLED
            return True

        granted = sum(await asyncio.gather(*(client(number) for number in range(1_000))))
        balances, _ = await workers[0].balances(rule=specs[0].rule_id, limit=10, cursor="")
        assert [(b.spent, b.held) for b in balances] == [(granted * (100 + excess), 0)] * 3
        assert granted * 100 <= specs[0].cap
        assert granted > 0
        assert await workers[0].open_holds() == 0
        await asyncio.gather(*(worker.close() for worker in workers))

    asyncio.run(run())
