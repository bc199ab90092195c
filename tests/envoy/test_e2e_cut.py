"""`on_exhausted_stream: cut` on the real stack: a stream that outruns its hold ends when the account does, cleanly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.e2e_kit import CLAUDE_SONNET_4_6, GPT_4O_MINI, POLICIES, Gateway, chat_body, cost, eventually
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

HELD = 100  # tokens that a request without a limit is held at
CHUNKS = 100  # of an answer
ANSWER = 1_000  # tokens that the provider would write

BUDGETS = """
name: tight
type: gateway-budget-config
rules:
  - {id: cuts, when: {metadata: {mode: cut}}, limit_to: 600, unit: tokens_per_month,
     budget_applies_per: [metadata.cost_center], on_exhausted_stream: cut}
  - {id: dollars, when: {metadata: {mode: cost}}, limit_to: 0.01, unit: cost_per_month,
     budget_applies_per: [metadata.cost_center], on_exhausted_stream: cut}
  - {id: finishes, when: {metadata: {mode: finish}}, limit_to: 600, unit: tokens_per_month,
     budget_applies_per: [metadata.cost_center]}
---
name: routing
type: gateway-load-balancing-config
rules:
  - id: chat
    type: priority-based-routing
    when: {models: [chat]}
    load_balance_targets: [{target: openai-main/gpt-4o-mini, priority: 0}, {target: openai-main/gpt-4o, priority: 1}]
---
name: settings
type: gateway-settings
default_output_tokens: 100
"""
ROOMY = BUDGETS.replace("{mode: cut}}, limit_to: 600", "{mode: cut}}, limit_to: 60000")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One stack for the module. Streams that may be cut go through meter in either way of metering."""
    policies = {**POLICIES, "tight.yaml": BUDGETS}
    with running_stack(tmp_path_factory.mktemp("cut"), policies, "--metering", "native") as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A client whose cost center is the test's name, under the rule that cuts."""
    gateway = Gateway(running, request.node.name)
    gateway.tags["mode"] = "cut"
    yield gateway
    gateway.close()


def stuck_after(chunks: int, gate: str) -> dict[str, Any]:
    """An answer of a hundred pieces that stops after so many until the gate is opened: only a cut ends it before."""
    return {"chunks": CHUNKS, "hold_after_chunks": chunks, "hold_open_until": gate}


def the_cut(gateway: Gateway, rule: str = "cuts") -> dict[str, Any]:
    """The journal entry of the one request, which this rule has cut; the provider was let go of in mid-answer."""
    (entry,) = gateway.resolved(1)
    assert (entry["verdict"], entry["ended"], entry["cut_by"]) == ("cut", "exhausted", [rule]), entry
    assert entry["basis"] == "estimated"
    eventually(
        lambda: True if gateway.received(1)[0]["outcome"] == "client_gone" else None, "the provider losing its client"
    )
    return entry


def test_openai_chat_ends_with_length(gateway: Gateway) -> None:
    """The SDK sees an ordinary end; the provider is let go of while it is still writing; charged is what came."""
    gate = gateway.cost_center
    client = gateway.openai({"input": 10, "output": ANSWER})
    stream = client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "Say something."}],
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"x-mock-behavior": json.dumps(stuck_after(90, gate))},
    )
    chunks = list(stream)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert len({chunk.id for chunk in chunks}) == 1
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens == -(-len(text.encode()) // 4)
    entry = the_cut(gateway)
    assert entry["output_tokens"] == usage.completion_tokens
    assert entry["input_tokens"] == usage.prompt_tokens
    assert entry["charge_nanodollars"] == cost(
        GPT_4O_MINI, input_uncached=entry["input_tokens"], output=entry["output_tokens"]
    )
    assert gateway.account("cuts")["spent"] == entry["input_tokens"] + entry["output_tokens"] >= 600


def test_anthropic_messages_end_with_max_tokens(gateway: Gateway) -> None:
    """The SDK's own accumulator finishes: block, message and stop reason. `cost` units cut too."""
    gateway.tags["mode"] = "cost"
    client = gateway.anthropic({"input": 10, "output": ANSWER})
    with client.messages.stream(
        model="claude-sonnet-4-6",
        max_tokens=HELD,
        messages=[{"role": "user", "content": "Say something."}],
        extra_headers={"x-mock-behavior": json.dumps(stuck_after(90, gateway.cost_center))},
    ) as stream:
        message = stream.get_final_message()

    assert message.stop_reason == "max_tokens"
    block = message.content[0]
    assert isinstance(block, anthropic.types.TextBlock)
    assert message.usage.output_tokens == -(-len(block.text.encode()) // 4)
    entry = the_cut(gateway, "dollars")
    charge = cost(CLAUDE_SONNET_4_6, input_uncached=10, output=message.usage.output_tokens)
    assert entry["charge_nanodollars"] == charge == gateway.account("dollars")["spent"]


def test_responses_end_incomplete(gateway: Gateway) -> None:
    """`response.incomplete` with `max_output_tokens`, numbered after the last event."""
    client = gateway.openai({"input": 10, "output": ANSWER})
    stream = client.responses.create(
        model="gpt-4o-mini",
        input="Say something.",
        stream=True,
        extra_headers={"x-mock-behavior": json.dumps(stuck_after(90, gateway.cost_center))},
    )
    events = list(stream)

    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    the_cut(gateway)


@pytest.mark.parametrize("dialect", ["completions", "gemini"])
def test_other_streams_end_in_their_own_way(gateway: Gateway, dialect: str) -> None:
    """The comment names the rule, the last event has the dialect's word for a limit."""
    path, body, word = {
        "completions": (
            "/v1/completions",
            {"model": "gpt-4o-mini", "prompt": "Say something.", "stream": True},
            '"finish_reason":"length"',
        ),
        "gemini": (
            "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
            {"contents": [{"role": "user", "parts": [{"text": "Say something."}]}]},
            '"finishReason":"MAX_TOKENS"',
        ),
    }[dialect]
    headers = gateway.headers({"input": 10, "output": ANSWER}, stuck_after(90, gateway.cost_center))

    answer = gateway.http.post(path, json=body, headers=headers)

    *_, comment, end = answer.text.removesuffix("data: [DONE]\n\n").rstrip("\n").split("\n\n")
    assert comment == ": tollgate: cut; rule=cuts; the budget is exhausted"
    assert word in end
    assert answer.text.endswith("data: [DONE]\n\n") is (dialect == "completions")
    the_cut(gateway)


def test_a_stream_of_a_chain_is_cut_and_its_target_stays_healthy(gateway: Gateway) -> None:
    """That we let go of a provider says nothing against it."""
    behavior = stuck_after(90, gateway.cost_center)

    answer = gateway.chat(model="chat", stream=True, usage={"input": 10, "output": ANSWER}, behavior=behavior)

    assert answer.headers["x-tollgate-attempts"] == "1"
    assert '"finish_reason":"length"' in answer.text
    the_cut(gateway)

    def counted() -> dict[str, Any] | None:
        targets = gateway.admin.get("/v1/targets").json()["targets"]
        (entry,) = [entry for entry in targets if entry["target"] == "openai-main/gpt-4o-mini"]
        return entry if entry["attempts"] else None

    assert eventually(counted, "the attempt in the target's counts")["failures"] == 0


def test_a_rule_without_the_field_lets_the_stream_finish(gateway: Gateway) -> None:
    """The default: what was begun is delivered, and the account goes past its cap by what outran the hold."""
    gateway.tags["mode"] = "finish"

    answer = gateway.chat(usage={"input": 10, "output": ANSWER}, behavior={"chunks": CHUNKS}, stream=True)

    assert '"finish_reason":"stop"' in answer.text
    assert ": tollgate" not in answer.text
    (entry,) = gateway.resolved(1)
    assert (entry["basis"], entry["output_tokens"]) == ("reported", ANSWER)
    assert gateway.account("finishes")["spent"] == 10 + ANSWER


def test_a_stream_within_its_hold_is_left_alone(gateway: Gateway) -> None:
    """What may be cut and need not be is passed on byte for byte, its usage hidden where the client asked for none."""
    answer = gateway.chat(usage={"input": 10, "output": HELD}, behavior={"chunks": 20, "split_bytes": 7}, stream=True)

    events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
    assert answer.text.endswith("data: [DONE]\n\n")
    assert not any(event.get("usage") for event in events)
    assert len(events) == 22  # the role, twenty pieces, the reason
    (entry,) = gateway.resolved(1)
    assert (entry["basis"], entry["verdict"], entry["output_tokens"]) == ("reported", "pass", HELD)


def test_a_raised_cap_lets_a_running_stream_go_on(gateway: Gateway, running: RunningStack) -> None:
    """The cap in force when the stream outruns its hold is the one that counts."""
    policy = running.state_dir.parent / "policies" / "tight.yaml"
    gate = gateway.cost_center
    headers = gateway.headers({"input": 10, "output": ANSWER}, stuck_after(5, gate))
    try:
        with gateway.http.stream(
            "POST", "/v1/chat/completions", json=chat_body(stream=True), headers=headers
        ) as answer:
            gateway.mock.get(f"/mock/waiting/{gate}")
            before = gateway.admin.get("/v1/policy").json()["version"]
            policy.write_text(ROOMY)
            eventually(lambda: True if _is_in_force(gateway, before) else None, "the raised cap on every worker")
            gateway.release(gate)
            text = "".join(answer.iter_text())
    finally:
        before = gateway.admin.get("/v1/policy").json()["version"]
        policy.write_text(BUDGETS)
        eventually(lambda: True if _is_in_force(gateway, before) else None, "the old cap")

    assert '"finish_reason":"stop"' in text
    (entry,) = gateway.resolved(1)
    assert (entry["basis"], entry["output_tokens"]) == ("reported", ANSWER)


def _is_in_force(gateway: Gateway, before: str) -> bool:
    policy = gateway.admin.get("/v1/policy").json()
    return bool(policy["converged"]) and policy["version"] != before
