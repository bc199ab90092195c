"""What a verified token or client certificate says of its holder: claims and certificate parts → fields. Pure.

Envoy verifies both. The claims of a token arrive in dynamic metadata, which no client can write; the certificate
arrives in `x-forwarded-client-cert`, which Envoy removes from what clients send unless it is told to trust them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from ext_proc.identity.tags import MAX_TAGS, tag_problem
from ext_proc.policy.documents.identity import CertificateParts, JwtClaims

CERTIFICATE_HEADER: Final = "x-forwarded-client-cert"

_ESCAPED = re.compile(r"\\(.)")
_PAIR = re.compile(r'([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^";,]*)')
_NAME_PART = re.compile(r"(?:^|[,/+])\s*([A-Za-z.0-9]+)\s*=\s*((?:\\.|[^,/+\\])*)")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who a verified token or certificate speaks for."""

    user: str | None = None
    team: str | None = None
    virtual_account: str | None = None
    tenant: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_somebody(self) -> bool:
        """Whether it says anything of who calls."""
        return bool(self.user or self.team or self.virtual_account or self.tenant)


def holder_of_claims(claims: Mapping[str, object], mapping: JwtClaims) -> Holder:
    """Who a token speaks for. A claim that is no text or number, or too long for a tag, says nothing."""
    tags = {tag: value for tag, claim in mapping.tags.items() if (value := _claim(claims, claim)) is not None}
    return Holder(
        user=_claim(claims, mapping.user),
        team=_claim(claims, mapping.team),
        virtual_account=_claim(claims, mapping.virtual_account),
        tenant=_claim(claims, mapping.tenant),
        tags=dict(list(tags.items())[:MAX_TAGS]),
    )


def holder_of_certificate(header: str, mapping: CertificateParts) -> Holder:
    """Who the client's certificate speaks for. Of several elements the last counts: the one our own Envoy appended."""
    parts = dict(_parts(_last_element(header)))
    return Holder(
        user=_bounded(parts.get(mapping.user or "")),
        team=_bounded(parts.get(mapping.team or "")),
        virtual_account=_bounded(parts.get(mapping.virtual_account or "")),
        tenant=_bounded(parts.get(mapping.tenant or "")),
    )


def _claim(claims: Mapping[str, object], name: str | None) -> str | None:
    """A claim by its name; a dotted name that no claim has leads into nested ones."""
    if name is None:
        return None
    found: object = claims.get(name)
    if found is None and "." in name:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, bool):
        return None
    if isinstance(found, float) and found.is_integer():
        found = int(found)  # numbers in metadata are doubles
    return _bounded(str(found)) if isinstance(found, str | int) else None


def _bounded(value: str | None) -> str | None:
    """A value that can be a name: what is longer could be cut to somebody else's."""
    return value if value and tag_problem("name", value) is None else None


def _last_element(header: str) -> str:
    """Elements stand between commas, but a quoted value may hold some too."""
    start, quoted, escaped = 0, False, False
    for index, char in enumerate(header):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = quoted
        elif char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            start = index + 1
    return header[start:]


def _parts(element: str) -> Iterator[tuple[str, str]]:
    """(part, value): `uri`, `dns` and `hash` as they stand, the first of each; `subject` and its own parts `cn`, …"""
    seen: set[str] = set()
    for match in _PAIR.finditer(element):
        name, raw = match[1].lower(), match[2]
        value = _ESCAPED.sub(r"\1", raw[1:-1]) if raw.startswith('"') else raw
        if name in seen or name not in {"uri", "dns", "hash", "subject"}:
            continue
        seen.add(name)
        yield name, value
        if name == "subject":
            for part in _NAME_PART.finditer(value):
                key = part[1].lower()
                if key in {"cn", "o", "ou"} and key not in seen:
                    seen.add(key)
                    yield key, _ESCAPED.sub(r"\1", part[2]).strip()
