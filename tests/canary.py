"""Planted secrets, and the search for them in what a stack has written.

Every secret that a test gives to a stack holds `canary-` or `canary+`, or looks like what it is: a virtual key, a
token, a private key. None of it may stand in a file of the stack or in what it shows of itself, whatever a test is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

CLIENT_KEY = "sk-canary-of-the-client-0123456789"
"""The provider key that a client brings where a test needs none in particular."""

ENVIRONMENT: Mapping[str, str] = {"UNUSED_PROVIDER_KEY": "canary-of-the-environment-0123456789"}
"""What every stack has in its environment: whoever dumps that, dumps it."""

SECRETS = re.compile(
    rb"canary[-+]"  # what Envoy calls a canary has neither
    rb"|tg_[A-Za-z0-9._-]{1,64}_[A-Za-z0-9_-]{43}"  # a whole virtual key
    rb"|\bey[A-Za-z0-9_-]{10,}\.ey[A-Za-z0-9_-]{10,}\."  # a signed token
    rb"|PRIVATE KEY-----"
)

_SHOWN_BYTES = 12  # enough to know which one it is


def leaks(places: Mapping[str, bytes]) -> list[str]:
    """Where a secret stands: the place, and how the secret begins."""
    return [
        f"{place}: {match[0][:_SHOWN_BYTES].decode('utf-8', 'replace')}…"
        for place, content in places.items()
        for match in [SECRETS.search(content)]
        if match is not None
    ]


def written(*roots: Path) -> dict[str, bytes]:
    """Every file at or below these paths."""
    return {str(path): path.read_bytes() for root in roots for path in _files(root)}


def _files(root: Path) -> Iterator[Path]:
    found = root.rglob("*") if root.is_dir() else (root,)
    return (path for path in found if path.is_file())
