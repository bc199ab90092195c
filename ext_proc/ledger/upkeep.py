"""What operators need to know of the store itself: is it set up safely, how large is it, and trimming the journal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from ext_proc.ledger.errors import StoreError

Read = Callable[..., Awaitable[object]]
"""One Redis command, by its words."""

_SCAN_COUNT = 500
_MEMORY_SAMPLES = 20


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """`warnings` are sentences for people: settings under which the promises of docs/ledger.md do not hold."""

    run_id: str  # of the server process
    version: str
    used_memory_bytes: int
    max_memory_bytes: int  # 0: no limit
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KindStats:
    """How many keys of one kind there are. `bytes` is scaled up from a sample of them."""

    kind: str
    keys: int
    bytes: int


async def health(read: Read) -> StoreHealth:
    """Look at the server's settings. Raises StoreError where it does not answer at all."""
    info = _info(cast("bytes", await read("INFO")))
    warnings = []
    policy = info.get("maxmemory_policy", "")
    if policy != "noeviction" and info.get("maxmemory", "0") != "0":
        warnings.append(f"maxmemory-policy is {policy}: Redis may drop balances when full; set it to noeviction")
    try:
        settings = _pairs(cast("list[bytes]", await read("CONFIG", "GET", "*")))
    except StoreError:
        warnings.append("CONFIG is not allowed here: persistence could not be checked")
    else:
        warnings += _persistence(settings)
    if int(info.get("connected_slaves", "0")) and _optional(info, "min_slaves_good_slaves") == 0:
        warnings.append("replicas are attached but min-replicas-to-write is 0: a failover may lose acknowledged writes")
    return StoreHealth(
        run_id=info.get("run_id", ""),
        version=info.get("redis_version", "?"),
        used_memory_bytes=int(info.get("used_memory", "0")),
        max_memory_bytes=int(info.get("maxmemory", "0")),
        warnings=tuple(warnings),
    )


def _optional(info: dict[str, str], name: str) -> int:
    """A number of INFO that is there only when its feature is on."""
    return int(info.get(name, "0"))


def _persistence(settings: dict[str, str]) -> list[str]:
    if settings.get("appendonly") == "yes":
        if settings.get("appendfsync") == "no":
            return ["appendfsync is no: a power failure may lose many seconds of charges; set it to everysec"]
        return []
    if settings.get("save"):
        return ["appendonly is off: a crash loses every charge since the last snapshot; set it to yes"]
    return ["Redis keeps nothing on disk: a restart forgets every balance; set appendonly to yes"]


async def run_id(read: Read) -> str:
    """Which server process answers: new with every start and every failover. Raises StoreError."""
    return _info(cast("bytes", await read("INFO", "server"))).get("run_id", "")


async def stats(read: Read, prefix: str) -> tuple[KindStats, ...]:
    """Keys and bytes by kind, by walking the key space in small steps; the kind with the most bytes first."""
    counts: dict[str, int] = {}
    sampled: dict[str, list[int]] = {}
    cursor = b"0"
    while True:
        cursor, names = cast(
            "tuple[bytes, list[bytes]]",
            await read("SCAN", cursor, "MATCH", f"{_escaped(prefix)}*", "COUNT", _SCAN_COUNT),
        )
        for name in names:
            kind = name.decode().removeprefix(prefix).split(":")[0]
            counts[kind] = counts.get(kind, 0) + 1
            sizes = sampled.setdefault(kind, [])
            if len(sizes) < _MEMORY_SAMPLES:
                sizes.append(cast("int | None", await read("MEMORY", "USAGE", name)) or 0)
        if cursor == b"0":
            break
    kinds = [KindStats(kind, counts[kind], sum(sizes) * counts[kind] // len(sizes)) for kind, sizes in sampled.items()]
    return tuple(sorted(kinds, key=lambda kind: -kind.bytes))


async def trim_journal(read: Read, prefix: str, *, older_than_us: int, max_bytes: int) -> int:
    """Drop journal entries and posting rows past an age, and the oldest while either stream is larger than `max_bytes`.

    Returns how many were dropped. They are also added up in Redis, in `journal_dropped` and `postings_dropped` of the
    clock key: what was dropped is never silent.
    """
    dropped = 0
    for stream in ("journal", "postings"):
        trimmed = await _trim(read, f"{prefix}{stream}", older_than_us=older_than_us, max_bytes=max_bytes)
        if trimmed:
            await read("HINCRBY", f"{prefix}clock", f"{stream}_dropped", trimmed)
        dropped += trimmed
    return dropped


async def _trim(read: Read, stream: str, *, older_than_us: int, max_bytes: int) -> int:
    dropped = cast("int", await read("XTRIM", stream, "MINID", f"{older_than_us // 1000}-0"))
    entries = cast("int", await read("XLEN", stream))
    size = cast("int | None", await read("MEMORY", "USAGE", stream)) or 0
    if size > max_bytes:
        dropped += cast("int", await read("XTRIM", stream, "MAXLEN", entries * max_bytes // size))
    return dropped


def _escaped(prefix: str) -> str:
    """A prefix as a pattern that matches itself."""
    return "".join(f"\\{letter}" if letter in "[]?*\\" else letter for letter in prefix)


def _info(raw: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in raw.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in lines}


def _pairs(words: list[bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in zip(words[::2], words[1::2], strict=True)}
