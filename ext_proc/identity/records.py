"""Records of keys, teams and tenants: as values, as the JSON that Redis keeps, and as people may see them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ext_proc.identity.errors import RecordError
from ext_proc.identity.keys import KeyHash, is_key_id
from ext_proc.identity.tags import MAX_TAGS, MAX_VALUE_CHARS, tag_problem
from ext_proc.policy.documents.identity import parse_instant
from ext_proc.policy.scalars import nearest, shown

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_LISTED = 256

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One virtual key. Times are microseconds since 1970; `hashes` are the current secret's and, while a rotation
    overlaps, the one before it.
    """

    id: str
    hashes: tuple[KeyHash, ...] = field(repr=False, default=())
    user: str | None = None
    team: str | None = None
    virtual_account: str | None = None
    tenant: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    allowed_models: tuple[str, ...] | None = None
    allowed_paths: tuple[str, ...] | None = None
    environment: str | None = None
    not_before_us: int | None = None
    expires_us: int | None = None
    speaks_for_tenants: bool = False
    created_us: int | None = None
    rotated_us: int | None = None
    revoked_us: int | None = None


@dataclass(frozen=True, slots=True)
class TeamRecord:
    """One team: its tags and limits hold for every request of its keys."""

    id: str
    owner: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    allowed_models: tuple[str, ...] | None = None
    allowed_paths: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """One tenant: its plan decides caps and downgrades."""

    id: str
    plan: str | None = None
    owner: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


KEY_FIELDS = (
    *("id", "user", "team", "virtual_account", "tenant", "tags", "allowed_models", "allowed_paths", "environment"),
    *("not_before", "expires", "speaks_for_tenants"),
)
TEAM_FIELDS = ("id", "owner", "tags", "allowed_models", "allowed_paths")
TENANT_FIELDS = ("id", "plan", "owner", "tags")


def read_key(document: object) -> KeyRecord:
    """What somebody wants a new key to be, without its hash. Raises RecordError."""
    fields = _fields(document, KEY_FIELDS)
    record = KeyRecord(
        id=_id(fields),
        user=_text(fields, "user"),
        team=_text(fields, "team"),
        virtual_account=_text(fields, "virtual_account"),
        tenant=_text(fields, "tenant"),
        tags=_tags(fields),
        allowed_models=_texts(fields, "allowed_models"),
        allowed_paths=_paths(fields),
        environment=_text(fields, "environment"),
        not_before_us=_instant(fields, "not_before"),
        expires_us=_instant(fields, "expires"),
        speaks_for_tenants=_flag(fields, "speaks_for_tenants"),
    )
    if not (record.user or record.team or record.virtual_account or record.tenant):
        raise RecordError("the key belongs to nobody: give it a user, team, virtual_account or tenant")
    return record


def read_team(document: object) -> TeamRecord:
    """A team as somebody writes it. Raises RecordError."""
    fields = _fields(document, TEAM_FIELDS)
    return TeamRecord(
        id=_name(fields),
        owner=_text(fields, "owner"),
        tags=_tags(fields),
        allowed_models=_texts(fields, "allowed_models"),
        allowed_paths=_paths(fields),
    )


def read_tenant(document: object) -> TenantRecord:
    """A tenant as somebody writes it. Raises RecordError."""
    fields = _fields(document, TENANT_FIELDS)
    return TenantRecord(_name(fields), _text(fields, "plan"), _text(fields, "owner"), _tags(fields))


def key_view(record: KeyRecord) -> dict[str, object]:
    """A key as people and programs may see it: everything but the hashes; fields that say nothing are left out."""
    view: dict[str, object] = {
        "id": record.id,
        "user": record.user,
        "team": record.team,
        "virtual_account": record.virtual_account,
        "tenant": record.tenant,
        "tags": dict(record.tags) or None,
        "allowed_models": _listed(record.allowed_models),
        "allowed_paths": _listed(record.allowed_paths),
        "environment": record.environment,
        "not_before": time_text(record.not_before_us),
        "expires": time_text(record.expires_us),
        "speaks_for_tenants": record.speaks_for_tenants or None,
        "created": time_text(record.created_us),
        "rotated": time_text(record.rotated_us),
        "old_secret_until": time_text(max((h.until_us for h in record.hashes if h.until_us is not None), default=None)),
        "revoked": time_text(record.revoked_us),
    }
    return {name: value for name, value in view.items() if value is not None}


def team_view(record: TeamRecord) -> dict[str, object]:
    """A team, as it is written and kept."""
    view = {
        "id": record.id,
        "owner": record.owner,
        "tags": dict(record.tags) or None,
        "allowed_models": _listed(record.allowed_models),
        "allowed_paths": _listed(record.allowed_paths),
    }
    return {name: value for name, value in view.items() if value is not None}


def tenant_view(record: TenantRecord) -> dict[str, object]:
    """A tenant, as it is written and kept."""
    view = {"id": record.id, "plan": record.plan, "owner": record.owner, "tags": dict(record.tags) or None}
    return {name: value for name, value in view.items() if value is not None}


def key_kept(record: KeyRecord) -> dict[str, object]:
    """A key as Redis keeps it."""
    hashes = [{"hash": str(kept), "until_us": kept.until_us} for kept in record.hashes]
    return {
        **{name: value for name, value in key_view(record).items() if name in KEY_FIELDS},
        "hashes": hashes,
        "created_us": record.created_us,
        "rotated_us": record.rotated_us,
        "revoked_us": record.revoked_us,
    }


def key_from_kept(kept: Json) -> KeyRecord:
    """The inverse of `key_kept`. Raises KeyError, TypeError or ValueError for what is none."""
    tags, hashes = kept.get("tags"), kept["hashes"]
    if not isinstance(hashes, Sequence):
        raise TypeError("hashes is a list")
    return KeyRecord(
        id=str(kept["id"]),
        hashes=tuple(KeyHash.parse(item["hash"], item.get("until_us")) for item in hashes),
        user=_kept_text(kept, "user"),
        team=_kept_text(kept, "team"),
        virtual_account=_kept_text(kept, "virtual_account"),
        tenant=_kept_text(kept, "tenant"),
        tags=dict(tags) if isinstance(tags, Mapping) else {},
        allowed_models=_texts(kept, "allowed_models"),
        allowed_paths=_texts(kept, "allowed_paths"),
        environment=_kept_text(kept, "environment"),
        not_before_us=_instant(kept, "not_before"),
        expires_us=_instant(kept, "expires"),
        speaks_for_tenants=kept.get("speaks_for_tenants") is True,
        created_us=_kept_us(kept, "created_us"),
        rotated_us=_kept_us(kept, "rotated_us"),
        revoked_us=_kept_us(kept, "revoked_us"),
    )


def time_text(time_us: int | None) -> str | None:
    """RFC 3339, to the second or finer where it is."""
    if time_us is None:
        return None
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat().replace("+00:00", "Z")


def instant_us(text: str) -> int | None:
    """A written time in microseconds since 1970; None for a text that is none."""
    moment = parse_instant(text)
    return None if moment is None else (moment - _EPOCH) // timedelta(microseconds=1)


def _fields(document: object, known: tuple[str, ...]) -> Json:
    if not isinstance(document, Mapping):
        raise RecordError("send a JSON object")
    for name in document:
        if name not in known:
            raise RecordError(f"unknown field {shown(str(name))}; {nearest(str(name), known)}")
    return {name: value for name, value in document.items() if value is not None}


def _id(fields: Json) -> str:
    name = fields.get("id")
    if not isinstance(name, str) or not is_key_id(name):
        raise RecordError("id must be 1 to 64 letters, digits, '.', '_' or '-', and start with a letter or digit")
    return name


def _name(fields: Json) -> str:
    name = _text(fields, "id")
    if name is None:
        raise RecordError("id is missing")
    return name


def _text(fields: Json, name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_VALUE_CHARS or not value.isprintable():
        raise RecordError(f"{name} must be a text of 1 to {MAX_VALUE_CHARS} printable characters")
    return value


def _texts(fields: Json, name: str) -> tuple[str, ...] | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) > _MAX_LISTED or not all(isinstance(i, str) for i in value):
        raise RecordError(f"{name} must be a list of at most {_MAX_LISTED} texts")
    return tuple(value)


def _paths(fields: Json) -> tuple[str, ...] | None:
    paths = _texts(fields, "allowed_paths")
    for path in paths or ():
        if not path.startswith("/"):
            raise RecordError(f"allowed_paths: {shown(path)} does not start with a slash")
    return paths


def _tags(fields: Json) -> dict[str, str]:
    value = fields.get("tags", {})
    if not isinstance(value, Mapping) or len(value) > MAX_TAGS:
        raise RecordError(f"tags must be an object of at most {MAX_TAGS} texts")
    for key, text in value.items():
        if not isinstance(text, str):
            raise RecordError(f"the tag {shown(str(key))} must be a text")
        problem = tag_problem(key, text)
        if problem:
            raise RecordError(f"the tag {shown(key)} {problem}")
    return dict(value)


def _instant(fields: Json, name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    time_us = instant_us(value) if isinstance(value, str) else None
    if time_us is None:
        raise RecordError(f"{name} must be a time, for example 2027-01-01T00:00:00Z")
    return time_us


def _flag(fields: Json, name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise RecordError(f"{name} must be true or false")
    return value


def _listed(texts: tuple[str, ...] | None) -> list[str] | None:
    return None if texts is None else list(texts)


def _kept_text(kept: Json, name: str) -> str | None:
    value = kept.get(name)
    return value if isinstance(value, str) else None


def _kept_us(kept: Json, name: str) -> int | None:
    value = kept.get(name)
    return value if isinstance(value, int) else None
