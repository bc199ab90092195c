"""Keys, teams and tenants in Redis: written by the admin API, read by every worker, with an audit trail beside them.

| key | type | what it holds |
|---|---|---|
| `tg:{keys}:records` | hash | `key:<id>`, `team:<id>`, `tenant:<id>` → the record as JSON |
| `tg:{keys}:changes` | sorted set | the same names by the number of their last change |
| `tg:{keys}:version` | hash | `epoch`, `seq` (the last change), `check` (which server secret the keys were made with) |
| `tg:{keys}:audit` | stream | who was given, changed or refused what |

The braces make them one slot of a Redis Cluster. They belong to no realm of the ledger: a key is good in every realm.
A worker that knows change 41 asks for what came after it, so that a change costs what it changes, not what there is.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import orjson

from ext_proc.identity.errors import IdentityStoreError, RecordConflictError
from ext_proc.identity.keys import fingerprint
from ext_proc.identity.records import time_text
from ext_proc.ledger.errors import StoreError

PREFIX: Final = "tg:{keys}:"
RECORDS: Final = f"{PREFIX}records"
CHANGES: Final = f"{PREFIX}changes"
VERSION: Final = f"{PREFIX}version"
AUDIT: Final = f"{PREFIX}audit"
AUDIT_MAX: Final = 100_000
"""About how many audit entries are kept; the oldest go first."""

_KEYS = ("4", RECORDS, CHANGES, VERSION, AUDIT)

# ARGV: name, old JSON ('' for none; '*' for whatever there is), new JSON ('' to remove), audit JSON, epoch, check,
# length of the audit stream. Everything is looked at before the first write.
_WRITE: Final = """
local check = redis.call('HGET', KEYS[3], 'check')
if check and check ~= ARGV[6] then return {'secret'} end
local old = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if ARGV[2] ~= '*' and ARGV[2] ~= old then return {'conflict'} end
if ARGV[3] == '' and old == '' then return {'conflict'} end
redis.call('HSETNX', KEYS[3], 'epoch', ARGV[5])
redis.call('HSETNX', KEYS[3], 'check', ARGV[6])
local seq = redis.call('HINCRBY', KEYS[3], 'seq', 1)
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
redis.call('ZADD', KEYS[2], seq, ARGV[1])
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[7], '*', 'e', ARGV[4])
return {'written'}
"""

# ARGV: epoch and change that are known. Answers epoch, seq, check, whether this is everything, then name, JSON, …
_READ: Final = """
local state = redis.call('HMGET', KEYS[3], 'epoch', 'seq', 'check')
local epoch, seq = state[1] or '', tonumber(state[2] or '0')
local since = tonumber(ARGV[2])
local whole = epoch ~= ARGV[1] or seq < since
if whole then since = 0 end
local answer = {epoch, seq, state[3] or '', whole and 1 or 0}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. since, '+inf')) do
  answer[#answer + 1] = name
  answer[#answer + 1] = redis.call('HGET', KEYS[1], name) or ''
end
return answer
"""


class Command(Protocol):
    """Runs one Redis command. Raises StoreError."""

    def __call__(self, *words: bytes | str | int) -> Awaitable[object]:
        """Send it and wait for the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Version:
    """Which changes are known. An epoch is one life of the data: another one means that Redis lost it."""

    epoch: str = ""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since a version: name → JSON, '' for what is gone. `whole`: this is everything there is."""

    version: Version
    records: Mapping[str, str]
    whole: bool
    same_secret: bool


class IdentityStore:
    """The records of one Redis. `command` is the ledger's connection to it."""

    def __init__(self, command: Command, server_secret: bytes) -> None:
        self._command = command
        self._check = fingerprint(server_secret)

    async def version(self) -> Version:
        """The newest change. Raises IdentityStoreError where Redis does not answer."""
        epoch, seq = _list(await self._run("HMGET", VERSION, "epoch", "seq"))
        return Version(_text(epoch), int(_text(seq) or 0))

    async def changes(self, since: Version) -> Changes:
        """Everything newer than a version. Raises IdentityStoreError."""
        epoch, seq, check, whole, *rest = _list(await self._run("EVAL", _READ, *_KEYS, since.epoch, since.seq))
        names, values = rest[::2], rest[1::2]
        known_check = _text(check)
        return Changes(
            Version(_text(epoch), int(_text(seq))),
            {_text(name): _text(value) for name, value in zip(names, values, strict=True)},
            whole=_text(whole) == "1",
            same_secret=not known_check or hmac.compare_digest(known_check, self._check),
        )

    async def get(self, name: str) -> str | None:
        """One record as JSON. Raises IdentityStoreError."""
        return _text(await self._run("HGET", RECORDS, name)) or None

    async def write(self, name: str, new: str | None, audit: Mapping[str, object], *, old: str | None) -> None:
        """Write or remove one record, if it is still what it was: `old` is its JSON, None where it must not exist.

        Raises RecordConflictError, or IdentityStoreError where Redis does not answer: then it may be written or not.
        """
        await self._write(name, old or "", new, audit)

    async def put(self, name: str, new: str | None, audit: Mapping[str, object]) -> None:
        """Write or remove one record, whatever it was. Raises as `write`."""
        await self._write(name, "*", new, audit)

    async def note(self, entries: Sequence[Mapping[str, object]]) -> None:
        """Append to the audit trail. Raises IdentityStoreError."""
        for entry in entries:
            await self._run("XADD", AUDIT, "MAXLEN", "~", AUDIT_MAX, "*", "e", orjson.dumps(entry))

    async def audit(self, limit: int) -> tuple[dict[str, object], ...]:
        """The newest entries of the audit trail, newest first. Raises IdentityStoreError."""
        found = []
        for item in _list(await self._run("XREVRANGE", AUDIT, "+", "-", "COUNT", limit)):
            entry_id, fields = _list(item)
            at_us = int(_text(entry_id).partition("-")[0]) * 1_000
            found.append({"time": time_text(at_us), **orjson.loads(_text(_list(fields)[1]))})
        return tuple(found)

    async def _write(self, name: str, old: str, new: str | None, audit: Mapping[str, object]) -> None:
        arguments = (name, old, new or "", orjson.dumps(audit), secrets.token_hex(8), self._check, AUDIT_MAX)
        (outcome,) = _list(await self._run("EVAL", _WRITE, *_KEYS, *arguments))
        match _text(outcome):
            case "conflict" if old == "":
                raise RecordConflictError(f"{name.replace(':', ' ', 1)} exists already")
            case "conflict":
                raise RecordConflictError(f"{name.replace(':', ' ', 1)} does not exist, or has just been changed")
            case "secret":
                raise IdentityStoreError(
                    "the keys in this Redis were made with another server secret: give every replica the same "
                    "TOLLGATE_KEY_SECRET"
                )

    async def _run(self, *words: bytes | str | int) -> object:
        try:
            return await self._command(*words)
        except StoreError as error:
            raise IdentityStoreError(f"Redis does not answer: {error}") from error


def _list(answer: object) -> list[object]:
    assert isinstance(answer, list), "Redis answered something else than a list"
    return answer


def _text(answer: object) -> str:
    if isinstance(answer, bytes):
        return answer.decode()
    return "" if answer is None else str(answer)
