"""Failover on the real stack: whatever one provider does before the first byte, the client is served by the next."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e_kit import CLAUDE_SONNET_4_6, GPT_4O_MINI, POLICIES, Gateway, cost, eventually
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

USAGE = {"input": 100, "output": 50}
GPT_4O = {"input_uncached": 2_500, "output": 10_000}
OPENAI, ANTHROPIC = "openai", "anthropic"
SERVED = {OPENAI: "openai-b/gpt-4o-mini", ANTHROPIC: "anthropic-b/claude-sonnet-4-6"}
RATES = {OPENAI: GPT_4O_MINI, ANTHROPIC: CLAUDE_SONNET_4_6}

CLAUDE_OPUS_4_6 = {"input_uncached": 5_000, "output": 25_000}
LEAD_RATES = {OPENAI: GPT_4O, ANTHROPIC: CLAUDE_OPUS_4_6}
OUTPUT_LIMIT = 60
TOKENS_PER_SECOND = 60
INPUT_ESTIMATE = {OPENAI: 24, ANTHROPIC: 30}
"""Tokens: the prompt's bytes at 2.5 a token (18 with the role, 14), and what a dialect adds to a message (16, 24)."""
WRONG_JSON_OUTPUT = 1
"""Tokens: what cannot be read has no text to count."""

LATE: dict[str, dict[str, Any]] = {
    "reset after headers": {"reset": "after_headers"},
    "slow stream": {"chunk_delay_ms": 300},
    "wrong JSON": {"body": "{not json", "no_usage": True},
}
"""What goes wrong when the answer has begun."""

FAILURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "500": ({"status": 500}, {"status": 500, "ended": "failed", "basis": "released"}),
    "503": ({"status": 503}, {"status": 503, "ended": "failed", "basis": "released"}),
    "429": ({"status": 429, "retry_after": 7}, {"status": 429, "ended": "failed", "basis": "released"}),
    "refused connection": ({}, {"status": 0, "ended": "failed", "basis": "released"}),
    "reset before the body": ({"reset": "before_body_read"}, {"status": 0, "ended": "failed", "basis": "released"}),
    "reset before headers": ({"reset": "before_headers"}, {"status": 0, "ended": "failed", "basis": "released"}),
    "slow first byte": ({"first_byte_delay_ms": 60_000}, {"status": 0, "ended": "timed_out", "basis": "estimated"}),
}


ALONE: dict[str, dict[str, Any]] = {"502 twice": {"status": 502}, "503 once": {"status": 503}}
"""What tests of their own use."""

BEHAVIORS: dict[str, dict[str, Any]] = {name: behavior for name, (behavior, _) in FAILURES.items()} | LATE | ALONE


def dead_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


NO_FALLBACK = """
---
name: fallbacks
type: gateway-budget-config
rules:
  - {id: no-fallback, when: {metadata: {fallback: dear}, models: [openai-b/gpt-4o-mini]}, limit_to: 0.000001,
     unit: cost_per_month}
"""


def lead(dialect: str, failure: str) -> str:
    """The first target of a virtual model: one of its own, since a target that fails twice goes to the end."""
    account = "dead" if failure == "refused connection" else "main"
    return f"{dialect}-{account}/model-{list(BEHAVIORS).index(failure)}"


def providers() -> dict[str, Any]:
    """Accounts of both dialects; the models of the first targets cost what gpt-4o and claude-opus-4-6 do."""
    prices = {OPENAI: {"input": 0.0025, "output": 0.01}, ANTHROPIC: {"input": 0.005, "output": 0.025}}
    accounts = []
    for dialect in (OPENAI, ANTHROPIC):
        cost_of = {"per_1000_tokens": prices[dialect]}
        models = [{"name": lead(dialect, failure).split("/")[1], "cost": cost_of} for failure in BEHAVIORS]
        accounts += [
            {"name": f"{dialect}-{account}", "provider": dialect, "models": models} for account in ("main", "b", "dead")
        ]
    return {"name": "providers", "type": "gateway-provider-config", "accounts": accounts}


def virtual_model(dialect: str, failure: str) -> dict[str, Any]:
    """A rule whose first target fails in this way; the header that tells the mock so must not reach the second."""
    first: dict[str, Any] = {"target": lead(dialect, failure), "priority": 0}
    if failure == "slow first byte":
        first["timeout_ms"] = 700
    behavior = BEHAVIORS[failure]
    if behavior:
        first["headers_override"] = {"set": {"x-mock-behavior": json.dumps(behavior)}}
    name = f"{dialect} {failure}"
    return {
        "id": name,
        "type": "priority-based-routing",
        "when": {"models": [name]},
        "load_balance_targets": [first, {"target": SERVED[dialect], "priority": 1}],
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One stack for the module: a virtual model per dialect and failure, and two accounts that lead nowhere."""
    rules = [virtual_model(dialect, failure) for dialect in (OPENAI, ANTHROPIC) for failure in BEHAVIORS]
    routing = {"name": "routing", "type": "gateway-load-balancing-config", "rules": rules}
    policies = {
        **POLICIES,
        "fallbacks.yaml": NO_FALLBACK,
        "providers.yaml": yaml.safe_dump(providers()),
        "routing.yaml": yaml.safe_dump(routing),
    }
    nowhere = f"http://127.0.0.1:{dead_port()}"
    upstreams = [f"--upstream={account}={nowhere}" for account in ("openai-dead", "anthropic-dead")]
    with running_stack(tmp_path_factory.mktemp("failover"), policies, *upstreams) as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A client whose cost center is the test's name."""
    gateway = Gateway(running, request.node.name)
    yield gateway
    gateway.close()


def post(gateway: Gateway, dialect: str, failure: str, *, stream: bool) -> httpx.Response:
    """One request for the virtual model whose first target fails so."""
    body: dict[str, Any] = {
        "model": f"{dialect} {failure}",
        "messages": [{"role": "user", "content": "Say something."}],
        "max_tokens": OUTPUT_LIMIT,
        "stream": stream,
    }
    path = "/v1/chat/completions" if dialect == OPENAI else "/v1/messages"
    return gateway.http.post(path, json=body, headers=gateway.headers(USAGE))


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize("failure", list(FAILURES))
def test_the_next_target_serves(gateway: Gateway, failure: str, dialect: str, stream: bool) -> None:
    """The client sees one good answer; both attempts are in the books, each with its own hold and exact charge."""
    ended = FAILURES[failure][1]

    answer = post(gateway, dialect, failure, stream=stream)

    assert answer.status_code == 200, answer.text
    assert answer.headers["x-tfy-resolved-model"] == SERVED[dialect]
    assert answer.headers["x-tollgate-attempts"] == "2"
    served, failed = gateway.resolved(2)
    charge = cost(RATES[dialect], input_uncached=100, output=50)
    assert (served["served_model"], served["charge_nanodollars"]) == (SERVED[dialect], charge)
    assert served["requested_model"] == failed["requested_model"] == f"{dialect} {failure}"
    assert served["hold_id"] == failed["hold_id"].removesuffix(".1") + ".2"
    assert failed["served_model"] == lead(dialect, failure)
    assert {key: failed[key] for key in ended} == ended
    if ended["basis"] == "estimated":
        assert_charged_by_time(failed, dialect)
    else:
        assert failed["charge_nanodollars"] == 0
    assert gateway.account("per-cost-center")["spent"] == charge + failed["charge_nanodollars"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize("late", list(LATE))
def test_what_fails_after_the_first_byte_is_the_first_targets(
    gateway: Gateway, late: str, dialect: str, stream: bool
) -> None:
    """Once the client has seen a byte nobody else may answer: one attempt, charged by what is known of it."""
    with contextlib.suppress(httpx.HTTPError):  # a reset answer ends so
        post(gateway, dialect, late, stream=stream)

    (entry,) = gateway.resolved(1)
    assert entry["served_model"] == lead(dialect, late)
    if late == "slow stream":
        charge = cost(LEAD_RATES[dialect], input_uncached=100, output=50)
        assert (entry["basis"], entry["charge_nanodollars"]) == ("reported", charge)
    elif late == "wrong JSON":
        charge = cost(LEAD_RATES[dialect], input_uncached=INPUT_ESTIMATE[dialect], output=WRONG_JSON_OUTPUT)
        assert (entry["basis"], entry["charge_nanodollars"]) == ("estimated", charge), entry
    else:
        assert (entry["basis"], entry["charge_nanodollars"]) == ("released", 0), entry
    assert gateway.account("per-cost-center")["spent"] == entry["charge_nanodollars"]


def assert_charged_by_time(entry: dict[str, Any], dialect: str) -> None:
    """The estimated input, and 60 tokens of output a second, up to the limit. The journal's duration is whole
    milliseconds, so the output may be that of any time within the last one.
    """
    least, most = (min(OUTPUT_LIMIT, us * TOKENS_PER_SECOND // 1_000_000) for us in _within_ms(entry["duration_ms"]))
    rates, read = LEAD_RATES[dialect], INPUT_ESTIMATE[dialect]
    charges = {cost(rates, input_uncached=read, output=max(1, output)) for output in range(least, most + 1)}
    assert entry["charge_nanodollars"] in charges, entry


def _within_ms(milliseconds: int) -> tuple[int, int]:
    """The first and the last microsecond that are so many whole milliseconds."""
    return milliseconds * 1_000, milliseconds * 1_000 + 999


def test_targets_shows_who_is_unhealthy(gateway: Gateway) -> None:
    """Two failures put a target at the end for every worker, and `/v1/targets` says so."""
    failure = "502 twice"
    for _ in range(2):
        post(gateway, OPENAI, failure, stream=False)
    target = lead(OPENAI, failure)

    def unhealthy() -> dict[str, Any] | None:
        targets = gateway.admin.get("/v1/targets").json()["targets"]
        (entry,) = [entry for entry in targets if entry["target"] == target]
        return entry if entry["state"] == "unhealthy" else None

    entry = eventually(unhealthy, "the failures of two attempts")
    assert (entry["attempts"], entry["failures"], entry["error_rate"]) == (2, 2, 1.0)
    eventually(
        lambda: True if post(gateway, OPENAI, failure, stream=False).headers["x-tollgate-attempts"] == "1" else None,
        "a worker that tries the healthy target first",
    )


def test_a_fallback_that_the_budget_refuses_shows_the_real_failure(gateway: Gateway) -> None:
    """The client gets the provider's status, not a refusal: what failed is the provider. It is told why nothing came
    after, and nothing is charged.
    """
    gateway.tags["fallback"] = "dear"

    answer = post(gateway, OPENAI, "503 once", stream=False)

    assert answer.status_code == 503
    error = answer.json()
    assert error["error"]["code"] == "provider_failed"
    assert error["context"]["rule"] == "no-fallback"
    assert error["context"]["not_tried"] == SERVED[OPENAI]
    (entry,) = gateway.resolved(1)
    assert (entry["charge_nanodollars"], entry["basis"], entry["status"]) == (0, "released", 503)
