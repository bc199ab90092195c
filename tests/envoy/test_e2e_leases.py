"""Leases: a hold lives as long as its request, and is charged in full when nobody is left to say how it ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import redis

from tests.e2e_kit import GPT_4O_MINI, POLICIES, Gateway, cost, eventually
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

LEASE_SECONDS = 2


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, metering: str) -> Iterator[RunningStack]:
    """One stack whose holds are leased for two seconds only."""
    directory = tmp_path_factory.mktemp("leases")
    with running_stack(
        directory, POLICIES, "--workers", "2", "--hold-lease", str(LEASE_SECONDS), "--metering", metering
    ) as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A client whose cost center is the test's name."""
    gateway = Gateway(running, request.node.name)
    yield gateway
    gateway.close()


def wait_by_redis_time(stack: RunningStack, seconds: float) -> None:
    """Until Redis, whose clock leases run by, says that so much time has passed."""
    client: redis.Redis = redis.Redis.from_url(stack.redis_url)
    start, start_us = client.time()

    def passed() -> bool | None:
        now, now_us = client.time()
        return True if now + now_us / 1e6 >= start + start_us / 1e6 + seconds else None

    eventually(passed, f"{seconds} seconds")
    client.close()


def test_a_request_longer_than_its_lease_is_not_expired(running: RunningStack, gateway: Gateway) -> None:
    """Periodic records renew the lease of a running stream: it settles at its real charge."""
    behavior = {"chunks": 4, "hold_open_until": gateway.cost_center, "hold_after_chunks": 2}
    usage = {"input": 100, "output": 50}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(gateway.chat, usage=usage, behavior=behavior, stream=True, user=gateway.cost_center)
        gateway.received(1)
        wait_by_redis_time(running, LEASE_SECONDS * 2.5)
        assert gateway.journal() == []
        gateway.release(gateway.cost_center)
        assert answer.result().status_code == 200

    (entry,) = gateway.resolved()
    assert entry["basis"] == "reported"
    assert entry["charge_nanodollars"] == cost(GPT_4O_MINI, input_uncached=100, output=50)


def test_a_request_whose_end_nobody_records_is_charged_its_hold(running: RunningStack, gateway: Gateway) -> None:
    """When Envoy dies with a request in flight there is no record: the lease runs out and the full hold is charged."""
    with ThreadPoolExecutor(1) as pool:
        behavior = {"hold_open_until": gateway.cost_center}
        lost = pool.submit(gateway.chat, behavior=behavior, max_tokens=1_000, user=gateway.cost_center)
        gateway.received(1)
        held = gateway.account("per-cost-center")["held"]
        assert held > cost(GPT_4O_MINI, output=1_000)
        # The workers first: alive, meter would learn of Envoy's death and settle an estimate.
        for pid in [*running.worker_pids.values(), running.children["envoy"]]:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(httpx.HTTPError):
            lost.result()

    (entry,) = gateway.resolved()
    gateway.release(gateway.cost_center)
    assert entry["basis"] == "expired"
    assert entry["charge_nanodollars"] == held
    assert gateway.account("per-cost-center")["spent"] == held
