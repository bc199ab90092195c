"""Follows the journal as a warehouse would: entries from where it last was, through restarts of Redis."""

from __future__ import annotations

import json
from typing import cast

import redis.asyncio
from redis.exceptions import RedisError

from bench.soak.records import Balance, Posted
from ext_proc.ledger.keys import DEFAULT_REALM, prefix

_PAGE = 1_000


class Journal:
    """`posted` is complete after the last `follow` that returned True."""

    def __init__(self, url: str) -> None:
        self.posted: list[Posted] = []
        self._redis = redis.asyncio.Redis.from_url(url, socket_timeout=10.0)
        self._key = f"{prefix(DEFAULT_REALM)}journal"
        self._last = "-"

    async def follow(self) -> bool:
        """Read what is new; False where Redis does not answer, which then is read the next time."""
        try:
            while page := await self._redis.xrange(self._key, min=self._last, count=_PAGE):
                for place, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", page):
                    self.posted.append(_posted(fields))
                    self._last = f"({place.decode()}"
        except RedisError:
            return False
        return True

    async def memory_bytes(self) -> int:
        """What Redis says it uses."""
        return int((await self._redis.info("memory"))["used_memory"])

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()


def _posted(fields: dict[bytes, bytes]) -> Posted:
    tags = json.loads(fields[b"context"]).get("tags", {})
    return Posted(
        id=str(tags.get("run")),
        hold_id=fields[b"id"].decode(),
        cost_center=str(tags.get("cost_center")),
        basis=fields[b"basis"].decode(),
        is_correction=fields[b"correction"] == b"1",
        hold_nanodollars=int(fields[b"hold"]),
        charge_nanodollars=int(fields[b"charge"]),
        tokens=int(fields[b"in"]) + int(fields[b"out"]),
    )


def balance_of(account: dict[str, object]) -> Balance:
    """One account of `/v1/budgets`."""
    bucket = account["bucket"]
    center = bucket.get("metadata.cost_center") if isinstance(bucket, dict) else None
    return Balance(str(account["rule"]), center, int(str(account["spent"])), int(str(account["held"])))
