"""What the identity tests share: keys with known secrets, policy sets as text, callers as the gateway finds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ext_proc.identity.caller import Caller
from ext_proc.identity.identities import NO_RECORDS, Identities, Records
from ext_proc.identity.keys import KeyHash, key_text
from ext_proc.identity.resolve import resolve_caller
from ext_proc.policy.loader import load_files
from ext_proc.policy.snapshot import Snapshot
from ext_proc.policy.yaml_source import SourceFile
from ext_proc.refusal import Refusal

SERVER_SECRET = b"a server secret of the tests"
NOW_US = 1_800_000_000_000_000
HEADER = "x-tfy-metadata"


def a_key(key_id: str, letter: str = "s") -> str:
    """The text of a key whose secret is one letter, 43 times."""
    return key_text(key_id, letter * 43)


def keyed(key: str) -> str:
    """Its hash as a document holds it."""
    return str(KeyHash.keyed(key, SERVER_SECRET))


def policy(text: str) -> Snapshot:
    """A policy set of one file."""
    return load_files([SourceFile("policy.yaml", text.encode())])


def identity_document(text: str) -> str:
    """A gateway-identity-config with these fields."""
    return f"name: identity\ntype: gateway-identity-config\n{text}"


def resolved(
    snapshot: Snapshot,
    *headers: tuple[str, str],
    tags: Mapping[str, str] | None = None,
    records: Records = NO_RECORDS,
    claims: Mapping[str, object] | None = None,
    now_us: int = NOW_US,
) -> Caller | Refusal:
    """Who these headers are, under a policy set and what Redis keeps."""
    pairs = [*headers, *([(HEADER, json.dumps(tags))] if tags is not None else [])]
    identities = Identities.of(snapshot, records, SERVER_SECRET)
    return resolve_caller(pairs, snapshot, identities, now_us=now_us, claims=claims)


def caller(snapshot: Snapshot, *headers: tuple[str, str], **keywords: Any) -> Caller:
    """`resolved`, where the caller comes in."""
    found = resolved(snapshot, *headers, **keywords)
    assert isinstance(found, Caller), found
    return found


def refusal(snapshot: Snapshot, *headers: tuple[str, str], **keywords: Any) -> Refusal:
    """`resolved`, where the caller does not come in."""
    found = resolved(snapshot, *headers, **keywords)
    assert isinstance(found, Refusal), found
    return found
