"""What rules and headers say of how a request is routed, on the real stack: who may serve, and who does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

from tests.e2e_kit import GPT_4O_MINI, POLICIES, Gateway, cost
from tests.routing_kit import ROUTED_USAGE, behaving, chain, served
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy


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


ROUTING = {
    "name": "routing",
    "type": "gateway-load-balancing-config",
    "rules": [
        chain(
            "resident",
            {"target": "openai-eu/gpt-4o", **behaving(status=503)},
            {"target": "openai-main/gpt-4o-mini"},
            {"target": "openai-eu-b/gpt-4o-mini"},
        ),
        chain(
            "by-target",
            {"target": "openai-main/o1", **behaving(status=500), "fallback_status_codes": ["500"]},
            {"target": "openai-eu/o1", **behaving(status=500), "fallback_status_codes": ["503"]},
            {"target": "openai-eu-b/gpt-4o-mini"},
        ),
        chain(
            "never",
            {"target": "openai-main/o3", **behaving(status=503), "fallback_status_codes": []},
            {"target": "openai-eu-b/gpt-4o-mini"},
        ),
        chain(
            "retried-only",
            {
                "target": "openai-main/o4-mini",
                **behaving(status=500),
                "fallback_status_codes": ["503"],
                "retry_config": {"attempts": 1, "delay": 0, "on_status_codes": ["500", "503"]},
            },
            {"target": "openai-eu-b/gpt-4o-mini"},
        ),
        chain(
            "retried-then-left",
            {
                "target": "openai-eu/o4-mini",
                **behaving(status=503),
                "fallback_status_codes": ["503"],
                "retry_config": {"attempts": 1, "delay": 0, "on_status_codes": ["503"]},
            },
            {"target": "openai-eu-b/gpt-4o-mini"},
        ),
        chain("abroad", {"target": "openai-main/gpt-4o"}, {"target": "openai-main/gpt-4o-mini"}),
    ],
}


SWAP = {"openai-main/gpt-4o": "openai-main/gpt-4o-mini"}


def savings(scorer_url: str) -> list[dict[str, Any]]:
    """Short questions of low priority, and what a scorer calls easy."""
    scorer = {"url": scorer_url, "at_least": 0.5, "deadline_ms": 500, "otherwise": "keep"}
    return [
        {
            "id": "short-questions",
            "when": {"metadata": {"priority": "low"}},
            "request": {"max_input_tokens": 1000, "tools": False, "images": False, "stream": False},
            "swap": SWAP,
        },
        {"id": "scored", "when": {"metadata": {"scored": "yes"}}, "scorer": scorer, "swap": SWAP},
    ]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, scorer_url: str) -> Iterator[RunningStack]:
    """One stack for the module."""
    routing = {**ROUTING, "savings": savings(scorer_url)}
    documents = yaml.safe_dump_all([PROVIDERS, GUARDRAILS, routing])
    with running_stack(tmp_path_factory.mktemp("rules"), {**POLICIES, "routes.yaml": documents}) as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A client whose cost center is the test's name."""
    gateway = Gateway(running, request.node.name)
    yield gateway
    gateway.close()


def test_a_fallback_stays_in_the_region(gateway: Gateway) -> None:
    """Personal data falls back past the target abroad; other data takes it. The journal has both attempts."""
    assert served(gateway.chat(model="resident", usage=ROUTED_USAGE)) == "openai-main/gpt-4o-mini"
    gateway.tags["data"] = "personal"
    assert served(gateway.chat(model="resident", usage=ROUTED_USAGE)) == "openai-eu-b/gpt-4o-mini"
    newest = gateway.resolved(4)[:2]
    assert [entry["served_model"] for entry in newest] == ["openai-eu-b/gpt-4o-mini", "openai-eu/gpt-4o"]


def test_where_nobody_in_the_region_serves_the_request_is_refused(gateway: Gateway) -> None:
    """403 `not_allowed`, before anything is held."""
    gateway.tags["data"] = "personal"
    answer = gateway.chat(model="abroad", usage=ROUTED_USAGE)
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "not_allowed")
    assert answer.headers["x-tollgate-verdict"] == "refuse; type=not_allowed; rule=stay"
    assert gateway.account("per-cost-center")["spent"] == 0


@pytest.mark.parametrize(
    ("model", "status", "tried"),
    [
        ("by-target", 500, ["openai-eu/o1", "openai-main/o1"]),
        ("never", 503, ["openai-main/o3"]),
        ("retried-only", 500, ["openai-main/o4-mini"] * 2),
        ("retried-then-left", 200, ["openai-eu-b/gpt-4o-mini", *["openai-eu/o4-mini"] * 2]),
    ],
)
def test_each_target_has_status_lists_of_its_own(gateway: Gateway, model: str, status: int, tried: list[str]) -> None:
    """After which answers a target is tried again, and after which the next one is, each target says for itself."""
    answer = gateway.chat(model=model, usage=ROUTED_USAGE)

    assert answer.status_code == status, answer.text
    assert "x-tollgate-go-on" not in answer.headers
    assert answer.headers["x-tollgate-attempts"] == str(len(tried))
    assert [entry["served_model"] for entry in gateway.resolved(len(tried))] == tried


class Scorer(BaseHTTPRequestHandler):
    """Says of requests that are tagged `easy` that the cheaper model does, and hangs up on others."""

    def do_POST(self) -> None:
        """One question."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "easy" not in asked["tags"]:
            return
        answer = json.dumps({"score": 0.9 if asked["tags"]["easy"] == "yes" else 0.1}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing: tests have their own output."""


@pytest.fixture(scope="module")
def scorer_url() -> Iterator[str]:
    """A scorer that serves while the module's stack does."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Scorer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/score"
        server.shutdown()
        thread.join()


def test_a_short_question_is_served_by_the_cheaper_model(gateway: Gateway) -> None:
    """It is sent, charged and journalled as the cheaper one, and told so; a long one is not touched."""
    gateway.tags["priority"] = "low"
    marked = [{"role": "user", "content": gateway.cost_center}]
    answer = gateway.chat(model="gpt-4o", usage=ROUTED_USAGE, messages=marked)
    assert served(answer) == "openai-main/gpt-4o-mini"
    (sent,) = gateway.received(1)
    assert "gpt-4o-mini" in str(sent["body"])
    assert answer.headers["x-tollgate-verdict"] == "downgrade; rule=short-questions"
    long = gateway.chat(
        model="gpt-4o", usage=ROUTED_USAGE, messages=[{"role": "user", "content": "Consider this. " * 600}], stream=True
    )
    assert served(long) == "openai-main/gpt-4o"
    newest = gateway.resolved(2)
    by_model = {entry["served_model"]: entry for entry in newest}
    saved = by_model["openai-main/gpt-4o-mini"]
    assert saved["charge_nanodollars"] == cost(GPT_4O_MINI, input_uncached=100, output=50)
    assert (saved["requested_model"], saved["verdict"], saved["verdict_rule"]) == (
        "gpt-4o",
        "downgrade",
        "short-questions",
    )
    assert by_model["openai-main/gpt-4o"]["verdict"] == "pass"
    metrics = gateway.admin.get("/metrics").text
    assert 'tollgate_downgrades_total{rule="short-questions"} 1.0' in metrics


def test_a_scorer_decides_and_a_dead_one_leaves_it_to_the_rule(gateway: Gateway) -> None:
    """Easy requests are swapped, hard ones keep their model; without an answer the rule keeps it."""
    gateway.tags |= {"scored": "yes", "easy": "yes"}
    assert served(gateway.chat(model="gpt-4o", usage=ROUTED_USAGE)) == "openai-main/gpt-4o-mini"
    gateway.tags["easy"] = "no"
    assert served(gateway.chat(model="gpt-4o", usage=ROUTED_USAGE)) == "openai-main/gpt-4o"
    del gateway.tags["easy"]
    assert served(gateway.chat(model="gpt-4o", usage=ROUTED_USAGE)) == "openai-main/gpt-4o"
    metrics = gateway.admin.get("/metrics").text
    assert 'tollgate_scores_total{result="scored",rule="scored"} 2.0' in metrics
    assert 'tollgate_scores_total{result="failed",rule="scored"} 1.0' in metrics
