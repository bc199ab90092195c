"""Who calls: `gateway-identity-config`. Virtual keys, teams, tenants, and what a caller without a key is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Literal
from urllib.parse import urlsplit

from ext_proc.identity.keys import is_key_id
from ext_proc.identity.tags import tag_problem
from ext_proc.policy.documents.common import unique
from ext_proc.policy.fields import Located, Problem, optional, required
from ext_proc.policy.scalars import shown

_HASH = re.compile(r"(sha256|hmac-sha256):[0-9a-f]{64}")
CERTIFICATE_PARTS = ("uri", "dns", "subject", "cn", "ou", "o", "hash")
"""What Envoy tells of a client certificate, and the usual parts of its subject."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Anonymous(StrEnum):
    """What happens to a caller without a key."""

    ALLOW = "allow"
    REFUSE = "refuse"


def parse_instant(text: str) -> datetime | None:
    """An RFC 3339 time, or a day as its midnight UTC; None where a text is neither."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualKey(Located):
    """A key the gateway gives out. Only its hash is written here."""

    id: str = required("Names the key and stands in its text; it is never secret.", example="ci-search-2026")
    hash: str = required(
        "`hmac-sha256:` or `sha256:` and 64 hex digits, as `tollgate keys hash` prints it.", example="hmac-sha256:…"
    )
    user: str | None = optional("Whose it is: a user.", example="alice@example.com")
    team: str | None = optional("Whose it is: a team.", example="search")
    virtual_account: str | None = optional("Whose it is: a virtual account.", example="ci")
    tenant: str | None = optional("The tenant it acts for.", example="acme")
    tags: Mapping[str, str] = optional(
        "Tags of every request made with it.", factory=lambda: _NOTHING, example="{cost_center: search}"
    )
    allowed_models: tuple[str, ...] | None = optional("Models it may use; all by default.", example="[chat]")
    allowed_paths: tuple[str, ...] | None = optional("Paths it may use; all by default.", example="[/v1/messages]")
    environment: str | None = optional("The environment it belongs to: the tag `environment`.", example="production")
    not_before: str | None = optional("From when it is valid.", example="2026-01-01T00:00:00Z")
    expires: str | None = optional("Until when it is valid.", example="2027-01-01T00:00:00Z")
    speaks_for_tenants: bool = optional(
        "Whether the tag `tenant_id` selects the tenant.", default=False, example="true"
    )

    def problems(self) -> Iterator[Problem]:
        """A hash, not a key; times that can be read; tags a client could send."""
        if not is_key_id(self.id):
            yield ("id", f"{shown(self.id)} cannot stand in a key", "write 1 to 64 letters, digits, '.', '_' or '-'")
        if not _HASH.fullmatch(self.hash):
            yield ("hash", "is no hash", "write sha256: or hmac-sha256: and 64 hex digits; never the key itself")
        for name in ("not_before", "expires"):
            written = getattr(self, name)
            if written is not None and parse_instant(written) is None:
                yield (name, f"{shown(written)} is no time", "write 2026-01-01T00:00:00Z")
        if not (self.user or self.team or self.virtual_account or self.tenant):
            yield ("", "belongs to nobody", "add user, team, virtual_account or tenant")
        yield from _tag_problems(self.tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Team(Located):
    """A team."""

    id: str = required("Names the team.", example="search")
    owner: str | None = optional("Who answers for it.", example="lead@example.com")
    tags: Mapping[str, str] = optional(
        "Tags of every request of its keys.", factory=lambda: _NOTHING, example="{cost_center: search}"
    )
    allowed_models: tuple[str, ...] | None = optional("Models its keys may use; all by default.", example="[chat]")
    allowed_paths: tuple[str, ...] | None = optional(
        "Paths its keys may use; all by default.", example="[/v1/messages]"
    )

    def problems(self) -> Iterator[Problem]:
        """Tags a client could send."""
        yield from _tag_problems(self.tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant(Located):
    """A customer of a platform that is built on the gateway."""

    id: str = required("Names the tenant.", example="acme")
    plan: str | None = optional("What it pays for: caps and downgrades may depend on it.", example="pro")
    owner: str | None = optional("Who answers for it.", example="accounts@example.com")
    tags: Mapping[str, str] = optional(
        "Tags of every request for it.", factory=lambda: _NOTHING, example="{region: eu}"
    )

    def problems(self) -> Iterator[Problem]:
        """Tags a client could send."""
        yield from _tag_problems(self.tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIssuer(Located):
    """Whose tokens are accepted: Envoy verifies them."""

    issuer: str = required("Claim `iss` of its tokens.", example="https://login.example.com/")
    audiences: tuple[str, ...] = required("A token must be for one of these: claim `aud`.", example="[tollgate]")
    jwks_uri: str | None = optional(
        "Where it publishes its keys.", example="https://login.example.com/.well-known/jwks.json"
    )
    jwks_file: str | None = optional(
        "A mounted file with its keys, read again when it changes.", example="/etc/tollgate/jwks.json"
    )

    def problems(self) -> Iterator[Problem]:
        """Keys in one place; tokens for us, and not for whomever the issuer knows."""
        if (self.jwks_uri is None) == (self.jwks_file is None):
            yield ("", "names no single place of the issuer's keys", "write either jwks_uri or jwks_file")
        if self.jwks_uri is not None and not _is_url(self.jwks_uri):
            yield ("jwks_uri", f"{shown(self.jwks_uri)} is no URL", "write https://host/path")
        if not self.issuer:
            yield ("issuer", "is empty", "write the claim `iss` of its tokens")
        if not self.audiences:
            yield ("audiences", "is empty, so that tokens for any service would do", "name at least one audience")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtClaims(Located):
    """Whose tokens are accepted, and which of their claims say who calls."""

    user: str | None = optional("Claim.", example="email")
    team: str | None = optional("Claim.", example="team")
    virtual_account: str | None = optional("Claim.", example="azp")
    tenant: str | None = optional("Claim.", example="org_id")
    tags: Mapping[str, str] = optional("Tag → claim.", factory=lambda: _NOTHING, example="{cost_center: cc}")
    issuers: tuple[TokenIssuer, ...] = optional(
        "Whose tokens Envoy verifies; none where an Envoy of your own does.",
        default=(),
        max_items=20,
        example="[{issuer: 'https://login.example.com/', audiences: [tollgate], jwks_file: /etc/tollgate/jwks.json}]",
    )

    def problems(self) -> Iterator[Problem]:
        """Issuers are distinct."""
        yield from unique(self.issuers, "issuer")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateParts(Located):
    """Which part of a verified client certificate says who calls."""

    user: str | None = optional("Part.", one_of=CERTIFICATE_PARTS, example="cn")
    team: str | None = optional("Part.", one_of=CERTIFICATE_PARTS, example="ou")
    virtual_account: str | None = optional("Part.", one_of=CERTIFICATE_PARTS, example="uri")
    tenant: str | None = optional("Part.", one_of=CERTIFICATE_PARTS, example="o")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityDocument(Located):
    """Keys, teams and tenants."""

    name: str = required("Names the document.", example="identity")
    type: Literal["gateway-identity-config"] = required("The kind of document.", example="gateway-identity-config")
    keys: tuple[VirtualKey, ...] = optional("Virtual keys.", default=(), example="[]")
    teams: tuple[Team, ...] = optional("Teams.", default=(), example="[{id: search, owner: lead@example.com}]")
    tenants: tuple[Tenant, ...] = optional("Tenants.", default=(), example="[{id: acme, plan: pro}]")
    default_plan: str | None = optional("The plan of a tenant that is not listed.", example="free")
    require_team: bool = optional("Whether a caller without a team is refused.", default=False, example="true")
    jwt: JwtClaims | None = optional("How claims map to callers.", example="{user: email, tenant: org_id}")
    certificates: CertificateParts | None = optional(
        "How client certificates map to callers.", example="{virtual_account: uri}"
    )
    anonymous: Anonymous | None = optional(
        "A caller without a key; allowed until keys exist, unless written.", example="refuse"
    )

    def problems(self) -> Iterator[Problem]:
        """Ids are unique."""
        yield from unique(self.keys)
        yield from unique(self.teams)
        yield from unique(self.tenants)


def _tag_problems(tags: Mapping[str, str]) -> Iterator[Problem]:
    for key, value in tags.items():
        problem = tag_problem(key, value)
        if problem:
            yield (f"tags.{key}", problem, "write a tag that a client could send")
