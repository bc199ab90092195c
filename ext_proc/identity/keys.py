"""The text of a virtual key, and the hashes that are kept of it. Pure.

`tg_<id>_<secret>`: the id names the record and is never secret, so it may show up anywhere; the secret is 43 letters
and digits (256 bits), drawn once, shown once and kept nowhere. What is kept is a hash of the whole text: keyed with the
server secret (`hmac-sha256:`), so that whoever reads Redis or the repository cannot even test a guess; or plain
(`sha256:`), for documents that gateways with different server secrets share. A random secret of this length cannot be
found from either.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import string
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "tg_"
SECRET_CHARS: Final = 43
ALPHABET: Final = string.ascii_letters + string.digits
KEYED: Final = "hmac-sha256"
PLAIN: Final = "sha256"
MAX_ID_CHARS: Final = 64

_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,63})", re.ASCII)
_KEY = re.compile(rf"tg_({_ID.pattern})_[A-Za-z0-9]{{{SECRET_CHARS}}}", re.ASCII)
_FINGERPRINT_OF: Final = b"tollgate server secret"


def is_key_id(text: str) -> bool:
    """1 to 64 letters, digits, `.`, `_` or `-`, the first a letter or digit."""
    return _ID.fullmatch(text) is not None


def key_text(key_id: str, secret: str) -> str:
    """The key a client sends."""
    assert is_key_id(key_id), "the id was checked"
    assert len(secret) == SECRET_CHARS, "a secret has one length"
    return f"{PREFIX}{key_id}_{secret}"


def id_of(text: str) -> str | None:
    """The id that a key names; None for a text that is no key."""
    match = _KEY.fullmatch(text)
    return match[1] if match else None


def holds_key(text: str) -> bool:
    """Whether a key stands anywhere in a text."""
    return PREFIX in text and _KEY.search(text) is not None


@dataclass(frozen=True, slots=True)
class Digests:
    """Both hashes of one key: a check computes both, so that its work does not depend on what is kept."""

    keyed: bytes
    plain: bytes

    @classmethod
    def of(cls, text: str, server_secret: bytes) -> Digests:
        """Hash the whole text of a key."""
        raw = text.encode()
        return cls(hmac.digest(server_secret, raw, "sha256"), hashlib.sha256(raw).digest())


@dataclass(frozen=True, slots=True)
class KeyHash:
    """One kept hash. `until_us`: the secret it is of is valid before this moment only, because it was rotated."""

    kind: str  # KEYED or PLAIN
    digest: bytes
    until_us: int | None = None

    @classmethod
    def parse(cls, text: str, until_us: int | None = None) -> KeyHash:
        """Read `sha256:…` or `hmac-sha256:…`. Raises ValueError for anything else."""
        kind, colon, digits = text.partition(":")
        digest = bytes.fromhex(digits)
        if not colon or kind not in {KEYED, PLAIN} or len(digest) != hashlib.sha256().digest_size:
            raise ValueError("a hash is sha256: or hmac-sha256: and 64 hex digits")
        return cls(kind, digest, until_us)

    @classmethod
    def keyed(cls, text: str, server_secret: bytes) -> KeyHash:
        """The hash that is kept of a new key."""
        return cls(KEYED, Digests.of(text, server_secret).keyed)

    @classmethod
    def plain(cls, text: str) -> KeyHash:
        """The hash that does not depend on a server secret."""
        return cls(PLAIN, hashlib.sha256(text.encode()).digest())

    def fits(self, digests: Digests) -> bool:
        """Whether it is of that key, compared in constant time."""
        return hmac.compare_digest(digests.keyed if self.kind == KEYED else digests.plain, self.digest)

    def __str__(self) -> str:
        return f"{self.kind}:{self.digest.hex()}"


def fingerprint(server_secret: bytes) -> str:
    """Tells one server secret from another without telling anything of it."""
    return hmac.digest(server_secret, _FINGERPRINT_OF, "sha256").hex()[:32]
