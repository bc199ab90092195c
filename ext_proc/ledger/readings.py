"""What people read from Redis: balances and the journal. Never on the path of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import orjson

from ext_proc.ledger.interface import (
    AccountBalance,
    Alert,
    Basis,
    Measure,
    Period,
    SeriesPoint,
    TopConsumer,
    Window,
    WindowKind,
)
from ext_proc.ledger.journal import JournalFigures, entry, event
from ext_proc.ledger.keys import series_name
from ext_proc.ledger.windows import SLIDING_US

Read = Callable[..., Awaitable[object]]
"""One Redis command, by its words."""

_PAGE = 200
_FIELDS = ("meta", "cap", "spent", "held", "exp")


async def balances(
    read: Read, prefix: str, now_us: int, *, rule: str | None, limit: int, cursor: str
) -> tuple[tuple[AccountBalance, ...], str]:
    """A page of live accounts in the order in which they will be forgotten, and the cursor of the next page.

    The cursor is the last name seen. Accounts that begin or end between two pages may be missed or met twice.
    """
    index = f"{prefix}accounts"
    rank = await read("ZRANK", index, cursor) if cursor else None
    position = cast("int", rank) + 1 if rank is not None else 0
    found: list[AccountBalance] = []
    last = cursor
    while True:
        names = cast("list[bytes]", await read("ZRANGE", index, position, position + _PAGE - 1))
        page = await asyncio.gather(*(_balance(read, prefix, name.decode(), now_us) for name in names))
        for name, balance in zip(names, page, strict=True):
            if balance is not None and rule in (None, balance.rule, balance.template):
                if len(found) == limit:
                    return tuple(found), last
                found.append(balance)
            last = name.decode()
        position += _PAGE
        if len(names) < _PAGE:
            return tuple(found), ""


async def _balance(read: Read, prefix: str, name: str, now_us: int) -> AccountBalance | None:
    stored = cast("list[bytes | None]", await read("HMGET", f"{prefix}{name}", *_FIELDS))
    meta, cap, spent, held, expires = stored
    if meta is None or int(expires or 0) <= now_us:
        return None
    rule, template, document, document_type, bucket, measure, kind, period, timezone, start_us, end_us = orjson.loads(
        meta
    )
    if end_us is not None and now_us >= end_us:
        return None
    return AccountBalance(
        rule=rule,
        template=template,
        document=document,
        document_type=document_type,
        bucket=tuple((key, value) for key, value in bucket),
        measure=Measure(measure),
        window=Window(WindowKind(kind), None if period is None else Period(period), timezone),
        window_start_us=start_us,
        window_end_us=end_us,
        cap=int(cap or 0),
        spent=int(spent or 0),
        held=int(held or 0),
        name=name,
    )


async def journal(read: Read, prefix: str, limit: int) -> tuple[dict[str, object], ...]:
    """The newest entries, newest first."""
    if limit <= 0:
        return ()
    raw = await read("XREVRANGE", f"{prefix}journal", "+", "-", "COUNT", limit)
    return tuple(_entry(fields) for _, fields in cast("list[tuple[bytes, list[bytes]]]", raw))


def _named(fields: list[bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}


def _entry(fields: list[bytes]) -> dict[str, object]:
    named = _named(fields)
    if "event" in named:
        return event(named["event"], named["account"], int(named["spent"]), named["note"], int(named["us"]))
    figures = JournalFigures(
        hold_id=named["id"],
        time_us=int(named["us"]),
        charge_nanodollars=int(named["charge"]),
        hold_nanodollars=int(named["hold"]),
        input_tokens=int(named["in"]),
        output_tokens=int(named["out"]),
        basis=Basis(named["basis"]),
        correction=named["correction"] == "1",
    )
    return entry(named["context"], named["detail"], figures)


async def alerts(read: Read, prefix: str, after: str, limit: int) -> tuple[Alert, ...]:
    """Thresholds crossed since the alert with id `after` ('' for the oldest there is), oldest first."""
    start = f"({after}" if after else "-"
    raw = await read("XRANGE", f"{prefix}outbox", start, "+", "COUNT", limit)
    return tuple(
        _alert(place.decode(), _named(fields)) for place, fields in cast("list[tuple[bytes, list[bytes]]]", raw)
    )


def _alert(place: str, named: dict[str, str]) -> Alert:
    rule, _, _, _, bucket, measure, _, _, _, start_us, end_us = orjson.loads(named["meta"])
    return Alert(
        id=place,
        account=named["account"],
        rule=rule,
        bucket=tuple((key, value) for key, value in bucket),
        measure=Measure(measure),
        window_start_us=start_us,
        window_end_us=end_us,
        percent=int(named["percent"]),
        spent=int(named["spent"]),
        held=int(named["held"]),
        cap=int(named["cap"]),
        time_us=int(named["us"]),
    )


async def top_consumers(read: Read, prefix: str, account: str, limit: int) -> tuple[TopConsumer, ...]:
    """The tag values that spent most on one account (`AccountBalance.name`), the largest first."""
    ranked = cast("list[bytes]", await read("ZREVRANGE", f"{prefix}top:{account}", 0, max(limit - 1, 0), "WITHSCORES"))
    found = []
    for member, spent in zip(ranked[::2], ranked[1::2], strict=True):
        tag, _, value = member.decode().partition("\x1f")
        found.append(TopConsumer(tag, value, int(float(spent))))
    return tuple(found[:limit])


async def series(
    read: Read, prefix: str, tag: str, period: Period, *, start_us: int, end_us: int
) -> dict[str, list[SeriesPoint]]:
    """Spend by value of a tag, one point for each UTC hour or day of [start, end) in which there was any."""
    length_us = SLIDING_US[period]
    starts = range(start_us - start_us % length_us, end_us, length_us)
    key = f"{prefix}series:{period}:{series_name(tag)}"
    stored = await asyncio.gather(*(read("HGETALL", f"{key}:{start // 1_000_000}") for start in starts))
    points: dict[str, list[SeriesPoint]] = {}
    for start, raw in zip(starts, stored, strict=True):
        named = _named(cast("list[bytes]", raw))
        for name, cost in named.items():
            if name.startswith("c"):
                point = SeriesPoint(start, int(cost), int(named[f"t{name[1:]}"]))
                points.setdefault(name[1:], []).append(point)
    return points
