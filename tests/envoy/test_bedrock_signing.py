"""Bedrock with AWS credentials: what Envoy signs is what the provider gets, whoever signed before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config

from tests.e2e_kit import PATIENCE_SECONDS, POLICIES
from tests.mock_process import running_mock
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

MODEL = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
FIRST, SECOND = ("AKIDFIRST", "first/canary+of/the/gateway"), ("AKIDSECOND", "second/canary+of/the/gateway")
CLIENT = ("AKIDCLIENT", "the/clients/canary+own")


def accounts(mock: str, file: Path) -> str:
    """One account that signs from the environment, one from a file, one with a bearer key, and chains over them."""
    return f"""
name: providers
type: gateway-provider-config
accounts:
  - {{name: first, provider: bedrock, region: us-east-1, endpoint: '{mock}', credential: {{aws: environment}}}}
  - {{name: second, provider: bedrock, region: eu-west-1, endpoint: '{mock.replace("127.0.0.1", "localhost")}',
      credential: {{aws: file, file: {file}, profile: bedrock}}}}
  - {{name: bearer, provider: bedrock, region: us-east-1, endpoint: '{mock}', credential: {{env: TEST_BEDROCK_BEARER}}}}
---
name: routing
type: gateway-load-balancing-config
rules:
  - id: both
    type: priority-based-routing
    when: {{models: [both]}}
    load_balance_targets:
      - {{target: 'first/{MODEL}', priority: 0, override_params: {{inferenceConfig: {{maxTokens: 77}}}}}}
      - {{target: 'second/{MODEL}', priority: 1}}
  - id: bearer-last
    type: priority-based-routing
    when: {{models: [bearer-last]}}
    load_balance_targets:
      - {{target: 'first/{MODEL}', priority: 0}}
      - {{target: 'bearer/{MODEL}', priority: 1}}
---
name: limits
type: gateway-guardrail-config
rules: [{{id: cap, when: {{}}, max_output_tokens: 4096}}]
"""


@dataclass
class Gateway:
    """A stack in front of a provider that wants every request signed."""

    stack: RunningStack
    mock: str

    def converse(
        self, model: str, *, text: str, account: str | None = None, behavior: object = None
    ) -> Mapping[str, Any]:
        """Talk as a user of boto3 does, with AWS credentials of one's own."""
        client = boto3.client(
            "bedrock-runtime",
            region_name="us-east-1",
            endpoint_url=self.stack.listen,
            aws_access_key_id=CLIENT[0],
            aws_secret_access_key=CLIENT[1],
            aws_session_token="the-clients-canary-session",
            config=Config(retries={"max_attempts": 0}, read_timeout=PATIENCE_SECONDS),
        )

        def add_headers(request: Any, **_: Any) -> None:
            request.headers["x-tfy-metadata"] = json.dumps({"cost_center": "aws"})
            if account is not None:
                request.headers["x-tfy-provider-name"] = account
            if behavior is not None:
                request.headers["x-mock-behavior"] = json.dumps(behavior)

        client.meta.events.register("before-sign.bedrock-runtime", add_headers)
        try:
            message = {"role": "user", "content": [{"text": text}]}
            answer: Mapping[str, Any] = client.converse(modelId=model, messages=[message])
            return answer
        finally:
            client.close()

    def received(self, text: str) -> list[dict[str, Any]]:
        """What the provider got with this text in it, in order."""
        seen: list[dict[str, Any]] = httpx.get(f"{self.mock}/mock/requests").json()["requests"]
        return [one for one in seen if text in json.dumps(one["body"])]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two AWS keys of the gateway's: one in Envoy's environment, one in a file."""
    directory = tmp_path_factory.mktemp("signing")
    (directory / "aws").mkdir()
    file = directory / "aws" / "credentials"
    file.write_text(f"[bedrock]\naws_access_key_id = {SECOND[0]}\naws_secret_access_key = {SECOND[1]}\n")
    keys = [f"--aws-key={key_id}={secret}" for key_id, secret in (FIRST, SECOND)]
    with running_mock(*keys) as mock:
        environment = {
            "AWS_ACCESS_KEY_ID": FIRST[0],
            "AWS_SECRET_ACCESS_KEY": FIRST[1],
            "TEST_BEDROCK_BEARER": "bearer-canary-of-the-gateway",
        }
        documents = {**POLICIES, "providers.yaml": accounts(mock, file)}
        with running_stack(directory, documents, environment=environment) as stack:
            yield Gateway(stack, mock)


def signer(received: dict[str, Any]) -> tuple[str, str]:
    """Key id and region of a request's signature."""
    scope = received["headers"]["authorization"].split("Credential=")[1].split(",")[0]
    key_id, _, region, service, _ = scope.split("/")
    assert service == "bedrock"
    return key_id, region


def assert_nothing_of_the_clients(received: dict[str, Any]) -> None:
    """No key, signature or session of the client, and no header of ours."""
    told = json.dumps(received["headers"])
    assert CLIENT[0] not in told
    assert "the-clients-canary-session" not in told
    assert "x-tollgate-" not in told


@pytest.mark.parametrize(("account", "key"), [("first", (FIRST[0], "us-east-1")), ("second", (SECOND[0], "eu-west-1"))])
def test_a_request_is_signed_anew_for_its_account(gateway: Gateway, account: str, key: tuple[str, str]) -> None:
    """Signed by boto3 with the client's key, its path rewritten by us: the provider verifies the account's own
    signature over what it got, body hash included; the client's key and session do not arrive.
    """
    answer = gateway.converse(MODEL, account=account, text=f"signed for {account}")

    assert answer["usage"]["outputTokens"] > 0
    (received,) = gateway.received(f"signed for {account}")
    assert signer(received) == key
    assert received["headers"]["x-amz-content-sha256"] == received["body_sha256"]
    assert_nothing_of_the_clients(received)


def test_every_attempt_is_signed_by_its_own_account(gateway: Gateway) -> None:
    """A chain over two signed accounts: the first attempt, with parameters that its rule overrides, and the second
    each carry their own account's valid signature.
    """
    failing = {"status": 503}
    with pytest.raises(Exception, match="503"):
        gateway.converse("both", text="two attempts", behavior=failing)

    attempts = gateway.received("two attempts")
    assert [signer(one) for one in attempts] == [(FIRST[0], "us-east-1"), (SECOND[0], "eu-west-1")]
    assert attempts[0]["body"]["inferenceConfig"] == {"maxTokens": 77}
    assert attempts[1]["body"].get("inferenceConfig") != {"maxTokens": 77}
    for one in attempts:
        assert one["headers"]["x-amz-content-sha256"] == one["body_sha256"]
        assert_nothing_of_the_clients(one)
    assert gateway.converse("both", text="one attempt")["usage"]["outputTokens"] > 0


def test_a_bearer_account_after_a_signed_one_gets_no_signature(gateway: Gateway) -> None:
    """What the signed attempt before has left is gone: one credential, the account's own."""
    with pytest.raises(Exception, match="503"):
        gateway.converse("bearer-last", text="bearer last", behavior={"status": 503})

    first, last = gateway.received("bearer last")
    assert signer(first) == (FIRST[0], "us-east-1")
    assert last["headers"]["authorization"] == "Bearer bearer-canary-of-the-gateway"
    assert not [name for name in last["headers"] if name.startswith(("x-amz-", "x-tollgate-"))]


def test_a_large_body_is_signed_whole(gateway: Gateway) -> None:
    """Three megabytes, more than Envoy keeps of a connection: hashed to the last byte."""
    text = "large " + "a" * 3_000_000
    assert gateway.converse(MODEL, account="first", text=text)["usage"]["outputTokens"] > 0
