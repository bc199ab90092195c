"""Constrained mode on the real stack: at 90 % the cheaper model serves, at 100 % nothing does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e_kit import GPT_4O_MINI, POLICIES, Gateway, cost
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

GPT_4O_OUTPUT = 10_000  # nano-dollars per token: $10 per million
CAP = 10_000_000  # nano-dollars: one cent

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
