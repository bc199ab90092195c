"""Headers, records and policy → who a request is charged to, or why it is refused.

The strongest source that is present decides alone; sources are never mixed:

1. a virtual key,
2. the claims of a token that Envoy has verified (where the policy set maps claims),
3. the client certificate that Envoy has verified (where the policy set maps its parts),
4. nobody: the tag `user`, unverified.

Team, virtual account, tenant and plan come from the first three only. Tags, low to high: the header, then
`gateway-metadata-config`, then the records of tenant, team and key. Where it is known who calls, the tags `user` and
`tenant_id` say so too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ext_proc.identity import access
from ext_proc.identity.caller import Caller, Grant, Source
from ext_proc.identity.claims import CERTIFICATE_HEADER, Holder, holder_of_certificate, holder_of_claims
from ext_proc.identity.identities import Identities, Wrong
from ext_proc.identity.presented import Presented, presented
from ext_proc.identity.records import KeyRecord
from ext_proc.identity.tags import parse_tags
from ext_proc.policy.documents.identity import Anonymous
from ext_proc.policy.snapshot import Snapshot
from ext_proc.refusal import Refusal

USER_TAG = "user"
TENANT_TAG = "tenant_id"
ENVIRONMENT_TAG = "environment"

NO_IDENTITIES = Identities()


def resolve_caller(
    headers: Iterable[tuple[str, str]],
    snapshot: Snapshot,
    identities: Identities = NO_IDENTITIES,
    *,
    now_us: int = 0,
    claims: Mapping[str, object] | None = None,
) -> Caller | Refusal:
    """The caller of a request, or the refusal of one who may not come in.

    `headers` are pairs with lower-case names, repeated where they are repeated on the wire; `claims` those of a token
    that Envoy has verified. Raises MetadataError for a tag header that cannot be accepted.
    """
    pairs = tuple(headers)
    brought = presented(pairs)
    who: KeyRecord | tuple[Source, Holder] | Refusal | None
    if brought.keys:
        who = _holder_of_key(brought, snapshot, identities, now_us)
    else:
        who = _without_key(pairs, identities, claims)
    if isinstance(who, Refusal):
        return who
    header = snapshot.settings.metadata_header
    sent = parse_tags(header, [value for name, value in pairs if name == header])
    caller = _anonymous(sent, snapshot) if who is None else _known(who, sent, snapshot, identities)
    return access.no_team() if identities.require_team and caller.team is None else caller


def _holder_of_key(brought: Presented, snapshot: Snapshot, identities: Identities, now_us: int) -> KeyRecord | Refusal:
    if len(brought.keys) > 1 or (brought.others and not _takes_client_keys(snapshot)):
        return access.conflicting_credentials()
    key = identities.verify(brought.keys[0], now_us)
    if isinstance(key, Wrong):
        unknown_yet = key is Wrong.UNKNOWN and not identities.complete
        return access.identities_unknown() if unknown_yet else access.wrong_key(key)
    return key


def _without_key(
    headers: tuple[tuple[str, str], ...], identities: Identities, claims: Mapping[str, object] | None
) -> tuple[Source, Holder] | Refusal | None:
    """The strongest of the other sources; None for nobody, where nobody may come in."""
    if claims and identities.jwt is not None:
        holder = holder_of_claims(claims, identities.jwt)
        if holder.is_somebody:
            return Source.JWT, holder
    if identities.certificates is not None:
        lines = [value for name, value in headers if name == CERTIFICATE_HEADER]
        holder = holder_of_certificate(lines[-1], identities.certificates) if lines else Holder()
        if holder.is_somebody:
            return Source.CERTIFICATE, holder
    if identities.anonymous is Anonymous.REFUSE:
        return access.no_key()
    return None if identities.complete else access.identities_unknown()


def _takes_client_keys(snapshot: Snapshot) -> bool:
    """Whether some account is used with the client's own provider key, which then comes beside the virtual one."""
    return any(account.client_credential for account in snapshot.accounts.values())


def _anonymous(sent: dict[str, str], snapshot: Snapshot) -> Caller:
    """A caller is who the tag `user` says: a tag such as `tenant_id` stays a tag and selects nothing."""
    tags = {**sent, **snapshot.override_tags(Caller(user=sent.get(USER_TAG) or None, tags=sent))}
    return Caller(user=tags.get(USER_TAG) or None, tags=tags, overridden=_overridden(sent, tags))


def _known(
    who: KeyRecord | tuple[Source, Holder], sent: dict[str, str], snapshot: Snapshot, identities: Identities
) -> Caller:
    """A caller that a key, a token or a certificate speaks for."""
    if isinstance(who, KeyRecord):
        source, key, own_tags = Source.KEY, who, dict(who.tags)
        if who.environment is not None:
            own_tags[ENVIRONMENT_TAG] = who.environment
    else:
        source, holder = who
        key = KeyRecord("", (), holder.user, holder.team, holder.virtual_account, holder.tenant)
        own_tags = dict(holder.tags)
    tenant = key.tenant or own_tags.get(TENANT_TAG)
    if key.speaks_for_tenants:
        tenant = sent.get(TENANT_TAG) or tenant
    trusted = _trusted(key, tenant, own_tags, identities)
    tags = {**sent, **trusted}
    known = Caller(
        user=trusted.get(USER_TAG) or None,
        team=key.team,
        virtual_account=key.virtual_account,
        tenant=tenant,
        plan=identities.plan_of(tenant),
        tags=tags,
        overridden=_overridden(sent, tags),
        verified=True,
        key_id=key.id or None,
        source=source,
        grants=_grants(key, identities),
    )
    overrides = snapshot.override_tags(known)
    if not overrides:
        return known
    tags = {**sent, **overrides, **trusted}
    # A tag of the client's own never names the user; one that the gateway sets does.
    user = known.user or overrides.get(USER_TAG) or None
    return replace(known, user=user, tags=tags, overridden=_overridden(sent, tags))


def _trusted(key: KeyRecord, tenant: str | None, own_tags: dict[str, str], identities: Identities) -> dict[str, str]:
    """The tags that nothing overrides: those of the tenant, the team, the key, and who was found to call."""
    team_record = identities.teams.get(key.team or "")
    tenant_record = identities.tenants.get(tenant or "")
    trusted = {
        **(tenant_record.tags if tenant_record is not None else {}),
        **(team_record.tags if team_record is not None else {}),
        **own_tags,
    }
    if key.user is not None:
        trusted[USER_TAG] = key.user
    if tenant is not None:
        trusted[TENANT_TAG] = tenant
    return trusted


def _grants(key: KeyRecord, identities: Identities) -> tuple[Grant, ...]:
    grants = [Grant(f"key '{key.id}'", _models(key.allowed_models), key.allowed_paths)]
    team = identities.teams.get(key.team or "")
    if team is not None:
        grants.append(Grant(f"team '{team.id}'", _models(team.allowed_models), team.allowed_paths))
    return tuple(grant for grant in grants if grant.models is not None or grant.paths is not None)


def _models(allowed: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if allowed is None else frozenset(allowed)


def _overridden(sent: Mapping[str, str], tags: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(name for name, value in sent.items() if tags[name] != value))
