"""Client certificates on the real stack: verified by Envoy, charged to whom their parts name, and not to be made up."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from ext_proc.identity.keys import KeyHash
from tests.certificate_kit import Authority
from tests.e2e_kit import PATIENCE_SECONDS, POLICIES, chat_body, eventually
from tests.identity_kit import a_key, identity_document
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

CI = a_key("ci")
SPIFFE = "spiffe://example.com/ranker"
IDENTITIES = identity_document(
    f"""
anonymous: refuse
certificates: {{virtual_account: uri, team: ou}}
teams: [{{id: search, tags: {{cost_center: search}}}}]
keys: [{{id: ci, hash: '{KeyHash.plain(CI)}', virtual_account: ci, tags: {{cost_center: ci}}}}]
"""
)
SPOOFED = ("x-forwarded-client-cert", 'By=x;Hash=1;Subject="CN=eve,OU=rival";URI=spiffe://example.com/rival')


@dataclass
class Gateway:
    """A stack that serves over TLS, and the certificates around it."""

    stack: RunningStack
    authority: Authority
    ranker: tuple[Path, Path]
    stranger: tuple[Path, Path]

    def chat(self, *headers: tuple[str, str], certificate: tuple[Path, Path] | None = None) -> httpx.Response:
        """One chat completion, with a client certificate or without."""
        context = ssl.create_default_context(cafile=str(self.authority.file))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        with httpx.Client(verify=context, timeout=PATIENCE_SECONDS) as client:
            tags = ("x-tfy-metadata", '{"cost_center": "rival", "team": "rival"}')
            return client.post(f"{self.stack.listen}/v1/chat/completions", json=chat_body(), headers=[tags, *headers])

    def payer(self, answer: httpx.Response) -> tuple[Any, ...]:
        """Whom the journal charges for an answered request, and why."""
        assert answer.status_code == 200, answer.text
        request_id = answer.headers["x-tollgate-request-id"]

        def look() -> dict[str, Any] | None:
            entries = httpx.get(f"{self.stack.admin}/v1/journal", params={"limit": 1000}).json()["entries"]
            return next((entry for entry in entries if entry["request_id"] == request_id), None)

        entry = eventually(look, f"the journal entry of {request_id}")
        caller = entry["caller"]
        return caller["source"], caller["virtual_account"], caller["team"], entry["tags"]["cost_center"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A stack with a certificate, which accepts those of clients by the same authority."""
    directory = tmp_path_factory.mktemp("certificates")
    authority, other = Authority(directory, "authority"), Authority(directory, "other")
    certificate, key = authority.server()
    ranker = authority.client("ranker", uri=SPIFFE, unit="search")
    stranger = other.client("stranger", uri=SPIFFE, unit="search")
    options = (f"--tls-cert={certificate}", f"--tls-key={key}", f"--client-ca={authority.file}")
    with running_stack(directory, {**POLICIES, "identity.yaml": IDENTITIES}, *options) as stack:
        yield Gateway(stack, authority, ranker, stranger)


def test_a_certificate_is_charged_to_whom_its_parts_name(gateway: Gateway) -> None:
    """URI and unit of a verified certificate name virtual account and team, also where the client claims another one
    in the header; a virtual key beside it decides alone.
    """
    expected = ("certificate", SPIFFE, "search", "search")
    assert gateway.payer(gateway.chat(certificate=gateway.ranker)) == expected
    assert gateway.payer(gateway.chat(SPOOFED, certificate=gateway.ranker)) == expected
    with_key = gateway.chat(("authorization", f"Bearer {CI}"), certificate=gateway.ranker)
    assert gateway.payer(with_key) == ("key", "ci", None, "ci")


def test_without_a_certificate_the_header_is_nothing(gateway: Gateway) -> None:
    """Who only writes the header that Envoy would write is nobody; one who has a key is whom the key names."""
    assert gateway.chat(SPOOFED).json()["context"] == {"reason": "no_key"}
    assert gateway.payer(gateway.chat(SPOOFED, ("x-api-key", CI))) == ("key", "ci", None, "ci")


def test_a_certificate_of_another_authority_does_not_connect(gateway: Gateway) -> None:
    """The handshake fails, and so does a client that speaks no TLS; neither gets an answer of HTTP."""
    with pytest.raises(httpx.TransportError):
        gateway.chat(certificate=gateway.stranger)
    with pytest.raises(httpx.TransportError):
        httpx.get(gateway.stack.listen.replace("https:", "http:"), timeout=PATIENCE_SECONDS)
