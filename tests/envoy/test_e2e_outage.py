"""Redis does not answer: each rule's `on_store_failure` decides, and what was admitted meanwhile is charged once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e_kit import GPT_4O_MINI, POLICIES, Gateway, cost, eventually
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

BUDGETS = """
name: outage
type: gateway-budget-config
rules:
  - {id: careful, when: {metadata: {mode: refuse}}, limit_to: 100, unit: cost_per_month,
     budget_applies_per: [metadata.cost_center]}
  - {id: open, when: {metadata: {mode: allow}}, limit_to: 100, unit: cost_per_month,
     budget_applies_per: [metadata.cost_center], on_store_failure: allow}
  - {id: share, when: {metadata: {mode: local}}, limit_to: 0.02, unit: cost_per_month,
     budget_applies_per: [metadata.cost_center], on_store_failure: local}
"""
ROUTING = """
name: routing
type: gateway-load-balancing-config
rules:
  - id: falls-over
    type: priority-based-routing
    when: {models: [falls-over]}
    load_balance_targets:
      - target: openai-main/gpt-4o
        priority: 0
        headers_override: {set: {x-mock-behavior: '{"status": 500, "hold_open_until": "between"}'}}
      - {target: openai-main/gpt-4o-mini, priority: 1}
"""
TAGS_ONLY = {
    "routing.yaml": ROUTING,
    "policy.yaml": POLICIES["policy.yaml"].split("---", maxsplit=1)[0] + "---" + BUDGETS,
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, metering: str) -> Iterator[RunningStack]:
    """One stack for the module."""
    with running_stack(tmp_path_factory.mktemp("outage"), TAGS_ONLY, "--workers", "2", "--metering", metering) as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A client whose mode is the test's first word, and whose worker connections are warm."""
    gateway = Gateway(running, request.node.name)
    gateway.tags["mode"] = request.node.name.split("_")[1]
    yield gateway
    gateway.close()


@contextlib.contextmanager
def redis_frozen(stack: RunningStack) -> Iterator[None]:
    """Redis stops answering and keeps what is sent to it: the outage in which nobody knows what arrived."""
    pid = stack.children["redis"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_refuse_answers_503_and_holds_nothing(running: RunningStack, gateway: Gateway) -> None:
    """The default: no ledger, no admission. The hold that may have arrived is given back."""
    with redis_frozen(running):
        refused = gateway.chat()

    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "store_unavailable"
    assert int(refused.headers["retry-after"]) >= 1
    again = eventually(lambda: answer if (answer := gateway.chat()).status_code == 200 else None, "traffic")
    assert again.status_code == 200
    eventually(lambda: True if gateway.account("careful")["held"] == 0 else None, "nothing held")
    charged = [entry for entry in gateway.journal() if entry["charge_nanodollars"]]
    assert len(charged) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_allow_serves_and_charges_once_redis_is_back(running: RunningStack, gateway: Gateway, stream: bool) -> None:
    """What was admitted without Redis is in the books, exact and once, when Redis answers again."""
    with redis_frozen(running):
        answers = [gateway.chat(usage={"input": 100, "output": 50}, stream=stream) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200] * 3

    def settled() -> bool | None:
        return True if gateway.account("open")["spent"] and len(gateway.journal()) == 3 else None

    eventually(settled, "three charges")
    entries = gateway.journal()
    assert {entry["charge_nanodollars"] for entry in entries} == {cost(GPT_4O_MINI, input_uncached=100, output=50)}
    assert gateway.account("open")["spent"] == sum(entry["charge_nanodollars"] for entry in entries)
    assert gateway.account("open")["held"] == 0


def test_allow_lets_the_next_target_serve(running: RunningStack, gateway: Gateway) -> None:
    """A request whose first target fails in an outage goes on to the next: both attempts are in the books, once."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(gateway.chat, model="falls-over", usage={"input": 100, "output": 50})
        gateway.mock.get("/mock/waiting/between").raise_for_status()
        with redis_frozen(running):
            gateway.release("between")
            assert answer.result().status_code == 200
    gateway.mock.delete("/mock/release/between").raise_for_status()

    def settled() -> bool | None:
        return True if len(gateway.journal()) == 2 and gateway.account("open")["held"] == 0 else None

    eventually(settled, "both attempts")
    served, failed = sorted(gateway.journal(), key=lambda entry: str(entry["hold_id"]), reverse=True)
    assert (failed["served_model"], failed["charge_nanodollars"]) == ("openai-main/gpt-4o", 0)
    charge = cost(GPT_4O_MINI, input_uncached=100, output=50)
    assert (served["served_model"], served["charge_nanodollars"]) == ("openai-main/gpt-4o-mini", charge)
    assert gateway.account("open")["spent"] == charge


def test_local_admits_no_more_than_its_share(running: RunningStack, gateway: Gateway) -> None:
    """Each process admits 1 % of the cap per outage, and not a nano-dollar more."""
    share = 20_000_000 // 100
    limit = 150
    held = cost(GPT_4O_MINI, output=limit)
    with redis_frozen(running):
        answers = [gateway.chat(max_tokens=limit, usage={"input": 1, "output": limit}) for _ in range(20)]

    passed = [answer for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert 1 <= len(passed) <= 2 * (share // held)

    def charged() -> bool | None:
        entries = [entry for entry in gateway.journal() if entry["charge_nanodollars"]]
        return True if len(entries) == len(passed) and gateway.account("share")["held"] == 0 else None

    eventually(charged, "as many charges as passed, and nothing held")
