"""What an operator does to keys, teams and tenants: create, rotate, revoke, change, each written with its audit entry.

The text of a key exists here for the length of one call: it is drawn, hashed and handed to whoever asked.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import orjson

from ext_proc.identity.errors import IdentityStoreError, RecordConflictError, RecordError
from ext_proc.identity.keys import ALPHABET, SECRET_CHARS, KeyHash, is_key_id, key_text
from ext_proc.identity.records import (
    KeyRecord,
    TeamRecord,
    TenantRecord,
    key_from_kept,
    key_kept,
    key_view,
    read_key,
    read_team,
    read_tenant,
    team_view,
    tenant_view,
)
from ext_proc.identity.store import IdentityStore, Version

OVERLAP_SECONDS_DEFAULT: Final = 24 * 3_600
OVERLAP_SECONDS_MAX: Final = 90 * 24 * 3_600

_ID_LETTERS: Final = "abcdefghjkmnpqrstuvwxyz23456789"  # none that look alike: people read ids to each other
_ID_CHARS: Final = 10

RecordT = TypeVar("RecordT")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made or rotated: the only time its text can be had."""

    record: KeyRecord
    text: str


def draw_key(key_id: str) -> str:
    """A new key of this id."""
    return key_text(key_id, "".join(secrets.choice(ALPHABET) for _ in range(SECRET_CHARS)))


def draw_id(environment: str | None) -> str:
    """An id for a key that was given none: it begins with the environment, so that people see where a key belongs."""
    suffix = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_CHARS))
    named = f"{environment}-{suffix}"
    return named if environment and is_key_id(named) else f"key-{suffix}"


class Administration:
    """The operators' side of one Redis. `by` names who acts, as they say it themselves.

    Every call raises IdentityStoreError where Redis does not answer, RecordError for what cannot be meant, and
    RecordConflictError for what exists already or does not exist.
    """

    def __init__(
        self, store: IdentityStore, server_secret: bytes, wall_us: Callable[[], int] = lambda: time.time_ns() // 1_000
    ) -> None:
        self._store = store
        self._server_secret = server_secret
        self._wall_us = wall_us

    async def create_key(self, document: object, by: str) -> NewKey:
        """Make a key. `document` has the fields of a key in the identity document, without its hash; its id may be
        left out.
        """
        if isinstance(document, Mapping) and document.get("id") is None:
            environment = document.get("environment")
            document = {**document, "id": draw_id(environment if isinstance(environment, str) else None)}
        wanted = read_key(document)
        text = draw_key(wanted.id)
        record = replace(wanted, hashes=(KeyHash.keyed(text, self._server_secret),), created_us=self._wall_us())
        await self._store.write(_key(record.id), _json(key_kept(record)), _audit("key_created", record, by), old=None)
        return NewKey(record, text)

    async def rotate_key(self, key_id: str, overlap_seconds: int, by: str) -> NewKey:
        """Give a key a new secret; the one before it stays good for the overlap, the one before that ends now."""
        if not 0 <= overlap_seconds <= OVERLAP_SECONDS_MAX:
            raise RecordError(f"the overlap must be 0 to {OVERLAP_SECONDS_MAX} seconds")
        kept, record = await self._kept_key(key_id)
        if record.revoked_us is not None or not record.hashes:
            raise RecordError(f"key {key_id} is revoked: create another one")
        text, now_us = draw_key(key_id), self._wall_us()
        old = replace(record.hashes[0], until_us=now_us + overlap_seconds * 1_000_000)
        hashes = (KeyHash.keyed(text, self._server_secret), *((old,) if overlap_seconds else ()))
        rotated = replace(record, hashes=hashes, rotated_us=now_us)
        await self._store.write(_key(key_id), _json(key_kept(rotated)), _audit("key_rotated", rotated, by), old=kept)
        return NewKey(rotated, text)

    async def revoke_key(self, key_id: str, by: str) -> KeyRecord:
        """End a key for good. One that Redis does not have may be one of the policy set: it ends too, there."""
        if not is_key_id(key_id):
            raise RecordError(f"{key_id[:64]!r} cannot be the id of a key")
        kept = await self._store.get(_key(key_id))
        record = KeyRecord(key_id) if kept is None else _read(key_from_kept, kept, key_id)
        if record.revoked_us is None:
            record = replace(record, revoked_us=self._wall_us())
            await self._store.write(_key(key_id), _json(key_kept(record)), _audit("key_revoked", record, by), old=kept)
        return record

    async def key(self, key_id: str) -> KeyRecord:
        """One key."""
        return (await self._kept_key(key_id))[1]

    async def keys(self) -> tuple[KeyRecord, ...]:
        """Every key that Redis has, revoked ones too, by id."""
        return tuple(_read(key_from_kept, text, name) for name, text in await self._of_kind("key"))

    async def teams(self) -> tuple[TeamRecord, ...]:
        """Every team that Redis has, by id."""
        return tuple(_read(read_team, text, name) for name, text in await self._of_kind("team"))

    async def tenants(self) -> tuple[TenantRecord, ...]:
        """Every tenant that Redis has, by id."""
        return tuple(_read(read_tenant, text, name) for name, text in await self._of_kind("tenant"))

    async def put_team(self, document: object, by: str) -> TeamRecord:
        """Write a team, new or changed."""
        team = read_team(document)
        view = team_view(team)
        await self._store.put(f"team:{team.id}", _json(view), {"event": "team_written", "team": view, "by": by})
        return team

    async def put_tenant(self, document: object, by: str) -> TenantRecord:
        """Write a tenant, new or changed."""
        tenant = read_tenant(document)
        view = tenant_view(tenant)
        await self._store.put(f"tenant:{tenant.id}", _json(view), {"event": "tenant_written", "tenant": view, "by": by})
        return tenant

    async def remove_team(self, team_id: str, by: str) -> None:
        """Forget a team: its keys stay, without its tags and limits."""
        await self._store.put(f"team:{team_id}", None, {"event": "team_removed", "team": {"id": team_id}, "by": by})

    async def remove_tenant(self, tenant_id: str, by: str) -> None:
        """Forget a tenant: it has the default plan again."""
        audit = {"event": "tenant_removed", "tenant": {"id": tenant_id}, "by": by}
        await self._store.put(f"tenant:{tenant_id}", None, audit)

    async def audit(self, limit: int) -> tuple[dict[str, object], ...]:
        """The newest entries of the audit trail, newest first."""
        return await self._store.audit(limit)

    async def _kept_key(self, key_id: str) -> tuple[str, KeyRecord]:
        kept = await self._store.get(_key(key_id))
        if kept is None:
            raise RecordConflictError(f"key {key_id[:64]} does not exist in Redis")
        return kept, _read(key_from_kept, kept, key_id)

    async def _of_kind(self, kind: str) -> list[tuple[str, str]]:
        changes = await self._store.changes(Version())
        return sorted((name, text) for name, text in changes.records.items() if text and name.startswith(f"{kind}:"))


def _read(read: Callable[[dict[str, object]], RecordT], text: str, name: str) -> RecordT:
    try:
        return read(orjson.loads(text))
    except (KeyError, TypeError, ValueError, RecordError) as error:
        raise IdentityStoreError(f"the record {name} in Redis cannot be read: {error!r}") from error


def _key(key_id: str) -> str:
    return f"key:{key_id}"


def _json(document: Mapping[str, object]) -> str:
    return orjson.dumps(document).decode()


def _audit(event: str, record: KeyRecord, by: str) -> dict[str, object]:
    return {"event": event, "key": key_view(record), "by": by}
