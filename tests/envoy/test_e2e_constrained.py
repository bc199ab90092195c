"""Constrained mode on the real stack: at 90 % the cheaper model serves, at 100 % nothing does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import pytest

from tests.e2e_kit import GPT_4O_MINI, POLICIES, Answered, Gateway, cost, eventually
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

GPT_4O = {"input_uncached": 2_500, "output": 10_000}  # nano-dollars per token: $2.50 and $10 per million
CAP = 10_000_000  # nano-dollars: one cent
CROWD = 200

BUDGETS = """
name: tight
type: gateway-budget-config
rules:
  - {id: fails-fast, when: {metadata: {mode: none}}, limit_to: 0.01, unit: cost_per_month,
     budget_applies_per: [metadata.cost_center], constrained: {at: 90, action: none}}
  - {id: no-premium, when: {metadata: {mode: refuse}}, limit_to: 0.01, unit: cost_per_month,
     budget_applies_per: [metadata.cost_center], constrained: {at: 90, action: refuse_premium}}
  - {id: slower, when: {metadata: {mode: throttle}}, limit_to: 0.01, unit: cost_per_month,
     budget_applies_per: [metadata.cost_center],
     constrained: {at: 90, action: throttle, limit_to: 1, unit: requests_per_hour}}
  - {id: cheaper, when: {metadata: {mode: downgrade}}, limit_to: 0.01, unit: cost_per_month,
     budget_applies_per: [metadata.cost_center]}
  - {id: roomy, when: {metadata: {mode: roomy}}, limit_to: 1, unit: cost_per_month,
     budget_applies_per: [metadata.cost_center]}
---
name: routing
type: gateway-load-balancing-config
downgrades:
  - {when: {}, swap: {openai-main/gpt-4o: openai-main/gpt-4o-mini}}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, metering: str) -> Iterator[RunningStack]:
    """One stack for the module."""
    with running_stack(
        tmp_path_factory.mktemp("constrained"), {**POLICIES, "tight.yaml": BUDGETS}, "--metering", metering
    ) as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A client whose cost center is the test's name, with 90 % of its cent spent."""
    gateway = Gateway(running, request.node.name)
    gateway.tags["mode"] = request.node.name.split("_")[1]
    spent = gateway.chat(model="gpt-4o", max_tokens=900, usage={"input": 0, "output": 900})
    assert spent.headers["x-tfy-resolved-model"] == "openai-main/gpt-4o"
    gateway.resolved()
    yield gateway
    gateway.close()


def test_downgrade_serves_the_next_request_by_the_cheaper_model(gateway: Gateway) -> None:
    """The SDK is unaware but for the headers; the charge is the cheaper model's; both models are in the journal."""
    client = gateway.openai({"input": 100, "output": 50})
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4o", max_tokens=60, messages=[{"role": "user", "content": "hi"}]
    )

    entry = gateway.resolved(2)[0]
    assert raw.parse().model == "gpt-4o-mini"
    assert raw.headers["x-tfy-resolved-model"] == "openai-main/gpt-4o-mini"
    assert raw.headers["x-tollgate-verdict"] == "downgrade; rule=cheaper"
    assert entry["requested_model"] == "gpt-4o"
    assert entry["served_model"] == "openai-main/gpt-4o-mini"
    assert entry["verdict"] == "downgrade"
    assert entry["charge_nanodollars"] == cost(GPT_4O_MINI, input_uncached=100, output=50)


def test_downgrade_refuses_once_the_budget_is_exhausted(gateway: Gateway) -> None:
    """At 100 % the cheaper model is refused too."""
    left = CAP - gateway.account("cheaper")["spent"]
    tokens = left // GPT_4O_MINI["output"] + 1
    gateway.chat(model="gpt-4o", max_tokens=tokens - 100, usage={"input": 0, "output": tokens})
    gateway.resolved(2)

    refused = gateway.chat(model="gpt-4o", max_tokens=10)

    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "budget_exceeded"
    assert refused.json()["context"]["rule"] == "cheaper"


def test_none_goes_on_with_the_same_model(gateway: Gateway) -> None:
    """`action: none` serves the requested model until the cap."""
    answer = gateway.chat(model="gpt-4o", max_tokens=10)

    assert answer.headers["x-tfy-resolved-model"] == "openai-main/gpt-4o"


def test_refuse_premium_refuses_what_a_swap_names_and_serves_the_rest(gateway: Gateway) -> None:
    """A premium model is one that a swap names."""
    premium = gateway.chat(model="gpt-4o", max_tokens=10)
    plain = gateway.chat(model="gpt-4o-mini", max_tokens=10)

    assert premium.status_code == 429
    assert "premium" in premium.json()["detail"]
    assert plain.status_code == 200


def test_throttle_keeps_the_model_at_a_tighter_rate(gateway: Gateway) -> None:
    """One request an hour passes, the second is rate limited."""
    first = gateway.chat(model="gpt-4o", max_tokens=10)
    second = gateway.chat(model="gpt-4o", max_tokens=10)

    assert first.headers["x-tfy-resolved-model"] == "openai-main/gpt-4o"
    assert second.status_code == 429
    assert second.json()["error"]["code"] == "rate_limited"


def test_ninety_percent_under_two_hundred_callers(running: RunningStack, metering: str) -> None:
    """Only what was held before 90 % was spent is served by the premium model; all who come later get the cheaper."""
    gateway = Gateway(running, f"ninety-{metering}")
    gateway.tags["mode"] = "roomy"
    usage, nine_tenths = {"input": 20, "output": 10}, 900_000_000
    left = 10
    gateway.chat(model="gpt-4o", max_tokens=90_000, usage={"input": 0, "output": 90_000 - left})
    gateway.resolved(1)
    with ThreadPoolExecutor(1) as pool, gateway.gate() as behavior:
        before = pool.submit(gateway.crowd, CROWD, model="gpt-4o", max_tokens=10, usage=usage, behavior=behavior)
        gateway.at_gate(CROWD)
        assert gateway.account("roomy")["spent"] == nine_tenths - left * GPT_4O["output"]

        last = gateway.chat(model="gpt-4o", max_tokens=left, usage={"input": 0, "output": left})
        eventually(lambda: True if gateway.account("roomy")["spent"] == nine_tenths else None, "90 % spent")
        after = gateway.crowd(CROWD, model="gpt-4o", max_tokens=10, usage=usage)
    held_before = before.result()

    assert last.headers["x-tfy-resolved-model"] == "openai-main/gpt-4o"
    assert Counter(map(outcome, held_before)) == {"openai-main/gpt-4o": CROWD}
    assert Counter(map(outcome, after)) == {"openai-main/gpt-4o-mini": CROWD}
    assert {answer.headers["x-tollgate-verdict"] for answer in after} == {"downgrade; rule=roomy"}
    gateway.resolved(2 + 2 * CROWD)
    premium, cheaper = cost(GPT_4O, input_uncached=20, output=10), cost(GPT_4O_MINI, input_uncached=20, output=10)
    account = gateway.account("roomy")
    assert (account["held"], account["spent"]) == (0, nine_tenths + CROWD * (premium + cheaper))
    gateway.close()


def test_a_hundred_percent_under_two_hundred_callers(running: RunningStack, metering: str) -> None:
    """As many are served as the rest of the budget holds, and not one more; once it is spent everybody is refused."""
    gateway = Gateway(running, f"hundred-{metering}")
    gateway.tags["mode"] = "downgrade"
    gateway.chat(model="gpt-4o", max_tokens=900, usage={"input": 0, "output": 900})
    gateway.resolved(1)
    request: dict[str, Any] = {"model": "gpt-4o", "max_tokens": 10}
    with ThreadPoolExecutor(1) as pool, gateway.gate() as behavior:
        probe = pool.submit(gateway.chat, **request, usage={"input": 0}, behavior=behavior)
        gateway.at_gate(1)
        hold = gateway.account("cheaper")["held"]
    assert probe.result().headers["x-tfy-resolved-model"] == "openai-main/gpt-4o-mini"
    gateway.resolved(2)

    spent = gateway.account("cheaper")["spent"]
    fitting = (CAP - spent) // hold
    assert 0 < fitting < CROWD
    tokens = (hold - 10 * GPT_4O_MINI["output"]) // GPT_4O_MINI["input_uncached"]
    request["usage"] = {"input": tokens, "output": 10}  # the whole hold
    early: list[Answered] = []
    with ThreadPoolExecutor(1) as pool, gateway.gate() as behavior:
        crowd = pool.submit(gateway.crowd, CROWD, **request, behavior=behavior, on_answer=early.append)
        gateway.at_gate(fitting)
        eventually(lambda: True if len(early) == CROWD - fitting else None, "everybody else refused")
        assert gateway.account("cheaper")["held"] == fitting * hold
    answers = crowd.result()

    assert Counter(map(outcome, answers)) == {
        "openai-main/gpt-4o-mini": fitting,
        "429 budget_contended": CROWD - fitting,
    }
    gateway.resolved(2 + fitting)
    account = gateway.account("cheaper")
    assert (account["held"], account["spent"]) == (0, spent + fitting * hold)
    assert account["spent"] <= CAP

    assert Counter(map(outcome, gateway.crowd(CROWD, **request))) == {"429 budget_exceeded": CROWD}
    assert gateway.account("cheaper")["spent"] == account["spent"]
    gateway.close()


def outcome(answer: Answered) -> str:
    """Who served it, or the status and code of its refusal."""
    if answer.status == HTTPStatus.OK:
        return answer.headers["x-tfy-resolved-model"]
    return f"{answer.status} {answer.document['error']['code']}"
