"""The split ledger over Redis: a `RedisLedger` for each realm, and one store to those who look after it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Self, cast

from ext_proc.ledger import keys
from ext_proc.ledger.channel import Word
from ext_proc.ledger.counters import LedgerCounters
from ext_proc.ledger.interface import RealmLedger
from ext_proc.ledger.keys import DEFAULT_REALM
from ext_proc.ledger.options import LedgerOptions
from ext_proc.ledger.realms import Realms
from ext_proc.ledger.redis_ledger import RedisLedger
from ext_proc.ledger.split_ledger import SplitLedger
from ext_proc.ledger.upkeep import KindStats, StoreHealth


class RealmsLedger(SplitLedger):
    """As `RedisLedger`, for accounts in several realms. `start()` before use, `close()` after."""

    def __init__(
        self, realms: Realms, ledgers: Mapping[str, RedisLedger], *, beside: Mapping[str, RedisLedger] | None = None
    ) -> None:
        super().__init__(realms, cast("Mapping[str, RealmLedger]", ledgers))
        self._stores = ledgers
        self._shared = ledgers[DEFAULT_REALM]
        self._by_prefix = {keys.prefix(name): store for name, store in {**ledgers, **(beside or {})}.items()}

    @classmethod
    def connect(cls, url: str, realms: Realms, options: LedgerOptions | None = None) -> Self:
        """A ledger on the Redis that the URL names, a connection for each realm. Raises ValueError for another URL."""
        chosen = options or LedgerOptions()

        def connected(name: str) -> RedisLedger:
            ring_dir = chosen.ring_dir / f"realm-{name}" if chosen.ring_dir else None
            return RedisLedger.connect(url, replace(chosen, realm=name, ring_dir=ring_dir))

        return cls(
            realms,
            {name: connected(name) for name in realms.names},
            beside={keys.IDENTITIES: connected(keys.IDENTITIES)},
        )

    async def start(self) -> None:
        """Make the first contact with every realm. One that is down is waited for."""
        await asyncio.gather(*(store.start() for store in self._stores.values()))

    async def close(self) -> None:
        """Stop. What is on its way is waited for; resolutions that wait for Redis get one more deadline to leave."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(store.close() for store in self._by_prefix.values()))

    @property
    def is_available(self) -> bool:
        """Whether every realm answered lately."""
        return all(store.is_available for store in self._stores.values())

    @property
    def waiting_resolutions(self) -> int:
        """How many settles and releases wait for their realm to come back."""
        return sum(store.waiting_resolutions for store in self._stores.values())

    @property
    def counters(self) -> LedgerCounters:
        """What this process has seen since it started, over all realms."""
        seen = [store.counters for store in self._stores.values()]
        return LedgerCounters(**{f.name: sum(getattr(one, f.name) for one in seen) for f in fields(LedgerCounters)})

    @property
    def last_error(self) -> str:
        """What some realm said when a call last failed, for health and logs."""
        return next((store.last_error for store in self._stores.values() if store.last_error), "")

    def now_us(self) -> int:
        """The best estimate of Redis time, microseconds: that of the shared realm's server."""
        return self._shared.now_us()

    async def read(self, *words: Word) -> object:
        """A plain Redis command, sent where its first key lives. Raises StoreError."""
        prefixes = (str(word).partition("}")[0] + "}:" for word in words[1:] if str(word).startswith("tg:{"))
        store = self._by_prefix.get(next(prefixes, ""), self._shared)
        return await store.read(*words)

    async def health(self) -> StoreHealth | None:
        """How the servers are set up: every warning once, memory added up; None where one of them does not answer."""
        by_server: dict[str, StoreHealth] = {}
        for health in await asyncio.gather(*(store.health() for store in self._stores.values())):
            if health is None:
                return None
            by_server[health.run_id] = health
        servers = list(by_server.values())
        unlimited = any(not server.max_memory_bytes for server in servers)
        return StoreHealth(
            run_id=",".join(by_server),
            version=servers[0].version,
            used_memory_bytes=sum(server.used_memory_bytes for server in servers),
            max_memory_bytes=0 if unlimited else sum(server.max_memory_bytes for server in servers),
            warnings=tuple(dict.fromkeys(warning for server in servers for warning in server.warnings)),
        )

    async def stats(self) -> tuple[KindStats, ...]:
        """Keys and bytes by kind, over all realms. Walks every key: for operators, not for scrapes."""
        sums: dict[str, KindStats] = {}
        for told in await asyncio.gather(*(store.stats() for store in self._stores.values())):
            for kind in told:
                before = sums.get(kind.kind, KindStats(kind.kind, 0, 0))
                sums[kind.kind] = KindStats(kind.kind, before.keys + kind.keys, before.bytes + kind.bytes)
        return tuple(sorted(sums.values(), key=lambda kind: -kind.bytes))

    async def trim_journal(self) -> int:
        """Drop journal entries past the configured age or size, in each realm; how many."""
        return sum(await asyncio.gather(*(store.trim_journal() for store in self._stores.values())))


StoreLedger = RedisLedger | RealmsLedger
"""The ledger of a process: in one realm, or split."""


def open_ledger(url: str, realms: Realms, options: LedgerOptions | None = None) -> StoreLedger:
    """The ledger that this layout asks for. Connects when started, not here. Raises ValueError for an unknown URL.

    On a Cluster even a single realm shares the store with others: what else the gateway keeps is in slots of its own.
    """
    if realms.tenant_realms or url.startswith(("redis+cluster:", "rediss+cluster:")):
        return RealmsLedger.connect(url, realms, options)
    return RedisLedger.connect(url, options)
