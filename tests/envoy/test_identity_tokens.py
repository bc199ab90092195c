"""Tokens of identity providers on the real stack: verified by Envoy, charged to whom their claims name."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
import yaml

from ext_proc.identity.keys import KeyHash
from tests.e2e_kit import PATIENCE_SECONDS, POLICIES, chat_body, eventually
from tests.identity_kit import a_key
from tests.stack_fixture import RunningStack, running_stack
from tests.token_kit import Issuer, unsigned

pytestmark = pytest.mark.envoy

CI = a_key("ci")
CLAIMS = {"email": "ada@example.com", "groups": {"main": "search"}, "org_id": "acme", "cc": "search"}


def identities(*issuers: dict[str, Any]) -> str:
    """An identity document that takes tokens of these issuers, and one virtual key."""
    jwt = {"user": "email", "team": "groups.main", "tenant": "org_id", "tags": {"cost_center": "cc"}}
    return yaml.safe_dump(
        {
            "name": "identity",
            "type": "gateway-identity-config",
            "anonymous": "refuse",
            "jwt": {**jwt, "issuers": list(issuers)},
            "keys": [{"id": "ci", "hash": str(KeyHash.plain(CI)), "user": "ci", "tags": {"cost_center": "ci"}}],
            "tenants": [{"id": "acme", "plan": "pro"}],
        }
    )


@dataclass
class Gateway:
    """A stack, an issuer whose keys are in a file, and one that publishes them."""

    stack: RunningStack
    directory: Path
    of_file: Issuer
    published: Issuer
    key_server: str

    @property
    def key_file(self) -> Path:
        return self.directory / "jwks.json"

    def issuers(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Both, as the identity document names them."""
        file = {"issuer": self.of_file.url, "audiences": ["tollgate"], "jwks_file": str(self.key_file)}
        return file, {"issuer": self.published.url, "audiences": ["tollgate"], "jwks_uri": self.key_server}

    def chat(self, *headers: tuple[str, str], **body: Any) -> httpx.Response:
        """One chat completion with these headers."""
        url = f"{self.stack.listen}/v1/chat/completions"
        return httpx.post(url, json=chat_body(**body), headers=list(headers), timeout=PATIENCE_SECONDS)

    def status(self, token: str) -> int:
        return self.chat(("authorization", f"Bearer {token}")).status_code

    def entry(self, answer: httpx.Response) -> dict[str, Any]:
        """The journal entry of an answered request."""
        assert answer.status_code == 200, answer.text
        request_id = answer.headers["x-tollgate-request-id"]

        def look() -> dict[str, Any] | None:
            entries = httpx.get(f"{self.stack.admin}/v1/journal", params={"limit": 1000}).json()["entries"]
            return next((entry for entry in entries if entry["request_id"] == request_id), None)

        return eventually(look, f"the journal entry of {request_id}")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A stack that takes tokens of both issuers."""
    directory = tmp_path_factory.mktemp("tokens")
    published = Issuer("https://published.example.com/")

    class Keys(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = published.key_set().encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            key_server = f"http://127.0.0.1:{server.server_port}/jwks"
            of_file = Issuer("https://file.example.com/")
            unstarted = Gateway(None, directory, of_file, published, key_server)  # type: ignore[arg-type]  # set below
            unstarted.key_file.write_text(of_file.key_set())
            documents = {**POLICIES, "identity.yaml": identities(*unstarted.issuers())}
            with running_stack(directory, documents) as stack:
                unstarted.stack = stack
                yield unstarted
        finally:
            server.shutdown()
            thread.join()


def payer(entry: dict[str, Any]) -> tuple[Any, ...]:
    """Whom the journal charges, and why."""
    caller = entry["caller"]
    return caller["source"], caller["user"], caller["team"], caller["tenant"], entry["tags"]["cost_center"]


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key", "x-goog-api-key"])
@pytest.mark.parametrize("who", ["of_file", "published"])
def test_a_token_is_charged_to_whom_its_claims_name(gateway: Gateway, who: str, header: str) -> None:
    """A good token, of keys in a file and of published ones, in each header that an SDK puts its key in: the claims
    name user, team, tenant and tags, over what the client says; the provider sees nothing of the token.
    """
    issuer: Issuer = getattr(gateway, who)
    token = issuer.token(CLAIMS)
    scheme = "Bearer " if header == "authorization" else ""
    messages = [{"role": "user", "content": f"marker-{who}-{header}"}]
    tags = ("x-tfy-metadata", '{"cost_center": "rival", "tenant_id": "rival"}')
    answer = gateway.chat((header, f"{scheme}{token}"), tags, messages=messages)

    assert payer(gateway.entry(answer)) == ("jwt", "ada@example.com", "search", "acme", "search")
    received = httpx.get(f"{gateway.stack.mock_url}/mock/requests").text
    assert f"marker-{who}-{header}" in received
    assert token.split(".")[1] not in received


def test_the_sdks_take_a_token_for_their_key(gateway: Gateway) -> None:
    """With a token in place of the API key both SDKs are served; with an expired one they raise their own error."""
    token, expired = gateway.of_file.token(CLAIMS), gateway.of_file.token({**CLAIMS, "exp": 1})
    message: list[anthropic.types.MessageParam] = [{"role": "user", "content": "x"}]
    with (
        openai.OpenAI(base_url=f"{gateway.stack.listen}/v1", api_key=token) as ai,
        anthropic.Anthropic(base_url=gateway.stack.listen, api_key=token) as claude,
        openai.OpenAI(base_url=f"{gateway.stack.listen}/v1", api_key=expired) as stale_ai,
        anthropic.Anthropic(base_url=gateway.stack.listen, auth_token=expired) as stale_claude,
    ):
        assert ai.chat.completions.create(**chat_body()).usage
        assert claude.messages.create(model="claude-sonnet-4-6", max_tokens=9, messages=message).content
        with pytest.raises(openai.AuthenticationError, match="token is not accepted"):
            stale_ai.chat.completions.create(**chat_body())
        with pytest.raises(anthropic.AuthenticationError, match="token is not accepted"):
            stale_claude.messages.create(model="claude-sonnet-4-6", max_tokens=9, messages=message)


def test_no_bad_token_comes_in(gateway: Gateway) -> None:
    """Expired, everlasting, for somebody else, by an unknown issuer, forged, unsigned, cut, two of them, or a good one
    beside a bad one in the same header: 401 with the reason, without a word of the token, and nothing is sent on.
    """
    good = gateway.of_file.token(CLAIMS)
    bad = {
        "expired": gateway.of_file.token({**CLAIMS, "exp": 1}),
        "everlasting": gateway.of_file.token({**CLAIMS, "exp": None}),
        "another audience": gateway.of_file.token({**CLAIMS, "aud": "billing"}),
        "no audience": gateway.of_file.token({**CLAIMS, "aud": None}),
        "an unknown issuer": Issuer("https://evil.example.com/").token(CLAIMS),
        "another key": Issuer(gateway.of_file.url).token(CLAIMS),
        "the other issuer's name": gateway.published.token({**CLAIMS, "iss": gateway.of_file.url}, kid="k1"),
        "unsigned": unsigned(good),
        "cut": good[:-4],
        "two": f"{good}, Bearer {gateway.published.token(CLAIMS)}",
        "a bad one behind": f"{good}, Bearer {gateway.of_file.token({**CLAIMS, 'exp': 1})}",
    }
    for kind, token in bad.items():
        answer = gateway.chat(
            ("authorization", f"Bearer {token}"), messages=[{"role": "user", "content": f"bad {kind}"}]
        )
        assert answer.status_code == 401, kind
        body = answer.json()
        assert body["error"]["code"] == "unauthenticated", kind
        assert body["context"]["reason"].startswith("jwt_authn_access_denied"), kind
        assert answer.headers["x-should-retry"] == "false"
        assert token.split(".")[1] not in answer.text, kind
    twice = gateway.chat(("authorization", f"Bearer {good}"), ("authorization", f"Bearer {bad['expired']}"))
    assert twice.status_code == 401
    assert "bad " not in httpx.get(f"{gateway.stack.mock_url}/mock/requests").text


def test_a_token_and_a_key_live_beside_each_other(gateway: Gateway) -> None:
    """Where tokens are taken, virtual keys still are, and who brings neither is refused by admit; a key that stands
    beside a token decides alone.
    """
    assert payer(gateway.entry(gateway.chat(("authorization", f"Bearer {CI}"))))[:2] == ("key", "ci")
    assert gateway.chat().json()["context"] == {"reason": "no_key"}
    assert gateway.chat(("authorization", "Bearer sk-somebodys")).json()["context"] == {"reason": "no_key"}
    both = gateway.chat(("authorization", f"Bearer {gateway.of_file.token(CLAIMS)}"), ("x-api-key", CI))
    assert payer(gateway.entry(both))[:2] == ("key", "ci")


def test_issuers_and_their_keys_change_while_it_runs(gateway: Gateway) -> None:
    """A rotated key in a file, an issuer that is taken out and put back: each is in force soon, without a restart. A
    file that is no key set changes nothing.
    """
    document = gateway.directory / "policies" / "identity.yaml"
    file, published = gateway.issuers()
    old = gateway.of_file.token(CLAIMS)
    assert gateway.status(old) == 200

    gateway.of_file.rotate("k2")
    new = gateway.of_file.token(CLAIMS)
    gateway.key_file.write_text("half a file")
    eventually(lambda: "is no key set" in gateway.stack.stderr() or None, "the complaint about the file")
    assert gateway.status(old) == 200
    gateway.key_file.write_text(gateway.of_file.key_set())
    eventually(lambda: gateway.status(new) == 200 or None, "the new key")
    assert gateway.status(old) == 401

    document.write_text(identities(published))
    eventually(lambda: gateway.status(new) == 401 or None, "the issuer is gone")
    assert gateway.status(gateway.published.token(CLAIMS)) == 200
    document.write_text(identities(file, published))
    eventually(lambda: gateway.status(new) == 200 or None, "the issuer is back")
