"""Batches on the real stack, by the real SDKs: held before they are made, settled from their results at batch rates."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e_kit import CLAUDE_SONNET_4_6, GPT_4O_MINI, POLICIES, Gateway, cost, eventually
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

USAGE = {"input": 40, "output": 7}
SMALL = """
---
name: small
type: gateway-budget-config
rules:
  - id: per-cost-center-small
    when: {metadata: {size: small}}
    limit_to: 0.0008
    unit: cost_per_month
    budget_applies_per: [metadata.cost_center]
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, metering: str) -> Iterator[RunningStack]:
    policies = {"policy.yaml": POLICIES["policy.yaml"] + SMALL}
    with running_stack(tmp_path_factory.mktemp("batches"), policies, "--metering", metering) as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    client = Gateway(running, request.node.name)
    yield client
    client.close()


def lines(count: int, *, model: str = "gpt-4o-mini", max_tokens: int = 20) -> io.BytesIO:
    """A file of chat requests."""
    body = {"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": "Say something."}]}
    entries = (
        {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number in range(count)
    )
    file = io.BytesIO(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
    file.name = "requests.jsonl"
    return file


def made(sdk: openai.OpenAI, count: int, **body: Any) -> openai.types.Batch:
    """A batch of an uploaded file."""
    file = sdk.files.create(file=lines(count, **body), purpose="batch")
    return sdk.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


def messages(count: int, *, max_tokens: int = 20) -> list[Any]:
    """Message requests."""
    params = {
        "model": "claude-sonnet-4-6",
        "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": "Say something."}],
    }
    return [{"custom_id": f"r{number}", "params": params} for number in range(count)]


def end(gateway: Gateway, batch_id: str, **how: int) -> None:
    """The provider works a batch off."""
    gateway.mock.post(f"/mock/batches/{batch_id}/end", json=how).raise_for_status()


def seen(gateway: Gateway, path: str, text: str = "") -> list[dict[str, Any]]:
    """What the provider received below a path with this text in it."""
    requests = gateway.mock.get("/mock/requests").json()["requests"]
    return [one for one in requests if one["path"].startswith(path) and text in json.dumps(one)]


def halved(nanodollars: int) -> int:
    """Batch rates are half of the standard ones for these models."""
    return nanodollars // 2


def test_an_openai_batch_is_held_whole_and_settled_from_its_results(gateway: Gateway) -> None:
    """From its creation until its results are fetched it is held; then it costs exactly its answers at batch rates."""
    sdk = gateway.openai(USAGE)
    batch = made(sdk, 5)
    held = gateway.account("per-cost-center")
    assert held["spent"] == 0
    assert held["held"] >= halved(cost(GPT_4O_MINI, output=100))
    assert sdk.batches.retrieve(batch.id).status == "in_progress"

    end(gateway, batch.id)
    ended = sdk.batches.retrieve(batch.id)
    assert ended.output_file_id is not None
    results = sdk.files.content(ended.output_file_id).text.splitlines()
    (entry,) = gateway.resolved(1)

    assert len(results) == 5
    assert entry["charge_nanodollars"] == halved(cost(GPT_4O_MINI, input_uncached=200, output=35))
    assert entry["basis"] == "reported"
    assert (entry["batch"], entry["batch_requests"]) == (batch.id, 5)
    assert gateway.account("per-cost-center")["spent"] == entry["charge_nanodollars"]
    sdk.files.content(ended.output_file_id)
    assert len(gateway.resolved(1)) == 1, "fetching them again charges nothing"


def test_an_anthropic_batch_is_held_whole_and_settled_from_its_results(gateway: Gateway) -> None:
    """Its requests come in the call that makes it."""
    sdk = gateway.anthropic(USAGE)
    batch = sdk.messages.batches.create(requests=messages(4))
    assert gateway.account("per-cost-center")["held"] >= halved(cost(CLAUDE_SONNET_4_6, output=80))

    end(gateway, batch.id)
    assert sdk.messages.batches.retrieve(batch.id).processing_status == "ended"
    answers = list(sdk.messages.batches.results(batch.id))
    (entry,) = gateway.resolved(1)

    assert [answer.result.type for answer in answers] == ["succeeded"] * 4
    assert entry["charge_nanodollars"] == halved(cost(CLAUDE_SONNET_4_6, input_uncached=160, output=28))
    assert entry["batch"] == batch.id


def test_a_cancelled_batch_is_charged_for_what_was_done(gateway: Gateway) -> None:
    """Two of five answered, the rest cancelled: two are charged. None answered: nothing is, without any results."""
    sdk = gateway.anthropic(USAGE)
    batch = sdk.messages.batches.create(requests=messages(5))
    assert sdk.messages.batches.cancel(batch.id).processing_status == "canceling"
    end(gateway, batch.id, answered=2)
    list(sdk.messages.batches.results(batch.id))
    (entry,) = gateway.resolved(1)
    assert entry["charge_nanodollars"] == halved(cost(CLAUDE_SONNET_4_6, input_uncached=80, output=14))

    untouched = made(gateway.openai(USAGE), 5)
    gateway.openai(USAGE).batches.cancel(untouched.id)
    end(gateway, untouched.id, answered=0)
    assert gateway.openai(USAGE).batches.retrieve(untouched.id).status == "cancelled"
    newest, _ = gateway.resolved(2)
    assert (newest["charge_nanodollars"], newest["basis"]) == (0, "released")


def test_failed_requests_of_a_batch_cost_nothing(gateway: Gateway) -> None:
    """The provider bills answers, not errors."""
    sdk = gateway.anthropic(USAGE)
    batch = sdk.messages.batches.create(requests=messages(3))
    end(gateway, batch.id, status=500)
    list(sdk.messages.batches.results(batch.id))

    (entry,) = gateway.resolved(1)
    assert (entry["charge_nanodollars"], entry["basis"]) == (0, "released")


def test_a_file_that_did_not_pass_here_is_refused(gateway: Gateway, running: RunningStack) -> None:
    """What it costs is unknown; the answer says how it becomes known, and the provider sees no batch."""
    direct = openai.OpenAI(base_url=f"{running.mock_url}/v1", api_key="k", max_retries=0)
    file = direct.files.create(file=lines(2), purpose="batch")
    direct.close()

    with pytest.raises(openai.PermissionDeniedError) as refused:
        gateway.openai().batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")

    assert "did not pass this gateway" in str(refused.value)
    assert "purpose=batch" in refused.value.response.text
    assert gateway.account("per-cost-center")["held"] == 0
    assert seen(gateway, "/v1/batches", file.id) == []


def test_nobody_elses_file_and_batch_is_known(gateway: Gateway) -> None:
    """Another user makes no batch of a file, and reads no batch, that is not theirs."""
    sdk = gateway.openai(USAGE)
    gateway.tags["user"] = "ada"
    batch = made(gateway.openai(USAGE), 1)

    with pytest.raises(openai.PermissionDeniedError):
        sdk.batches.create(input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h")
    with pytest.raises(openai.NotFoundError):
        sdk.batches.retrieve(batch.id)
    assert gateway.openai().batches.retrieve(batch.id).id == batch.id


def test_the_cap_holds_under_concurrent_batches(gateway: Gateway) -> None:
    """Of twenty batches at once exactly as many are made as fit; the others are refused and cost nothing."""
    gateway.tags["size"] = "small"
    sdk = gateway.openai(USAGE)
    file = sdk.files.create(file=lines(10), purpose="batch")

    def make(_: int) -> str | None:
        try:
            batch = gateway.openai(USAGE).batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        except openai.RateLimitError:
            return None
        return batch.id

    with ThreadPoolExecutor(10) as pool:
        passed = [batch for batch in pool.map(make, range(20)) if batch is not None]

    account = gateway.account("per-cost-center-small")
    each = account["held"] // len(passed)
    assert account["held"] == each * len(passed) <= account["cap"]
    assert account["held"] + each > account["cap"], "one more would not have fitted"
    assert len(passed) < 20
    assert len(seen(gateway, "/v1/batches", file.id)) == len(passed)


def test_part_of_the_results_settles_nothing(gateway: Gateway) -> None:
    """A range would show fewer answers than were paid for: it is not passed on, and the whole is charged."""
    sdk = gateway.anthropic(USAGE)
    batch = sdk.messages.batches.create(requests=messages(3))
    end(gateway, batch.id)

    gateway.http.get(
        f"/v1/messages/batches/{batch.id}/results", headers={**gateway.headers(), "range": "bytes=0-100"}
    ).raise_for_status()
    (entry,) = gateway.resolved(1)

    assert entry["charge_nanodollars"] == halved(cost(CLAUDE_SONNET_4_6, input_uncached=120, output=21))
    (asked,) = seen(gateway, f"/v1/messages/batches/{batch.id}/results")
    assert "range" not in json.dumps(asked["headers"]).lower()


def test_a_batch_outlives_the_worker_that_admitted_it(gateway: Gateway, running: RunningStack) -> None:
    """Every worker is killed between its creation and its results: others settle it, exactly once."""
    sdk = gateway.anthropic(USAGE, retries=5)
    batch = sdk.messages.batches.create(requests=messages(2))
    before = running.worker_pids
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    end(gateway, batch.id)

    def replaced() -> bool | None:
        now = running.worker_pids
        return True if len(now) == len(before) and not set(now.values()) & set(before.values()) else None

    eventually(replaced, "new workers")
    eventually(lambda: gateway.admin.get("/readyz").json()["ready"] or None, "a stack that is ready again")
    list(sdk.messages.batches.results(batch.id))
    (entry,) = gateway.resolved(1)

    assert entry["charge_nanodollars"] == halved(cost(CLAUDE_SONNET_4_6, input_uncached=80, output=14))


def test_what_cannot_be_held_is_refused_with_the_cure(gateway: Gateway) -> None:
    """Mixed models, endpoints that are not metered, other files, background responses."""
    before = len(seen(gateway, "/v1/"))
    sdk = gateway.openai()
    mixed = lines(1).getvalue() + lines(1, model="gpt-4o").getvalue()
    with pytest.raises(openai.BadRequestError, match=r"line 2\.body\.model: is 'gpt-4o' where the first"):
        sdk.files.create(file=("mixed.jsonl", mixed), purpose="batch")
    other = lines(1).getvalue().replace(b"/v1/chat/completions", b"/v1/images/generations")
    with pytest.raises(openai.BadRequestError, match=r"line 1\.url: .* cannot be metered"):
        sdk.files.create(file=("other.jsonl", other), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="only files of batch requests pass here"):
        sdk.files.create(file=lines(1), purpose="assistants")
    with pytest.raises(openai.BadRequestError, match="background"):
        sdk.responses.create(model="gpt-4o-mini", input="hello", background=True)
    unlimited: Any = {"model": "claude-sonnet-4-6", "messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(anthropic.BadRequestError, match=r"requests\[0\].params.max_tokens"):
        gateway.anthropic().messages.batches.create(requests=[{"custom_id": "a", "params": unlimited}])
    assert len(seen(gateway, "/v1/")) == before
