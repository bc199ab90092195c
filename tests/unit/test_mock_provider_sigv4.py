"""The mock provider's check of AWS signatures, held against botocore, which makes them."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from ext_proc.mock_provider.sigv4 import signature_problem

SECRETS = {"AKID": "secret/with+signs"}
BODY = b'{"messages": []}'


def signed(path: str, *, key_id: str = "AKID", secret: str = "secret/with+signs", token: str | None = None) -> Any:
    """A request that botocore has signed; its headers in lower case."""
    url = f"https://bedrock-runtime.us-east-1.amazonaws.com{path}"
    request = AWSRequest("POST", url, headers={"content-type": "application/json", "x-other": "a  b "}, data=BODY)
    SigV4Auth(Credentials(key_id, secret, token), "bedrock", "us-east-1").add_auth(request)
    headers = {name.lower(): value for name, value in request.headers.items()}
    return {"host": "bedrock-runtime.us-east-1.amazonaws.com", **headers}


@pytest.mark.parametrize("path", ["/model/a/converse", "/model/a.b-v1%3A0/converse", "/model/a:0/converse?b=2&a=%2F&c"])
@pytest.mark.parametrize("token", [None, "session"])
def test_what_botocore_signs_is_signed(path: str, token: str | None) -> None:
    """Plain, escaped and unescaped paths, a query, a session: the signature is right."""
    assert signature_problem("POST", path, signed(path, token=token), BODY, SECRETS) is None


def test_whatever_is_changed_afterwards_is_noticed() -> None:
    """Another path, body, method, signed header, host, key or secret, and a header that had to be signed: refused."""
    path = "/model/a/converse"
    good = signed(path)
    assert signature_problem("POST", "/model/b/converse", good, BODY, SECRETS)
    assert signature_problem("POST", path, good, BODY + b" ", SECRETS)
    assert signature_problem("PUT", path, good, BODY, SECRETS)
    assert signature_problem("POST", path, {**good, "content-type": "text/plain"}, BODY, SECRETS)
    assert signature_problem("POST", path, {**good, "host": "elsewhere"}, BODY, SECRETS)
    assert signature_problem("POST", path, {**good, "x-amz-security-token": "added"}, BODY, SECRETS)
    assert signature_problem("POST", path, {**good, "x-amz-content-sha256": "0" * 64}, BODY, SECRETS)
    assert signature_problem("POST", path, signed(path, key_id="OTHER"), BODY, SECRETS)
    assert signature_problem("POST", path, signed(path, secret="wrong"), BODY, SECRETS)
    assert signature_problem("POST", path, {"authorization": "Bearer x"}, BODY, SECRETS)
