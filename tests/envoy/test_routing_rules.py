"""What rules and headers say of how a request is routed, on the real stack: who may serve, and who does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e_kit import POLICIES, Gateway
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

USAGE = {"input": 100, "output": 50}
FAILING = {"headers_override": {"set": {"x-mock-behavior": json.dumps({"status": 503})}}}

PROVIDERS = {
    "name": "providers",
    "type": "gateway-provider-config",
    "accounts": [
        {"name": "openai-main", "provider": "openai", "region": "us-east-1"},
        {"name": "openai-eu", "provider": "openai", "region": "eu-central-1"},
        {"name": "openai-eu-b", "provider": "openai", "region": "eu-west-1"},
    ],
}
GUARDRAILS = {
    "name": "guardrails",
    "type": "gateway-guardrail-config",
    "rules": [{"id": "stay", "when": {"metadata": {"data": "personal"}}, "allowed_regions": ["eu"]}],
}


def chain(name: str, *targets: dict[str, Any], kind: str = "priority-based-routing", **rule: Any) -> dict[str, Any]:
    """A virtual model over these targets, in this order."""
    placed = [{"priority": index, **target} for index, target in enumerate(targets)]
    return {"id": name, "type": kind, "when": {"models": [name]}, "load_balance_targets": placed, **rule}


ROUTING = {
    "name": "routing",
    "type": "gateway-load-balancing-config",
    "rules": [
        chain(
            "resident",
            {"target": "openai-eu/gpt-4o", **FAILING},
            {"target": "openai-main/gpt-4o-mini"},
            {"target": "openai-eu-b/gpt-4o-mini"},
        ),
        chain("abroad", {"target": "openai-main/gpt-4o"}, {"target": "openai-main/gpt-4o-mini"}),
    ],
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One stack for the module."""
    documents = yaml.safe_dump_all([PROVIDERS, GUARDRAILS, ROUTING])
    with running_stack(tmp_path_factory.mktemp("rules"), {**POLICIES, "routes.yaml": documents}) as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A client whose cost center is the test's name."""
    gateway = Gateway(running, request.node.name)
    yield gateway
    gateway.close()


def served(answer: httpx.Response) -> str:
    """Who served a request that passed."""
    assert answer.status_code == 200, answer.text
    return answer.headers["x-tfy-resolved-model"]


def test_a_fallback_stays_in_the_region(gateway: Gateway) -> None:
    """Personal data falls back past the target abroad; other data takes it. The journal has both attempts."""
    assert served(gateway.chat(model="resident", usage=USAGE)) == "openai-main/gpt-4o-mini"
    gateway.tags["data"] = "personal"
    assert served(gateway.chat(model="resident", usage=USAGE)) == "openai-eu-b/gpt-4o-mini"
    newest = gateway.resolved(4)[:2]
    assert [entry["served_model"] for entry in newest] == ["openai-eu-b/gpt-4o-mini", "openai-eu/gpt-4o"]


def test_where_nobody_in_the_region_serves_the_request_is_refused(gateway: Gateway) -> None:
    """403 `not_allowed`, before anything is held."""
    gateway.tags["data"] = "personal"
    answer = gateway.chat(model="abroad", usage=USAGE)
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "not_allowed")
    assert answer.headers["x-tollgate-verdict"] == "refuse; type=not_allowed; rule=stay"
    assert gateway.account("per-cost-center")["spent"] == 0
