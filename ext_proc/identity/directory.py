"""A worker's copy of the records in Redis: read again when their version moves, never asked for once per request.

When Redis is silent the last known records stay in force. What the worker notices of refused callers it appends to the
audit trail, counted and bounded: whoever tries a million keys writes a few entries a second.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final, TypeVar

import orjson

from ext_proc.identity.errors import IdentityStoreError, RecordError
from ext_proc.identity.identities import Records
from ext_proc.identity.records import KeyRecord, TeamRecord, TenantRecord, key_from_kept, read_team, read_tenant
from ext_proc.identity.store import Changes, IdentityStore, Version
from ext_proc.refusal import Refusal, RefusalType
from ext_proc.telemetry.names import LogEvent

_LOG = logging.getLogger("tollgate.identity")

REFUSALS_MAX: Final = 16
"""Different refusals that one worker appends to the audit trail at once; the rest are counted as `other`."""


class Directory:
    """The records as this process knows them."""

    def __init__(self, store: IdentityStore) -> None:
        self.records = Records(known=False)
        self._store = store
        self._version = Version()
        self._secret_differs = False
        self._refused: Counter[str] = Counter()

    async def refresh(self) -> bool:
        """Look for changes; True where `records` is another value now. Never raises for a silent Redis."""
        try:
            if self.records.known and await self._store.version() == self._version:
                return False
            changes = await self._store.changes(self._version)
        except IdentityStoreError:
            return False
        if changes.same_secret is self._secret_differs:
            self._secret_differs = not changes.same_secret
            if self._secret_differs:
                _LOG.error(LogEvent.IDENTITY_SECRET_DIFFERS)
        if changes.whole and self.records.known and self._version.seq > 0:
            _LOG.error(LogEvent.IDENTITY_DATA_LOST)
        self.records = self._with(changes)
        self._version = changes.version
        return True

    def note_refusal(self, refusal: Refusal) -> None:
        """Remember a refused caller for the audit trail."""
        if refusal.type is RefusalType.UNAUTHENTICATED:
            reason = str(refusal.context.get("reason", ""))
            self._refused[reason if reason in self._refused or len(self._refused) < REFUSALS_MAX else "other"] += 1

    async def append_refusals(self, worker: str) -> None:
        """Write what was remembered, one entry for each reason. What a silent Redis does not take is kept."""
        if not self._refused:
            return
        taken, self._refused = self._refused, Counter()
        entries = [
            {"event": "authentication_refused", "reason": reason, "count": count, "by": f"worker {worker}"}
            for reason, count in taken.items()
        ]
        try:
            await self._store.note(entries)
        except IdentityStoreError:
            self._refused += taken

    def _with(self, changes: Changes) -> Records:
        known = Records() if changes.whole else self.records
        keys, teams, tenants = dict(known.keys), dict(known.teams), dict(known.tenants)
        for name, text in changes.records.items():
            kind, _, record_id = name.partition(":")
            try:
                match kind:
                    case "key":
                        _change(keys, record_id, _key(text))
                    case "team":
                        _change(teams, record_id, _team(text))
                    case "tenant":
                        _change(tenants, record_id, _tenant(text))
            except (KeyError, TypeError, ValueError, AttributeError, RecordError):
                # Unreadable is not absent: a key nobody can read lets nobody in, the others stay.
                _LOG.exception(LogEvent.IDENTITY_UNREADABLE, extra={"record": name})
        return Records(keys, teams, tenants, known=True, had_keys=self.records.had_keys or bool(keys))


RecordT = TypeVar("RecordT", KeyRecord, TeamRecord, TenantRecord)


def _change(records: dict[str, RecordT], record_id: str, record: RecordT | None) -> None:
    if record is None:
        records.pop(record_id, None)
    else:
        records[record_id] = record


def _key(text: str) -> KeyRecord | None:
    return key_from_kept(orjson.loads(text)) if text else None


def _team(text: str) -> TeamRecord | None:
    return read_team(orjson.loads(text)) if text else None


def _tenant(text: str) -> TenantRecord | None:
    return read_tenant(orjson.loads(text)) if text else None
