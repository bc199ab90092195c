"""Tokens as an identity provider signs them: ES256, with keys of the test's own."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

_COORDINATE_BYTES = 32
_HOUR_SECONDS = 3600


class Issuer:
    """One issuer and its newest key. Its tokens are for the audience `tollgate` unless a test says otherwise."""

    def __init__(self, url: str, key_id: str = "k1") -> None:
        self.url = url
        self.rotate(key_id)

    def rotate(self, key_id: str) -> None:
        """Sign with a new key from now on."""
        self.key_id = key_id
        self._key = ec.generate_private_key(ec.SECP256R1())

    def key_set(self) -> str:
        """The public key, as JWKS."""
        numbers = self._key.public_key().public_numbers()
        key = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.key_id}
        key |= {name: _text(_coordinate(value)) for name, value in (("x", numbers.x), ("y", numbers.y))}
        return json.dumps({"keys": [key]})

    def token(self, claims: Mapping[str, Any] | None = None, **header: Any) -> str:
        """A token that is good for an hour, with these claims over the usual ones. None leaves a claim out."""
        usual = {"iss": self.url, "aud": "tollgate", "exp": int(time.time()) + _HOUR_SECONDS}
        payload = {name: value for name, value in {**usual, **(claims or {})}.items() if value is not None}
        signed = f"{_part({'alg': 'ES256', 'kid': self.key_id, **header})}.{_part(payload)}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_text(_coordinate(r) + _coordinate(s))}"


def unsigned(token: str) -> str:
    """The same claims under `alg: none`, without a signature."""
    return f"{_part({'alg': 'none'})}.{token.split('.')[1]}."


def _coordinate(number: int) -> bytes:
    return number.to_bytes(_COORDINATE_BYTES, "big")


def _part(document: Mapping[str, Any]) -> str:
    return _text(json.dumps(document).encode())


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
