"""Everybody the gateway knows, as one immutable value: asked once per request.

Records come from the policy set (`gateway-identity-config`) and from Redis. Where both have an id the policy set wins,
because people review it; but a key that Redis says is revoked is revoked, wherever it is written: an emergency does not
wait for a deployment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from ext_proc.identity.keys import KEYED, Digests, KeyHash, id_of
from ext_proc.identity.records import KeyRecord, TeamRecord, TenantRecord, instant_us
from ext_proc.policy.documents.identity import (
    Anonymous,
    CertificateParts,
    IdentityDocument,
    JwtClaims,
    Team,
    Tenant,
    VirtualKey,
)
from ext_proc.policy.snapshot import Snapshot

_NOBODYS: Final = (KeyHash(KEYED, bytes(32)),)
"""What a key is compared with where no record has its id: a wrong id costs what a wrong secret costs."""


class Wrong(StrEnum):
    """Why a presented key is not accepted."""

    MALFORMED = "malformed_key"
    UNKNOWN = "unknown_key"  # no such id, or not its secret: which of the two is not told
    REVOKED = "key_revoked"
    EXPIRED = "key_expired"
    NOT_YET = "key_not_valid_yet"


@dataclass(frozen=True, slots=True)
class Records:
    """What Redis keeps. `known` False: it has not been read yet, so nobody can say who exists."""

    keys: Mapping[str, KeyRecord] = field(default_factory=dict, repr=False)
    teams: Mapping[str, TeamRecord] = field(default_factory=dict)
    tenants: Mapping[str, TenantRecord] = field(default_factory=dict)
    known: bool = True
    had_keys: bool = False  # this process has seen keys, even if Redis has lost them since


NO_RECORDS: Final = Records()


@dataclass(frozen=True, slots=True)
class Identities:
    """Keys, teams and tenants, and what holds for callers without one."""

    keys: Mapping[str, KeyRecord] = field(default_factory=dict, repr=False)
    teams: Mapping[str, TeamRecord] = field(default_factory=dict)
    tenants: Mapping[str, TenantRecord] = field(default_factory=dict)
    default_plan: str | None = None
    require_team: bool = False
    anonymous: Anonymous = Anonymous.ALLOW
    jwt: JwtClaims | None = None
    certificates: CertificateParts | None = None
    complete: bool = True  # False: Redis has not been read yet, and the policy set alone does not settle it
    server_secret: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, snapshot: Snapshot, records: Records = NO_RECORDS, server_secret: bytes = b"") -> Identities:
        """The identities of a policy set and of what Redis keeps."""
        documents = snapshot.documents_of(IdentityDocument)
        written = {key.id: _key(key) for document in documents for key in document.keys}
        keys = {**records.keys, **{name: _with_revocation(key, records) for name, key in written.items()}}
        asked = [document.anonymous for document in documents if document.anonymous is not None]
        if asked:
            anonymous = Anonymous.REFUSE if Anonymous.REFUSE in asked else Anonymous.ALLOW
        else:
            anonymous = Anonymous.REFUSE if keys or records.had_keys else Anonymous.ALLOW
        return cls(
            keys=MappingProxyType(keys),
            teams={**records.teams, **{team.id: _team(team) for document in documents for team in document.teams}},
            tenants={**records.tenants, **{one.id: _tenant(one) for document in documents for one in document.tenants}},
            default_plan=next((d.default_plan for d in documents if d.default_plan is not None), None),
            require_team=any(document.require_team for document in documents),
            anonymous=anonymous,
            jwt=jwt_of(snapshot),
            certificates=next((d.certificates for d in documents if d.certificates is not None), None),
            complete=records.known or bool(asked),
            server_secret=server_secret,
        )

    def verify(self, key: str, now_us: int) -> KeyRecord | Wrong:
        """Whose key this is. The work is the same however much of a wrong key is right."""
        key_id = id_of(key)
        if key_id is None:
            return Wrong.MALFORMED
        digests = Digests.of(key, self.server_secret)
        record = self.keys.get(key_id)
        right = False
        for kept in record.hashes if record is not None else _NOBODYS:
            right |= kept.fits(digests) and (kept.until_us is None or now_us < kept.until_us)
        if record is None or not right:
            return Wrong.UNKNOWN
        if record.revoked_us is not None:
            return Wrong.REVOKED
        if record.expires_us is not None and now_us >= record.expires_us:
            return Wrong.EXPIRED
        if record.not_before_us is not None and now_us < record.not_before_us:
            return Wrong.NOT_YET
        return record

    def plan_of(self, tenant: str | None) -> str | None:
        """The plan of a tenant: an unknown one has the default plan, no tenant has none."""
        if tenant is None:
            return None
        record = self.tenants.get(tenant)
        return self.default_plan if record is None or record.plan is None else record.plan


def jwt_of(snapshot: Snapshot) -> JwtClaims | None:
    """Whose tokens are accepted, and what their claims mean: the first that a policy set writes."""
    return next((one.jwt for one in snapshot.documents_of(IdentityDocument) if one.jwt is not None), None)


def _with_revocation(key: KeyRecord, records: Records) -> KeyRecord:
    kept = records.keys.get(key.id)
    return key if kept is None or kept.revoked_us is None else replace(key, revoked_us=kept.revoked_us)


def _key(key: VirtualKey) -> KeyRecord:
    return KeyRecord(
        id=key.id,
        hashes=(KeyHash.parse(key.hash),),
        user=key.user,
        team=key.team,
        virtual_account=key.virtual_account,
        tenant=key.tenant,
        tags=key.tags,
        allowed_models=key.allowed_models,
        allowed_paths=key.allowed_paths,
        environment=key.environment,
        not_before_us=None if key.not_before is None else instant_us(key.not_before),
        expires_us=None if key.expires is None else instant_us(key.expires),
        speaks_for_tenants=key.speaks_for_tenants,
    )


def _team(team: Team) -> TeamRecord:
    return TeamRecord(team.id, team.owner, team.tags, team.allowed_models, team.allowed_paths)


def _tenant(tenant: Tenant) -> TenantRecord:
    return TenantRecord(tenant.id, tenant.plan, tenant.owner, tenant.tags)
