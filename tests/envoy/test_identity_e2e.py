"""Virtual keys on the real stack: made and used, and no trick of a client's changes who pays."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from ext_proc.identity.keys import KeyHash
from tests.e2e_kit import PATIENCE_SECONDS, POLICIES, chat_body, eventually
from tests.identity_kit import a_key, identity_document
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

CI, RESTRICTED, OWN = a_key("ci"), a_key("restricted"), a_key("own")
PROVIDER_SECRET = "sk-canary-provider-0123456789"

IDENTITIES = identity_document(
    f"""
keys:
  - {{id: ci, hash: '{KeyHash.plain(CI)}', team: search, virtual_account: ci, tenant: acme,
      tags: {{cost_center: search}}}}
  - {{id: restricted, hash: '{KeyHash.plain(RESTRICTED)}', user: bob, tags: {{cost_center: lab}},
      allowed_paths: [/v1/chat], allowed_models: [gpt-4o-mini]}}
  - {{id: own, hash: '{KeyHash.plain(OWN)}', virtual_account: own, tags: {{cost_center: own}}}}
tenants: [{{id: acme, plan: pro}}, {{id: rival, plan: free}}]
---
name: providers
type: gateway-provider-config
accounts:
  - {{name: openai-main, provider: openai, credential: {{env: TEST_OPENAI_CREDENTIAL}}}}
  - {{name: anthropic-main, provider: anthropic, credential: {{env: TEST_OPENAI_CREDENTIAL}}}}
  - {{name: byok, provider: openai, credential: {{client: true}}}}
---
name: tenants
type: gateway-budget-config
rules:
  - {{id: per-tenant, when: {{}}, limit_to: 100, unit: cost_per_month, budget_applies_per: [tenant],
      on_missing_key: skip}}
"""
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack whose provider accounts have a credential, behind which a mock provider of the test's stands."""
    directory = tmp_path_factory.mktemp("identity")
    command = (sys.executable, "-P", "-m", "ext_proc.cli", "mock-provider", "--listen", "127.0.0.1:0")
    mock = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert mock.stdout is not None
    url = mock.stdout.readline().split()[2].rstrip("/")
    upstreams = [f"--upstream={account}={url}" for account in ("openai-main", "anthropic-main", "byok")]
    try:
        with running_stack(
            directory,
            {**POLICIES, "identity.yaml": IDENTITIES},
            *upstreams,
            environment={"TEST_OPENAI_CREDENTIAL": PROVIDER_SECRET, "MOCK_URL": url},
        ) as stack:
            stack.provider_url = url  # type: ignore[attr-defined]  # where the tests look what the provider got
            yield stack
    finally:
        mock.terminate()
        mock.wait()
        mock.stdout.close()


class Client:
    """Requests, and what came of them at the provider and in the journal."""

    def __init__(self, stack: RunningStack) -> None:
        self.http = httpx.Client(base_url=stack.listen, timeout=PATIENCE_SECONDS)
        self.admin = httpx.Client(base_url=stack.admin, timeout=PATIENCE_SECONDS)
        self.provider = httpx.Client(base_url=stack.provider_url, timeout=PATIENCE_SECONDS)  # type: ignore[attr-defined]

    def chat(self, *headers: tuple[str, str], tags: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """One chat completion with these headers, repeated ones too."""
        more = [("x-tfy-metadata", json.dumps(tags))] if tags is not None else []
        return self.http.post("/v1/chat/completions", json=chat_body(**body), headers=[*headers, *more])

    def entry(self, answer: httpx.Response) -> dict[str, Any]:
        """The journal entry of an answered request."""
        assert answer.status_code == 200, answer.text
        request_id = answer.headers["x-tollgate-request-id"]

        def look() -> dict[str, Any] | None:
            entries = self.admin.get("/v1/journal", params={"limit": 1000}).json()["entries"]
            return next((entry for entry in entries if entry["request_id"] == request_id), None)

        return eventually(look, f"the journal entry of {request_id}")

    def received(self, marker: str) -> dict[str, Any]:
        """What the provider received with this text in it."""

        def look() -> dict[str, Any] | None:
            seen = self.provider.get("/mock/requests").json()["requests"]
            return next((one for one in seen if marker in json.dumps(one)), None)

        return eventually(look, f"a request with {marker} at the provider")


@pytest.fixture
def client(running: RunningStack) -> Iterator[Client]:
    """A client without a key of its own."""
    client = Client(running)
    yield client
    for connection in (client.http, client.admin, client.provider):
        connection.close()


def payer(entry: dict[str, Any]) -> tuple[Any, ...]:
    """Whom the journal charges."""
    caller, tags = entry["caller"], entry["tags"]
    return caller["key"], caller["virtual_account"], caller["tenant"], tags["cost_center"], caller["user"]


PAYER = ("ci", "ci", "acme", "search", None)


@pytest.mark.parametrize(
    ("tricks", "tags"),
    [
        ([], {"cost_center": "rival", "tenant_id": "rival", "user": "eve", "team": "rival"}),
        ([], {"Cost_Center": "rival", "TENANT_ID": "rival", "cost_cеnter": "rival"}),  # a Cyrillic letter in the last
        ([("x-tollgate-tenant", "rival"), ("x-tollgate-cluster", "byok"), ("x-tollgate-key", "own")], {}),
        ([("x-tfy-user", "eve"), ("x-tfy-team", "rival"), ("x-tfy-tenant", "rival")], {}),
        ([("x-request-id", "00000000-0000-4000-8000-000000000000")], {}),
        ([("x-forwarded-client-cert", 'Subject="CN=eve,O=rival";URI=spiffe://rival')], {}),
        ([("x-api-key", CI)], {}),
        ([("cookie", f"key={OWN}"), ("x-virtual-key", OWN), ("proxy-authorization", f"Bearer {OWN}")], {}),
    ],
)
def test_the_key_alone_decides_who_pays(client: Client, tricks: list[tuple[str, str]], tags: dict[str, str]) -> None:
    """Control headers, contradicting tags, other spellings, a chosen request id, other keys in headers that mean
    nothing: the journal charges the key's caller, and the provider sees none of it.
    """
    marker = f"marker-{abs(hash((str(tricks), str(tags))))}"
    messages = [{"role": "user", "content": marker}]
    answer = client.chat(("authorization", f"Bearer {CI}"), *tricks, tags=tags, messages=messages)

    assert payer(client.entry(answer)) == PAYER
    received = client.received(marker)
    assert received["headers"]["authorization"] == f"Bearer {PROVIDER_SECRET}"
    assert CI not in json.dumps(received)
    assert OWN not in json.dumps(received)
    assert not [name for name in received["headers"] if name.startswith(("x-tfy-", "x-tollgate-", "x-forwarded"))]


def test_headers_that_change_nothing_here_are_known_and_go_no_further(client: Client) -> None:
    """`x-tfy-strict-openai` and `x-tfy-mcp-headers` are neither counted as ignored nor seen by the provider, whatever
    stands in them, and the answer is what it would be without.
    """
    secret = "sk-canary-of-a-tool-server-0123456789"
    own = (("x-api-key", OWN), ("x-tfy-unheard-of", "1"))
    for marker, strict, tools in (
        ("marker-plain-none", None, None),
        ("marker-plain-some", "true", json.dumps({"server": {"authorization": f"Bearer {secret}"}})),
        ("marker-plain-odd", "no-such-value", "no JSON at all"),
    ):
        more = [] if strict is None else [("x-tfy-strict-openai", strict), ("X-TFY-MCP-Headers", str(tools))]
        answer = client.chat(*own, *more, messages=[{"role": "user", "content": marker}])

        assert answer.headers["x-tfy-ignored-headers"] == "x-tfy-unheard-of"
        assert set(answer.json()) >= {"id", "object", "choices", "usage"}
        received = client.received(marker)
        assert not [name for name in received["headers"] if name.startswith("x-tfy-")]
        assert secret not in json.dumps(received)
        assert client.entry(answer)["charge_nanodollars"] > 0


def test_a_request_id_that_was_served_before_is_charged_again(client: Client) -> None:
    """A client's `x-request-id` names nothing in the books: the same one twice, and by two callers, is two requests,
    each with an id of ours and a charge of its own.
    """
    reused = ("x-request-id", "00000000-0000-4000-8000-00000000feed")
    keys = (CI, CI, OWN)
    answers = [client.chat(("authorization", f"Bearer {key}"), reused) for key in keys]
    answers.append(client.chat(("authorization", f"Bearer {OWN}"), ("x-tollgate-request-id", "req_mine"), reused))

    entries = [client.entry(answer) for answer in answers]
    assert len({entry["request_id"] for entry in entries}) == len(entries)
    assert reused[1] not in {entry["request_id"] for entry in entries}
    assert [entry["caller"]["key"] for entry in entries] == ["ci", "ci", "own", "own"]
    assert all(entry["charge_nanodollars"] > 0 for entry in entries)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (
            [("authorization", f"Bearer {CI}"), ("authorization", f"Bearer {OWN}")],
            {"conflicting_credentials", "malformed_key"},
        ),
        ([("authorization", f"Bearer {OWN}"), ("x-api-key", CI)], {"conflicting_credentials"}),
        ([("authorization", f"Basic {CI}")], {"malformed_key"}),
        ([("authorization", f"Bearer {CI.upper()}")], {"no_key"}),
        ([("authorization", f"Bearer {a_key('ci', 't')}")], {"unknown_key"}),
        ([("x-api-key", "tg_" + "a" * 8_000)], {"malformed_key"}),
        ([("x-virtual-key", CI)], {"no_key"}),
        ([], {"no_key"}),
    ],
)
def test_who_brings_no_good_key_is_refused(client: Client, headers: list[tuple[str, str]], reason: set[str]) -> None:
    """401 that does not repeat what was sent; nothing is held."""
    answer = client.chat(*headers, tags={"cost_center": "search"})

    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "unauthenticated"
    assert answer.json()["context"]["reason"] in reason
    assert answer.headers["x-should-retry"] == "false"
    assert "tg_ci" not in answer.text


def test_a_header_beyond_all_bounds_is_refused_by_envoy(client: Client) -> None:
    """Headers larger than Envoy takes end there: 431, which a client may not get to read while it still sends."""
    messages = [{"role": "user", "content": "marker-oversized"}]
    with contextlib.suppress(httpx.TransportError):
        oversized = ("x-filler", "a" * 100_000)
        assert client.chat(("x-api-key", OWN), oversized, messages=messages).status_code == 431

    client.entry(client.chat(("x-api-key", OWN), messages=[{"role": "user", "content": "marker-after-it"}]))
    client.received("marker-after-it")
    assert "marker-oversized" not in client.provider.get("/mock/requests").text


def test_a_refusal_speaks_the_dialect_of_its_path(running: RunningStack) -> None:
    """The official SDKs raise their own exception for a wrong key, and for what a key may not use."""
    base = running.listen
    with (
        openai.OpenAI(base_url=f"{base}/v1", api_key="tg_wrong") as wrong_ai,
        pytest.raises(openai.AuthenticationError, match="virtual key"),
    ):
        wrong_ai.chat.completions.create(**chat_body())
    with (
        anthropic.Anthropic(base_url=base, api_key="tg_wrong") as wrong_claude,
        pytest.raises(anthropic.AuthenticationError, match="virtual key"),
    ):
        wrong_claude.messages.create(
            model="claude-sonnet-4-6", max_tokens=5, messages=[{"role": "user", "content": "x"}]
        )
    with openai.OpenAI(base_url=f"{base}/v1", api_key=RESTRICTED) as restricted:
        assert restricted.chat.completions.create(**chat_body()).usage
        with pytest.raises(openai.PermissionDeniedError, match="may not use the model 'gpt-4o'"):
            restricted.chat.completions.create(**chat_body(model="gpt-4o"))
        with pytest.raises(openai.PermissionDeniedError, match="may not use /v1/embeddings"):
            restricted.embeddings.create(model="text-embedding-3-small", input="x")


def test_the_sdks_need_a_base_url_and_a_key_and_nothing_else(running: RunningStack, client: Client) -> None:
    """OpenAI and Anthropic, plain and streamed, with nothing set but where to call and the key: charged to the key."""
    before = client.admin.get("/v1/budgets", params={"rule": "per-tenant"}).json()["accounts"]
    spent = before[0]["spent"] if before else 0
    message: list[anthropic.types.MessageParam] = [{"role": "user", "content": "x"}]
    with openai.OpenAI(base_url=f"{running.listen}/v1", api_key=CI) as ai:
        assert ai.chat.completions.create(**chat_body()).choices[0].message.content
        assert list(ai.chat.completions.create(**chat_body(stream=True)))
    with anthropic.Anthropic(base_url=running.listen, api_key=CI) as claude:
        assert claude.messages.create(model="claude-sonnet-4-6", max_tokens=9, messages=message).content
        with claude.messages.stream(model="claude-sonnet-4-6", max_tokens=9, messages=message) as stream:
            assert stream.get_final_message().usage.output_tokens

    def look() -> bool | None:
        (account,) = client.admin.get("/v1/budgets", params={"rule": "per-tenant"}).json()["accounts"]
        return True if account["held"] == 0 and account["spent"] > spent else None

    eventually(look, "the charges of the tenant")


def test_a_client_may_bring_its_own_provider_key(client: Client) -> None:
    """On an account with `credential: {client: true}` the provider's key passes as it came, the virtual key does not,
    and the request is metered and charged to the virtual key's caller.
    """
    messages = [{"role": "user", "content": "marker-byok"}]
    headers = (("authorization", "Bearer sk-canary-of-the-client"), ("x-api-key", OWN))
    answer = client.chat(*headers, model="byok/gpt-4o-mini", messages=messages)

    entry = client.entry(answer)
    assert payer(entry)[:2] == ("own", "own")
    assert entry["charge_nanodollars"] > 0
    received = client.received("marker-byok")
    assert received["headers"]["authorization"] == "Bearer sk-canary-of-the-client"
    assert OWN not in json.dumps(received)


def test_without_its_own_key_a_client_gets_none_of_ours(client: Client) -> None:
    """Such an account refuses who brings no provider key, and the client's key is not sent to other accounts."""
    refused = client.chat(("x-api-key", OWN), model="byok/gpt-4o-mini")
    assert (refused.status_code, refused.json()["context"]["reason"]) == (401, "no_provider_key")

    messages = [{"role": "user", "content": "marker-not-byok"}]
    client.chat(("authorization", "Bearer sk-canary-of-the-client"), ("x-api-key", OWN), messages=messages)
    assert client.received("marker-not-byok")["headers"]["authorization"] == f"Bearer {PROVIDER_SECRET}"


def test_a_key_made_while_running_is_good_and_ends_when_revoked(client: Client) -> None:
    """Created over the admin API, used by every worker, rotated, revoked: each is in force soon, and journalled."""
    made = client.admin.post("/v1/keys", json={"id": "live", "user": "ada", "tags": {"cost_center": "live"}}).json()
    key = made["key"]
    assert client.admin.post("/v1/keys", json={"id": "live", "user": "eve"}).status_code == 409

    def status(of: str) -> int:
        return client.chat(("authorization", f"Bearer {of}")).status_code

    eventually(lambda: True if [status(key) for _ in range(8)] == [200] * 8 else None, "the key is good everywhere")
    new = client.admin.post("/v1/keys/live/rotate", json={"overlap_seconds": 3600}).json()["key"]
    eventually(lambda: True if [status(new) for _ in range(8)] == [200] * 8 else None, "the new secret is good")
    assert status(key) == 200
    client.admin.post("/v1/keys/live/revoke").raise_for_status()
    eventually(lambda: True if {status(new), status(key)} == {401} else None, "the key is revoked")
    assert client.chat(("x-api-key", new)).json()["context"] == {"reason": "key_revoked"}

    def audited() -> set[str] | None:
        entries = client.admin.get("/v1/audit", params={"limit": 1000}).json()["entries"]
        events = {entry["event"] for entry in entries}
        wanted = {"key_created", "key_rotated", "key_revoked", "authentication_refused"}
        return events if wanted <= events else None

    eventually(audited, "the audit trail")
    assert key not in client.admin.get("/v1/audit").text
    assert "hash" not in client.admin.get("/v1/keys").text
