"""Refusals: the right status in the caller's dialect, a message that helps, and nothing held afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.e2e_kit import GPT_4O_MINI, POLICIES, Answered, Gateway, chat_body, cost
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

SMALL = """
name: small
type: gateway-budget-config
rules:
  - id: small-daily
    when: {metadata: {size: small}}
    limit_to: 0.001
    unit: cost_per_day
    budget_applies_per: [metadata.cost_center]
---
name: rates
type: gateway-rate-limiting-config
rules:
  - id: slow-lane
    when: {metadata: {lane: slow}}
    limit_to: 3
    unit: requests_per_day
    rate_limit_applies_per: [metadata.cost_center]
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, metering: str) -> Iterator[RunningStack]:
    """One stack for the module, with small budgets and a slow lane."""
    with running_stack(
        tmp_path_factory.mktemp("refusals"), {**POLICIES, "small.yaml": SMALL}, "--metering", metering
    ) as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A client whose cost center is the test's name."""
    gateway = Gateway(running, request.node.name.replace("[", "-").strip("]"))
    yield gateway
    gateway.close()


def assert_nothing_held(gateway: Gateway) -> None:
    assert gateway.account("per-cost-center")["held"] == 0
    assert gateway.account("per-cost-center")["spent"] == 0
    assert gateway.journal() == []


PATHS = ["/v1/chat/completions", "/v1/messages"]


def error_of(path: str, answer: httpx.Response) -> dict[str, Any]:
    """The dialect's error object: both SDKs find `message` there."""
    body: dict[str, Any] = answer.json()
    if path == "/v1/messages":
        assert body["type"] == "error"
    assert body["detail"]
    assert body["mitigation"]
    error: dict[str, Any] = body["error"]
    assert error["message"]
    return error


@pytest.mark.parametrize("path", PATHS)
def test_an_untagged_request_is_refused_with_400(gateway: Gateway, path: str) -> None:
    """The answer names the missing tag and shows the header that would be right."""
    model = "claude-sonnet-4-6" if path == "/v1/messages" else "gpt-4o-mini"
    answer = gateway.http.post(path, json=chat_body(model=model, max_tokens=5))

    assert answer.status_code == 400
    assert "cost_center" in error_of(path, answer)["message"]
    assert "x-tfy-metadata" in answer.json()["mitigation"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "value", ["nope", "[1]", '{"cost_center": 3}', '{"cost_center": "%s"}' % ("x" * 129)], ids=range(4)
)
def test_a_malformed_tag_header_is_refused_with_400(gateway: Gateway, path: str, value: str) -> None:
    """Anything but an object of short texts says exactly what is wrong."""
    answer = gateway.http.post(path, json=chat_body(max_tokens=5), headers={"x-tfy-metadata": value})

    assert answer.status_code == 400
    assert "x-tfy-metadata" in error_of(path, answer)["message"]


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_not_json_is_refused_with_400(gateway: Gateway, path: str) -> None:
    """The message says that the body is not JSON."""
    answer = gateway.http.post(path, content=b'{"model": ', headers=gateway.headers())

    assert answer.status_code == 400
    assert "JSON" in error_of(path, answer)["message"]
    assert_nothing_held(gateway)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", ["no-such-model", "no-such-account/gpt-4o"])
def test_an_unknown_model_is_refused_with_404(gateway: Gateway, path: str, model: str) -> None:
    """The message names the model; nothing is held, nothing is sent."""
    answer = gateway.http.post(path, json=chat_body(model=model, max_tokens=5), headers=gateway.headers())

    assert answer.status_code == 404
    assert model in error_of(path, answer)["message"]
    assert_nothing_held(gateway)


@pytest.mark.parametrize("path", PATHS)
def test_a_body_of_40_mib_is_refused_with_413(gateway: Gateway, path: str) -> None:
    """Envoy's own refusal has the dialect's shape too."""
    body = b'{"model": "gpt-4o-mini", "messages": "' + b"x" * (40 * 1024 * 1024) + b'"}'
    answer = gateway.http.post(path, content=body, headers=gateway.headers())

    assert answer.status_code == 413
    assert "32 MiB" in error_of(path, answer)["message"]
    assert_nothing_held(gateway)


def test_a_body_of_31_mib_passes(gateway: Gateway) -> None:
    """Large bodies work: neither Envoy's default buffer nor grpc's message limit is in the way."""
    text = "word " * (31 * 1024 * 1024 // 5)
    answer = gateway.chat(messages=[{"role": "user", "content": text}], max_tokens=5, usage={"input": 100, "output": 5})

    assert answer.status_code == 200
    assert gateway.resolved()[0]["charge_nanodollars"] == cost(GPT_4O_MINI, input_uncached=100, output=5)


def test_an_unknown_path_is_refused_with_404(gateway: Gateway) -> None:
    """A passthrough must not be a way around the budget (T19)."""
    answer = gateway.http.post("/v1/something/else", json={}, headers=gateway.headers())

    assert answer.status_code == 404
    assert "/v1/something/else" in answer.json()["detail"]


def test_the_openai_sdk_raises_rate_limit_error_and_does_not_retry(gateway: Gateway) -> None:
    """An exhausted budget shows its detail in the SDK's exception, and `x-should-retry: false` stops its retries."""
    gateway.tags["size"] = "small"
    first = gateway.chat(usage={"input": 1_000, "output": 1_500}, max_tokens=1_500)
    assert first.status_code == 200
    gateway.resolved()
    client = gateway.openai(retries=2)

    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}])

    assert "has exhausted its daily $0.001 AI budget" in str(refused.value)
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert int(refused.value.response.headers["retry-after"]) > 0
    body = refused.value.response.json()
    assert body["error"]["code"] == "budget_exceeded"
    assert body["context"]["rule"] == "small-daily"
    assert body["context"]["spent_to_date"] == "$0.00105"
    assert body["context"]["cap"] == "$0.001"
    assert body["context"]["resets_at"].endswith("T00:00:00Z")
    assert gateway.account("small-daily")["held"] == 0


def test_the_anthropic_sdk_raises_rate_limit_error_for_streams_too(gateway: Gateway) -> None:
    """A refused stream is a 429 with the same body, never a 200 stream."""
    gateway.tags["size"] = "small"
    client = gateway.anthropic(retries=2)

    with pytest.raises(anthropic.RateLimitError) as refused:
        client.messages.create(
            model="claude-sonnet-4-6", max_tokens=500, messages=[{"role": "user", "content": "hi"}], stream=True
        )

    assert "an output limit of" in str(refused.value)
    assert refused.value.response.json()["type"] == "error"
    assert_nothing_held(gateway)


def test_both_sdks_raise_bad_request_error_with_our_detail(gateway: Gateway) -> None:
    """A 400 of ours is the SDK's BadRequestError, message included."""
    openai_client = gateway.openai(tagged=False)
    anthropic_client = gateway.anthropic(tagged=False)

    with pytest.raises(openai.BadRequestError, match="cost_center"):
        openai_client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(anthropic.BadRequestError, match="cost_center"):
        anthropic_client.messages.create(
            model="claude-sonnet-4-6", max_tokens=5, messages=[{"role": "user", "content": "hi"}]
        )


def test_a_rate_limit_refuses_the_request_after_the_last_and_names_its_rule(gateway: Gateway) -> None:
    """Three pass, the fourth is refused; the remaining header counts down (T56)."""
    gateway.tags["lane"] = "slow"
    passed = [gateway.chat() for _ in range(3)]
    refused = gateway.chat()

    assert [answer.status_code for answer in passed] == [200] * 3
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in passed] == ["2", "1", "0"]
    assert refused.status_code == 429
    assert refused.json()["context"]["rule"] == "slow-lane"
    assert refused.json()["error"]["code"] == "rate_limited"
    assert int(refused.headers["retry-after"]) > 0


def test_two_hundred_at_a_budget_for_fifty(gateway: Gateway, metering: str) -> None:
    """Exactly as many pass as fit, not a nano-dollar over, and nothing stays held (T01, T02, T04)."""
    limit = 500
    body = {"max_tokens": limit, "messages": [{"role": "user", "content": "x"}], "user": gateway.cost_center}
    hold = _hold_of_one(gateway, body)
    policy = SMALL.replace("limit_to: 0.001", f"limit_to: {(hold * 50 + hold // 2) / 1e9:.9f}")
    cap = round(float(policy.split("limit_to: ")[1].split("\n", maxsplit=1)[0]) * 1e9)
    small = {**POLICIES, "small.yaml": policy}
    with running_stack(gateway.stack.errors.parent / "fifty", small, "--metering", metering) as stack:
        crowd = Gateway(stack, "crowd")
        crowd.tags["size"] = "small"
        refused: list[Answered] = []
        held: list[int] = []

        def after_150(answer: Answered) -> None:
            refused.append(answer)
            if len(refused) == 150:
                held.append(crowd.account("small-daily")["held"])
                crowd.release("crowd")

        usage, behavior = {"input": 1, "output": limit}, {"hold_open_until": "crowd"}
        answers = crowd.crowd(200, usage=usage, behavior=behavior, on_answer=after_150, **body)
        entries = crowd.resolved(50)
        account = crowd.account("small-daily")
        crowd.close()

    assert Counter(answer.status for answer in answers) == {200: 50, 429: 150}
    assert {answer.document["error"]["code"] for answer in refused[:150]} == {"budget_contended"}
    assert held == [hold * 50]
    assert len(entries) == 50
    assert account["held"] == 0
    assert account["spent"] == sum(entry["charge_nanodollars"] for entry in entries) <= cap


def _hold_of_one(gateway: Gateway, body: dict[str, Any]) -> int:
    """What one such request holds, seen while its answer is kept back."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(gateway.chat, behavior={"hold_open_until": gateway.cost_center}, **body)
        gateway.received(1)
        held: int = gateway.account("per-cost-center")["held"]
        gateway.release(gateway.cost_center)
        pending.result()
    return held
