"""Reads standings from a live Redis without changing anything there.

Only reading commands are sent, all of them in one transaction, so that the accounts are those of one moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from ext_proc.ledger import keys
from ext_proc.ledger.channel import Channel
from ext_proc.ledger.interface import AccountSpec, TopConsumer, WindowKind
from ext_proc.ledger.realms import Realms
from ext_proc.ledger.standing import Slot, Standing
from ext_proc.ledger.windows import SLIDING_US, WindowCache


class Standings:
    """Reads standings over a channel of its own. Raises StoreError where Redis does not answer."""

    def __init__(self, channel: Channel, realm: str = keys.DEFAULT_REALM) -> None:
        self._channel = channel
        self._prefix = keys.prefix(realm)
        self._windows = WindowCache()

    async def now_us(self) -> int:
        """Redis time."""
        seconds, micros = cast("list[bytes]", await self._channel.call("TIME"))
        return int(seconds) * 1_000_000 + int(micros)

    async def read(self, accounts: Iterable[AccountSpec], now_us: int) -> dict[AccountSpec, Standing]:
        """The standing of each account in its window at `now_us`; one that was never held on stands at zero."""
        wanted = list(dict.fromkeys(accounts))
        began = self._channel.call("MULTI")
        queued = [self._channel.call(*words) for account in wanted for words in self._commands(account, now_us)]
        *_, done = await asyncio.gather(began, *queued, self._channel.call("EXEC"))
        answers = cast("list[object]", done)
        found = {}
        for account in wanted:
            (fields, latched, ranked), answers = answers[:3], answers[3:]
            found[account] = _standing(account, _pairs(fields), now_us, bool(latched), _ranked(ranked))
        return found

    def _commands(self, account: AccountSpec, now_us: int) -> Sequence[tuple[str, ...]]:
        bounds = self._windows.bounds(account.window, now_us)
        digest, kind = keys.digest(account), account.window.kind
        name = f"{kind}:{keys.account_name(kind, digest, bounds[0] if bounds else 0)}"
        return (
            ("HGETALL", f"{self._prefix}{name}"),
            ("EXISTS", f"{self._prefix}latch:{digest}"),
            ("ZREVRANGE", f"{self._prefix}top:{name}", "0", "-1", "WITHSCORES"),
        )


class SplitStandings:
    """Standings of a ledger in several realms, over a channel to each: one moment within a realm, not over all."""

    def __init__(self, realms: Realms, channels: Mapping[str, Channel]) -> None:
        self._realms = realms
        self._by_realm = {name: Standings(channels[name], name) for name in realms.names}

    async def now_us(self) -> int:
        """Redis time in the shared realm."""
        return await self._by_realm[keys.DEFAULT_REALM].now_us()

    async def read(self, accounts: Iterable[AccountSpec], now_us: int) -> dict[AccountSpec, Standing]:
        """As `Standings.read`."""
        found: dict[AccountSpec, Standing] = {}
        by_realm: dict[str, list[AccountSpec]] = {}
        for account in accounts:
            by_realm.setdefault(self._realms.of_account(account), []).append(account)
        for realm, wanted in by_realm.items():
            found |= await self._by_realm[realm].read(wanted, now_us)
        return found


def _standing(
    account: AccountSpec, fields: dict[str, str], now_us: int, latched: bool, top: tuple[TopConsumer, ...]
) -> Standing:
    if int(fields.get("exp", 0)) <= now_us:
        return Standing(latched=latched)
    if account.window.kind is WindowKind.SLIDING:
        assert account.window.period is not None, "a sliding window has a period"
        oldest_us = now_us - SLIDING_US[account.window.period]
        held = {int(name[1:]): int(amount) for name, amount in fields.items() if _is_slot(name, "h")}
        spent = {int(name[1:]): int(amount) for name, amount in fields.items() if _is_slot(name, "s")}
        times = sorted(at_us for at_us in held.keys() | spent.keys() if at_us > oldest_us)
        slots = tuple(Slot(at_us, spent.get(at_us, 0), held.get(at_us, 0)) for at_us in times)
        return Standing(sum(slot.spent for slot in slots), sum(slot.held for slot in slots), slots, latched)
    return Standing(int(fields.get("spent", 0)), int(fields.get("held", 0)), latched=latched, top=top)


def _is_slot(name: str, letter: str) -> bool:
    return name.startswith(letter) and name[1:].isdigit()


def _pairs(answer: object) -> dict[str, str]:
    flat = cast("list[bytes]", answer)
    return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _ranked(answer: object) -> tuple[TopConsumer, ...]:
    flat = cast("list[bytes]", answer)
    found = []
    for member, spent in zip(flat[::2], flat[1::2], strict=True):
        tag, _, value = member.decode().partition("\x1f")
        found.append(TopConsumer(tag, value, int(float(spent))))
    return tuple(found)
