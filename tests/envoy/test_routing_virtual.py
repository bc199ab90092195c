"""Virtual models on the real stack: how targets are chosen and changed, and what a client may ask for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e_kit import POLICIES, Gateway, chat_body, eventually
from tests.routing_kit import ROUTED_USAGE, behaving, chain, served
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

A, B = "openai-main", "openai-b"
HALVES = ({"target": f"{A}/gpt-4o", "weight": 50}, {"target": f"{B}/gpt-4o", "weight": 50})
RETRIED = {"retry_config": {"attempts": 1, "delay": 0}, **behaving(status=503)}
PROVIDERS = {
    "name": "providers",
    "type": "gateway-provider-config",
    "accounts": [{"name": name, "provider": "openai"} for name in (A, B)],
}
CHANGED = {
    "override_params": {"temperature": 0.25, "max_tokens": 7, "model": "ignored"},
    "headers_override": {"set": {"x-env": "prod"}, "remove": ["x-debug"]},
}


def sticky(source: str, key: str) -> dict[str, Any]:
    """Sessions by one identifier."""
    return {"ttl_seconds": 86_400, "session_identifiers": [{"source": source, "key": key}]}


ROUTING = {
    "name": "routing",
    "type": "gateway-load-balancing-config",
    "rules": [
        chain("halves", *HALVES, kind="weight-based-routing"),
        chain("by-tag", *HALVES, kind="weight-based-routing", sticky_routing=sticky("metadata", "conversation")),
        chain("by-header", *HALVES, kind="weight-based-routing", sticky_routing=sticky("headers", "X-Session")),
        chain(
            "fastest",
            {"target": f"{A}/gpt-4.1", **behaving(first_byte_delay_ms=300)},
            {"target": f"{B}/gpt-4.1"},
            kind="latency-based-routing",
        ),
        chain("changed", {"target": f"{A}/gpt-4.1-mini", **CHANGED}),
        chain(
            "matched",
            {"target": f"{A}/gpt-4o-mini", "metadata_match": {"tier": "gold"}},
            {"target": f"{B}/gpt-4o-mini"},
        ),
        chain("no-retry", {"target": f"{A}/o1", **RETRIED}, {"target": f"{B}/gpt-4o-mini"}),
        chain("one-retry", {"target": f"{A}/o3", **RETRIED}, {"target": f"{B}/gpt-4o-mini"}),
        chain(
            "slow", {"target": f"{A}/o4-mini", **behaving(first_byte_delay_ms=60_000)}, {"target": f"{B}/gpt-4o-mini"}
        ),
        chain(
            "bounded",
            {"target": f"{A}/o3-mini", "timeout_ms": 500, **behaving(first_byte_delay_ms=60_000)},
            {"target": f"{B}/gpt-4o-mini"},
        ),
        chain("stuck", {"target": f"{A}/gpt-4.1-nano", **behaving(first_byte_delay_ms=60_000)}),
    ],
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One stack for the module."""
    documents = yaml.safe_dump_all([PROVIDERS, ROUTING])
    with running_stack(tmp_path_factory.mktemp("virtual"), {**POLICIES, "routes.yaml": documents}) as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A client whose cost center is the test's name."""
    gateway = Gateway(running, request.node.name)
    yield gateway
    gateway.close()


def ask(gateway: Gateway, model: str, **headers: str) -> httpx.Response:
    """One request with these headers, `_` for `-`. Its text is the cost center, so that the mock's records have it."""
    body = chat_body(model=model, messages=[{"role": "user", "content": gateway.cost_center}])
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.http.post("/v1/chat/completions", json=body, headers={**gateway.headers(ROUTED_USAGE), **more})


def test_weights_share_the_traffic(gateway: Gateway) -> None:
    """Of two halves both serve."""
    assert {served(ask(gateway, "halves")) for _ in range(24)} == {f"{A}/gpt-4o", f"{B}/gpt-4o"}


@pytest.mark.parametrize("model", ["by-tag", "by-header"])
def test_a_session_stays_and_sessions_spread(gateway: Gateway, model: str) -> None:
    """One conversation has one target, told by a tag or by a header; many have both."""

    def serves(session: str) -> str:
        if model == "by-header":
            return served(ask(gateway, model, x_session=session))
        gateway.tags["conversation"] = session
        return served(ask(gateway, model))

    assert len({serves("one") for _ in range(8)}) == 1
    assert len({serves(f"session {number}") for number in range(24)}) == 2


def test_the_faster_target_leads(gateway: Gateway) -> None:
    """Once both are measured, a slow first byte counts against a target, for every worker."""
    latest: list[str] = []

    def settled() -> bool | None:
        latest.append(served(ask(gateway, "fastest")))
        return True if latest[-8:] == [f"{B}/gpt-4.1"] * 8 else None

    eventually(settled, "eight answers in a row of the faster target")
    assert f"{A}/gpt-4.1" in latest


def test_a_target_changes_parameters_and_headers(gateway: Gateway) -> None:
    """The provider gets what the rule says; the model and the stream stay what they are, and the hold covers it."""
    answer = ask(gateway, "changed", x_debug="1")

    assert served(answer) == f"{A}/gpt-4.1-mini"
    (received,) = gateway.received(1)
    body = received["body"] if isinstance(received["body"], dict) else json.loads(received["body"])
    headers = {name.lower(): value for name, value in received["headers"].items()}
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0.25, 7, "gpt-4.1-mini")
    assert headers["x-env"] == "prod"
    assert "x-debug" not in headers


def test_a_target_takes_only_requests_with_its_tags(gateway: Gateway) -> None:
    """`metadata_match` decides who may lead."""
    assert served(ask(gateway, "matched")) == f"{B}/gpt-4o-mini"
    gateway.tags["tier"] = "gold"
    assert served(ask(gateway, "matched")) == f"{A}/gpt-4o-mini"


@pytest.mark.parametrize(("model", "asked", "attempts"), [("no-retry", 0, "2"), ("one-retry", 5, "3")])
def test_a_client_asks_for_fewer_retries_never_for_more(
    gateway: Gateway, model: str, asked: int, attempts: str
) -> None:
    """`x-tfy-retry-config`: the rule grants one retry before the next target."""
    answer = ask(gateway, model, x_tfy_retry_config=json.dumps({"attempts": asked}))
    assert served(answer) == f"{B}/gpt-4o-mini"
    assert answer.headers["x-tollgate-attempts"] == attempts


def test_a_client_asks_for_a_quicker_first_byte(gateway: Gateway) -> None:
    """`x-tfy-ttft-timeout-ms` moves on sooner than the rule, and never later."""
    assert served(ask(gateway, "slow", x_tfy_ttft_timeout_ms="400")) == f"{B}/gpt-4o-mini"
    assert served(ask(gateway, "bounded", x_tfy_ttft_timeout_ms="50000")) == f"{B}/gpt-4o-mini"


def test_a_client_bounds_the_whole_request(gateway: Gateway) -> None:
    """`x-tfy-request-timeout`: the client gets a 504 and its hold is settled, not left to its lease."""
    answer = ask(gateway, "stuck", x_tfy_request_timeout="600")
    assert answer.status_code == 504
    (entry,) = gateway.resolved(1)
    assert entry["basis"] == "estimated", entry


def test_a_client_chooses_a_provider_of_the_rule(gateway: Gateway) -> None:
    """`x-tfy-provider-name` picks one of the rule's accounts; another is refused, and named."""
    assert {served(ask(gateway, "halves", x_tfy_provider_name=B)) for _ in range(6)} == {f"{B}/gpt-4o"}
    answer = ask(gateway, "halves", x_tfy_provider_name="elsewhere")
    assert answer.status_code == 404
    assert "elsewhere" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("header", "value"),
    [("x_tfy_retry_config", "2"), ("x_tfy_request_timeout", "soon"), ("x_tfy_ttft_timeout_ms", "0")],
)
def test_what_a_client_asks_and_nobody_can_read_is_refused(gateway: Gateway, header: str, value: str) -> None:
    """A limit that is silently ignored is none: 400, with an example of a right one."""
    answer = ask(gateway, "halves", **{header: value})
    assert answer.status_code == 400
    assert header.replace("_", "-") in answer.json()["error"]["message"]
