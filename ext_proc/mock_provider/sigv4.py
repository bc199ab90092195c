"""AWS Signature Version 4, as the receiving end checks it.

Facts from AWS's signing reference: the canonical request is method, path (its escapes escaped once more, except for
S3), query, signed headers, their names, and the hash of the body; the key is derived from date, region and service.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote

ALGORITHM = "AWS4-HMAC-SHA256"
_AUTHORIZATION = re.compile(
    rf"{ALGORITHM} Credential=(?P<key_id>[^/]+)/(?P<scope>[^,]+), ?"
    r"SignedHeaders=(?P<names>[^,]+), ?Signature=(?P<hex>[0-9a-f]+)"
)
_MUST_BE_SIGNED = "x-amz-"


def signature_problem(
    method: str, raw_path: str, headers: Mapping[str, str], body: bytes, secrets: Mapping[str, str]
) -> str | None:
    """Why a request is not signed by one of these keys (key id → secret); None where it is. Names are lower-case."""
    match = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if match is None:
        return "Missing Authentication Token"
    secret = secrets.get(match["key_id"])
    if secret is None:
        return "The security token included in the request is invalid."
    names = match["names"].split(";")
    unsigned = [name for name in headers if name not in names and (name == "host" or name.startswith(_MUST_BE_SIGNED))]
    if unsigned:
        return f"'{unsigned[0]}' must be a 'SignedHeader' in the AWS Authorization."
    digest = hashlib.sha256(body).hexdigest()
    if headers.get("x-amz-content-sha256", digest) != digest:
        return "The provided 'x-amz-content-sha256' header does not match what was computed."
    canonical = _canonical_request(method, raw_path, {name: headers.get(name, "") for name in names}, digest)
    text = "\n".join((ALGORITHM, headers.get("x-amz-date", ""), match["scope"], _digest(canonical)))
    if not hmac.compare_digest(_sign(_signing_key(secret, match["scope"]), text).hex(), match["hex"]):
        return "The request signature we calculated does not match the signature you provided."
    return None


def _canonical_request(method: str, raw_path: str, signed: Mapping[str, str], body_digest: str) -> str:
    path, _, query = raw_path.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    plain = sorted((quote(key, "-_.~"), quote(value, "-_.~")) for key, value in pairs)
    lines = "".join(f"{name}:{' '.join(value.split())}\n" for name, value in signed.items())
    parts = (method, quote(path, "/-_.~"), "&".join(f"{key}={value}" for key, value in plain), lines)
    return "\n".join((*parts, ";".join(signed), body_digest))


def _signing_key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = _sign(key, part)
    return key


def _sign(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
