"""The official SDKs through the real stack: the books hold the exact cost, to the nano-dollar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e_kit import CLAUDE_SONNET_4_6, GPT_4O_MINI, POLICIES, Gateway, cost
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, metering: str) -> Iterator[RunningStack]:
    """One stack for the module."""
    with running_stack(tmp_path_factory.mktemp("money"), POLICIES, "--metering", metering) as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A client whose cost center is the test's name."""
    gateway = Gateway(running, request.node.name.replace("[", "-").strip("]"))
    yield gateway
    gateway.close()


def assert_charged(gateway: Gateway, expected_nanodollars: int, usage: dict[str, int]) -> dict[str, Any]:
    (entry,) = gateway.resolved()
    assert entry["charge_nanodollars"] == expected_nanodollars
    assert entry["basis"] == "reported"
    assert {name: count for name, count in entry["usage"].items() if name != "requests"} == usage
    assert gateway.account("per-cost-center")["spent"] == expected_nanodollars
    return entry


OPENAI_USAGE = {"input": 1_000, "cache_read": 600, "output": 200, "reasoning": 150}
OPENAI_COUNTS = {"input_uncached": 1_000, "cache_read": 600, "output": 200}
ANTHROPIC_USAGE = {"input": 10, "cache_read": 2_000, "cache_write": 200, "cache_write_1h": 300, "output": 90}
ANTHROPIC_COUNTS = {
    "input_uncached": 10,
    "cache_read": 2_000,
    "cache_write_5m": 200,
    "cache_write_1h": 300,
    "output": 90,
}


def test_openai_plain(gateway: Gateway) -> None:
    """A plain chat completion is charged exactly what its usage costs (T37, T41)."""
    answer = gateway.openai(OPENAI_USAGE).chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}]
    )

    assert answer.usage is not None
    assert answer.usage.completion_tokens == 200
    entry = assert_charged(gateway, cost(GPT_4O_MINI, **OPENAI_COUNTS), {**OPENAI_COUNTS, "reasoning": 150})
    assert entry["requested_model"] == "gpt-4o-mini"
    assert entry["served_model"] == "openai-main/gpt-4o-mini"
    assert entry["status"] == 200


@pytest.mark.parametrize("asks_usage", [False, True])
def test_openai_streamed(gateway: Gateway, asks_usage: bool) -> None:
    """A stream is charged exactly, and shows the usage chunk only to a client that asked for it (T33)."""
    options: Any = {"stream_options": {"include_usage": True}} if asks_usage else {}
    stream = gateway.openai(OPENAI_USAGE).chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}], stream=True, **options
    )
    chunks = list(stream)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert any(chunk.usage is not None for chunk in chunks) is asks_usage
    assert all(chunk.choices for chunk in chunks) is not asks_usage
    assert_charged(gateway, cost(GPT_4O_MINI, **OPENAI_COUNTS), {**OPENAI_COUNTS, "reasoning": 150})


def test_anthropic_plain(gateway: Gateway) -> None:
    """A plain message is charged exactly, each kind of cache token at its own rate (T36, T39)."""
    gateway.anthropic(ANTHROPIC_USAGE).messages.create(
        model="claude-sonnet-4-6", max_tokens=500, messages=[{"role": "user", "content": "hi"}]
    )

    assert_charged(gateway, cost(CLAUDE_SONNET_4_6, **ANTHROPIC_COUNTS), ANTHROPIC_COUNTS)


def test_anthropic_streamed(gateway: Gateway) -> None:
    """A streamed message takes the last cumulative usage, never the placeholder, never a sum (T31, T46, T47)."""
    client = gateway.anthropic(ANTHROPIC_USAGE)
    with client.messages.stream(
        model="claude-sonnet-4-6", max_tokens=500, messages=[{"role": "user", "content": "hi"}]
    ) as stream:
        text = "".join(stream.text_stream)

    assert text
    assert_charged(gateway, cost(CLAUDE_SONNET_4_6, **ANTHROPIC_COUNTS), ANTHROPIC_COUNTS)


def test_the_provider_sees_neither_the_clients_credential_nor_our_headers(gateway: Gateway) -> None:
    """Client credentials, `x-tfy-*` and `x-tollgate-*` end at the gateway; the client's own options survive."""
    gateway.openai({"input": 1, "output": 1}).chat.completions.create(
        model="openai-main/gpt-4o-mini",
        messages=[{"role": "user", "content": gateway.cost_center}],
        temperature=0.25,
        extra_headers={"x-tollgate-cluster": "anthropic-main", "x-tollgate-meter": "native", "x-tfy-unknown": "1"},
    )

    (received,) = gateway.received(1)
    names = {name.lower() for name in received["headers"]}
    body = received["body"] if isinstance(received["body"], dict) else json.loads(received["body"])
    assert not [name for name in names if name.startswith(("x-tfy-", "x-tollgate-"))]
    assert "authorization" not in names
    assert body["model"] == "gpt-4o-mini"
    assert body["temperature"] == 0.25
    gateway.resolved()


@pytest.mark.parametrize("base", ["/api/llm", "/api/inference/openai", "/api/llm/api/inference/openai"])
def test_truefoundry_base_paths(gateway: Gateway, base: str) -> None:
    """A base-URL change is all a migration needs."""
    client = gateway.openai({"input": 100, "output": 10}, base=base)
    client.chat.completions.create(model="openai-main/gpt-4o-mini", messages=[{"role": "user", "content": "hi"}])

    assert_charged(gateway, cost(GPT_4O_MINI, input_uncached=100, output=10), {"input_uncached": 100, "output": 10})


def test_the_answer_says_what_served_and_which_rules_applied(gateway: Gateway) -> None:
    """Every metered answer carries the resolved model, the rules and the verdict (T62)."""
    answer = gateway.chat()

    rules = json.loads(answer.headers["x-tfy-applied-rules"])
    assert answer.headers["x-tfy-resolved-model"] == "openai-main/gpt-4o-mini"
    assert rules == {"matched": ["per-cost-center"], "deciding": ["per-cost-center"]}
    assert answer.headers["x-tollgate-verdict"] == "pass"
    assert answer.headers["x-tollgate-request-id"].startswith("req_")
