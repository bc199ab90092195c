"""Public prices swapped under a running stack: without a restart, and never for a request in flight."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.catalogue_kit import catalogue_json
from tests.e2e_kit import POLICIES, Gateway, eventually
from tests.scrape_kit import parsed, value
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

USAGE = {"input": 1_000, "output": 0}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mounted file, at first with the price of the day: $0.15 per million input tokens."""
    file = tmp_path_factory.mktemp("mounted") / "data.json"
    file.write_text(catalogue_json(input_mtok=0.15))
    return file


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, file: Path) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("catalogue"), POLICIES, "--catalogue", str(file)) as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    client = Gateway(running, request.node.name)
    yield client
    client.close()


def versions(gateway: Gateway) -> set[str]:
    """The catalogue of every worker."""
    return {worker["catalogue"] for worker in gateway.admin.get("/v1/policy").json()["workers"]}


def in_force(gateway: Gateway, before: str) -> str:
    """The one version of every worker once it is not `before`."""

    def look() -> str | None:
        found = versions(gateway)
        return found.pop() if len(found) == 1 and before not in found else None

    return eventually(look, "another catalogue in force everywhere")


def scraped(gateway: Gateway) -> dict[str, float]:
    samples = parsed(gateway.admin.get("/metrics").content)
    return {name: value(samples, f"tollgate_catalogue_{name}") for name in ("ok", "age_seconds")}


def test_a_good_file_is_charged_from_without_a_restart_and_not_for_what_is_in_flight(
    gateway: Gateway, file: Path, running: RunningStack
) -> None:
    """What was admitted before the swap costs the old price, what comes after the new one; each names its version."""
    (before,) = versions(gateway)
    workers = running.worker_pids
    gateway.chat(usage=USAGE).raise_for_status()
    with gateway.http.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "wait"}], "stream": True},
        headers=gateway.headers(USAGE, {"hold_open_until": "swapped", "hold_after_chunks": 1}),
    ) as waiting:
        file.write_text(catalogue_json(input_mtok=0.3))
        after = in_force(gateway, before)
        gateway.chat(usage=USAGE).raise_for_status()
        gateway.release("swapped")
        waiting.read()

    entries = sorted(gateway.resolved(3), key=lambda entry: entry["charge_nanodollars"])

    assert [(entry["charge_nanodollars"], entry["price_version"]) for entry in entries] == [
        (150_000, before),
        (150_000, before),
        (300_000, after),
    ]
    assert running.worker_pids == workers


def test_a_broken_file_keeps_the_last_good_prices_and_is_seen(gateway: Gateway, file: Path) -> None:
    """The metric, the health detail and the log say so; a worker that dies meanwhile comes back with the same prices;
    the next good file heals it."""
    (before,) = versions(gateway)
    assert scraped(gateway)["ok"] == 1
    good = file.read_text()

    file.write_text(good[:-1])
    eventually(lambda: scraped(gateway)["ok"] == 0 or None, "a refused catalogue")
    prices = gateway.admin.get("/readyz").json()["prices"]

    assert prices["catalogue"] == before
    assert "is no JSON" in prices["error"]
    assert f"the catalogue {before} stays in force" in gateway.stack.stderr()
    gateway.chat(usage=USAGE).raise_for_status()
    assert gateway.resolved(1)[0]["price_version"] == before
    assert versions(gateway) == {before}

    file.write_text(catalogue_json(input_mtok=0.45))
    in_force(gateway, before)
    assert scraped(gateway)["ok"] == 1
    assert "error" not in gateway.admin.get("/readyz").json()["prices"]


def test_the_age_of_the_prices_is_a_metric(gateway: Gateway, file: Path) -> None:
    """It counts from when the file was written."""
    (before,) = versions(gateway)
    file.write_text(catalogue_json(input_mtok=0.6))
    a_day_ago = time.time() - 86_400
    os.utime(file, (a_day_ago, a_day_ago))
    in_force(gateway, before)

    assert scraped(gateway)["age_seconds"] >= 86_400
