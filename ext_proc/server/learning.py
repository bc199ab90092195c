"""Calibration in Redis: what each worker observed, added up, and read back by all.

| key | type | what it holds |
|---|---|---|
| `tg:{realm}:learned:<generation>:<digest>` | hash | name of a count → count, of twelve hours of Redis time |

The digest is that of the target and the traffic. What is known is the sum of this generation and the last, so that
what is older than a day is forgotten. Counts are hints, never money: they go out and come in every few seconds, what
Redis does not take is dropped, and with nothing known holds are sized by the defaults.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, cast

import orjson

from ext_proc.exchange.calibration import NOTHING, NOTHING_LEARNED, Calibration, Key, Learned, learned, observed
from ext_proc.exchange.effects import Resolve
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger import keys
from ext_proc.ledger.channel import RunCommand
from ext_proc.ledger.errors import StoreError

REFRESH_SECONDS: Final = 3.0
GENERATION_SECONDS: Final = 12 * 3_600
KEYS_MAX: Final = 512
"""Keys that a worker follows; the one it has not met for longest gives way to a new one."""

READ_MAX: Final = 64
"""Keys read in one round, those that were read longest ago first."""

OBSERVATIONS_MAX: Final = 10_000
"""Different counts kept between two rounds."""

_EXPIRE_SECONDS: Final = 2 * GENERATION_SECONDS + 600
_DIGEST_BYTES: Final = 12


def _name(key: Key, generation: int) -> str:
    digest = blake2b(orjson.dumps(key), digest_size=_DIGEST_BYTES).hexdigest()
    return f"{keys.prefix(keys.DEFAULT_REALM)}learned:{generation}:{digest}"


def _generation(now_us: int) -> int:
    return now_us // 1_000_000 // GENERATION_SECONDS


async def read_learned(run: RunCommand, wanted: Iterable[Key], now_us: int) -> dict[Key, Learned]:
    """What is known of these keys. Raises StoreError."""
    listed, now = tuple(wanted), _generation(now_us)
    names = [_name(key, generation) for key in listed for generation in (now - 1, now)]
    answers = await asyncio.gather(*(run("HGETALL", name) for name in names))
    counts = [_counts(cast("list[bytes]", answer)) for answer in answers]
    return {key: learned(counts[2 * at] + counts[2 * at + 1]) for at, key in enumerate(listed)}


class Learning:
    """What one worker observed, on its way to Redis, and what all of them know."""

    def __init__(self, run: RunCommand) -> None:
        self._run = run
        self._followed: dict[Key, int] = {}  # → the round it was read in; those met last stand last
        self._observed: Counter[tuple[Key, str]] = Counter()
        self._known: dict[Key, Learned] = {}
        self._round = 0
        self.calibration: Calibration = NOTHING_LEARNED

    def admitted(self, ticket: Ticket) -> None:
        """A request goes to this target: what is known of it will be wanted again."""
        self._follow((ticket.target, ""))
        if ticket.traffic:
            self._follow((ticket.target, ticket.traffic))

    def settled(self, resolve: Resolve) -> None:
        """An attempt has ended: note what it teaches."""
        for key, name in observed(resolve.ticket, resolve.resolution):
            self._follow(key)
            if len(self._observed) < OBSERVATIONS_MAX:
                self._observed[key, name] += 1

    async def refresh(self, now_us: int) -> Calibration | None:
        """Bring what was observed, take what is known; None where nothing has changed or Redis does not answer."""
        seen, self._observed = self._observed, Counter()
        generation = _generation(now_us)
        self._round += 1
        oldest = heapq.nsmallest(READ_MAX, self._followed, key=self._followed.__getitem__)
        try:
            if seen:
                names = {key: _name(key, generation) for key, _ in seen}
                await asyncio.gather(
                    *(self._run("HINCRBY", names[key], name, count) for (key, name), count in seen.items()),
                    *(self._run("EXPIRE", name, _EXPIRE_SECONDS) for name in names.values()),
                )
            found = await read_learned(self._run, oldest, now_us)
        except StoreError:
            return None
        return self._take(found)

    def _take(self, found: dict[Key, Learned]) -> Calibration | None:
        before = self._known
        self._known = {key: what for key, what in (before | found).items() if what != NOTHING and key in self._followed}
        self._followed |= {key: self._round for key in found if key in self._followed}
        if self._known == before:
            return None
        self.calibration = Calibration(self._known)
        return self.calibration

    def _follow(self, key: Key) -> None:
        self._followed[key] = self._followed.pop(key, 0)
        if len(self._followed) > KEYS_MAX:
            del self._followed[next(iter(self._followed))]


def _counts(answer: list[bytes]) -> Counter[str]:
    """A hash as Redis answers it: field, value, field, value, …"""
    pairs = zip(answer[::2], answer[1::2], strict=True)
    return Counter({name.decode("ascii", "replace"): int(count) for name, count in pairs})
