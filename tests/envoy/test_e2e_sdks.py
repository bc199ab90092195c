"""Every provider's own SDK through the real stack: it sees what it would see without us, and the books are exact.

Bedrock's client signs its requests for the gateway's address, and the gateway takes that signature off like any client
credential. Signing anew for Bedrock itself is not shown here: the mock provider checks no signature.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.e2e_kit import PATIENCE_SECONDS, POLICIES, Gateway
from tests.mock_process import running_mock
from tests.sdk_talks import TALKS, Talk
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

PROVIDERS = """
name: providers
type: gateway-provider-config
accounts:
  - {name: openai-main, provider: openai}
  - {name: anthropic-main, provider: anthropic}
  - {name: gemini-main, provider: gemini}
  - {name: mistral-main, provider: mistral}
  - {name: cohere-main, provider: cohere, models: [{name: rerank-v3.5, cost: {per_request: 0.002}}]}
  - {name: bedrock-main, provider: bedrock, region: us-east-1, endpoint: "https://bedrock-runtime.us-east-1.amazonaws.com"}
"""


@pytest.fixture(scope="module")
def direct() -> Iterator[str]:
    """A mock provider without a gateway before it; Bedrock's account goes to it too."""
    with running_mock() as url:
        yield url


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, direct: str) -> Iterator[RunningStack]:
    """One stack for the module, with an account at every provider."""
    policies = {**POLICIES, "providers.yaml": PROVIDERS}
    with running_stack(tmp_path_factory.mktemp("sdks"), policies, "--upstream", f"bedrock-main={direct}") as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A client whose cost center is the test's name."""
    gateway = Gateway(running, request.node.name.replace("[", "-").strip("]"))
    yield gateway
    gateway.close()


@pytest.mark.parametrize("talk", TALKS, ids=lambda talk: talk.name)
def test_an_sdk_notices_no_gateway_and_is_charged_exactly(gateway: Gateway, direct: str, talk: Talk) -> None:
    """The same events with and without the gateway, and one charge that is the reported usage times the rates."""
    without = talk.seen(direct, {})
    through = talk.seen(gateway.stack.listen, gateway.headers())

    assert through == without
    (entry,) = gateway.resolved()
    assert entry["charge_nanodollars"] == talk.nanodollars
    assert entry["basis"] == "reported"
    assert entry["served_model"] == talk.model
    assert gateway.account("per-cost-center")["spent"] == talk.nanodollars


OURS = ("x-tfy-", "x-tollgate-", "x-ratelimit-", "x-envoy-")
"""What the gateway adds to an answer, as docs say; `server` and `date` are each hop's own."""

RAW = [
    ("/v1/chat/completions", {"model": "gpt-4o-mini"}),
    ("/v1/messages", {"model": "claude-sonnet-4-6", "max_tokens": 500}),
    ("/v2/chat", {"model": "command-r-08-2024"}),
]


@pytest.mark.parametrize(("path", "body"), RAW, ids=[path for path, _ in RAW])
@pytest.mark.parametrize("stream", [False, True])
def test_the_bytes_are_the_providers_own(
    gateway: Gateway, direct: str, path: str, body: dict[str, object], stream: bool
) -> None:
    """Status, headers and every byte of the body are the provider's, apart from the headers we document."""
    asked = {**body, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    if stream and path == "/v1/chat/completions":
        asked["stream_options"] = {"include_usage": True}
    headers = gateway.headers({"input": 10, "output": 20}) | {"accept-encoding": "identity"}
    content = json.dumps(asked).encode()
    with httpx.Client(timeout=PATIENCE_SECONDS) as http:
        without = http.post(direct + path, content=content, headers=headers)
        through = http.post(gateway.stack.listen + path, content=content, headers=headers)

    assert through.status_code == without.status_code == 200
    assert anonymous(through) == anonymous(without)
    mine, theirs = plain_headers(through), plain_headers(without)
    assert mine.keys() == theirs.keys()
    assert all(mine[name] == theirs[name] for name in mine if "request-id" not in name and "trace-id" not in name)


def test_a_compressed_request_is_refused_and_costs_nothing(gateway: Gateway) -> None:
    """The refusal comes in the dialect, the provider sees nothing, and nothing is held."""
    headers = gateway.headers() | {"content-encoding": "gzip", "content-type": "application/json"}
    answer = gateway.http.post("/v1/messages", content=gzip.compress(b"{}"), headers=headers)

    assert answer.status_code == 415
    assert "gzip" in answer.json()["error"]["message"]
    assert gateway.journal() == []
    assert gateway.account("per-cost-center")["held"] == 0


def test_a_batch_that_cannot_be_held_is_refused_before_its_body_is_sent(gateway: Gateway) -> None:
    """The OpenAI SDK, handing in a batch's file part by part, is told why, and what would open the way."""
    with (
        openai.OpenAI(
            base_url=f"{gateway.stack.listen}/v1", api_key="k", default_headers=gateway.headers(), max_retries=0
        ) as client,
        pytest.raises(openai.PermissionDeniedError, match="neither held nor charged"),
    ):
        client.uploads.create(bytes=10, filename="batch.jsonl", mime_type="application/jsonl", purpose="batch")


def anonymous(answer: httpx.Response) -> bytes:
    """The body without the running number at the end of its id."""
    ids = [word for word in answer.text.replace("_", '"').replace("-", '"').split('"') if len(word) == 24]
    return answer.content.replace(ids[0].encode(), b"<id>")


def plain_headers(answer: httpx.Response) -> dict[str, str]:
    """The headers that the provider sent."""
    hops = {"server", "date", "connection", "transfer-encoding", "content-length"}
    names = [name for name in answer.headers if name not in hops and not name.startswith(OURS)]
    return {name: answer.headers[name] for name in names}
