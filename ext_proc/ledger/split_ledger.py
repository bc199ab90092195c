"""A ledger split over several realms: the promises for requests whose accounts live in one of them, or in several.

What falls on one realm is asked of that realm alone, as if there were no other. What falls on several is a
`SpanningHold`, with one of its realms as its *home*: the home is asked last for a hold and first for its end, keeps the
only journal entry, and whatever becomes of us, the parts of the hold in the other realms end as their home says.

The split ledger over models is the specification of the one over Redis, and a ledger in one realm the specification
of both: what comes in order is answered alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar, cast

from ext_proc.ledger.interface import (
    AccountBalance,
    Alert,
    Code,
    Ended,
    ExtendReply,
    Extension,
    HoldReply,
    HoldRequest,
    Period,
    RealmLedger,
    Resolution,
    ResolveReply,
    SeriesPoint,
    TopConsumer,
)
from ext_proc.ledger.realms import Realms
from ext_proc.ledger.spanning_hold import SpanningHold

LOOK_AGAIN_MS = 10_000
"""How much longer a part is left alone whose home does not answer, or has not ended."""

_T = TypeVar("_T")
_CARRIES = frozenset({Code.EXTENDED, Code.EXISTS})
_ENDS_PARTS = frozenset({Code.SETTLED, Code.RELEASED, Code.CORRECTED, Code.TOMBSTONED, Code.EXISTS})
_MOST_TELLING = (
    Code.SETTLED,
    Code.RELEASED,
    Code.CORRECTED,
    Code.ALREADY_RESOLVED,
    Code.EXISTS,
    Code.UNAVAILABLE,
    Code.TOMBSTONED,
    Code.TOO_OLD,
)
"""Of what every realm says to a resolution, what is answered: the realm that knew the hold knows best."""


class SplitLedger:
    """The `Ledger` protocol over the ledgers of several realms, by name, the shared realm's first."""

    def __init__(self, realms: Realms, ledgers: Mapping[str, RealmLedger]) -> None:
        assert tuple(ledgers) == realms.names, "one ledger for each realm"
        self._realms = realms
        self._ledgers = ledgers
        self._tasks: set[asyncio.Task[object]] = set()

    # --- the protocol -------------------------------------------------------------------------------------------

    async def hold(self, request: HoldRequest) -> HoldReply:
        """Ask for a hold."""
        return await self._shielded(self._hold(request))

    async def resolve(self, resolution: Resolution) -> ResolveReply:
        """Settle or release a hold, once, at home first. Where that is not known every realm is asked."""
        return await self._shielded(self._resolve(resolution))

    async def extend(self, extension: Extension) -> ExtendReply:
        """Let an open hold carry more output. Its home says last how much; what a part carries beyond is given back at
        its end.
        """
        home, *others = extension.realms or self._realms.names
        replies = await asyncio.gather(*(self._ledgers[realm].extend(extension) for realm in others))
        least = extension.output
        for reply in replies:
            if reply.code not in _CARRIES:
                return reply
            least = min(least, reply.output)
        return await self._ledgers[home].extend(replace(extension, output=least))

    async def restore(self, request: HoldRequest) -> HoldReply:
        """Hold what was admitted already (`outage.admitted`), whatever the caps say, in today's windows."""
        names = self._realms.of_plan(request.plans[0])
        if len(names) == 1:
            return replace(await self._ledgers[names[0]].restore(request), realms=names)
        return await self._shielded(SpanningHold(request, self._realms, self._ledgers).restore())

    def realms_of(self, request: HoldRequest) -> tuple[str, ...]:
        """Where a hold of the first plan will stand, its home first: for one that is admitted without the ledger."""
        return self._realms.of_plan(request.plans[0])

    async def renew(self, hold_ids: Sequence[str], lease_ms: int) -> Code:
        """Push the leases of open holds, whatever realms they are in."""
        codes = await self._everywhere(lambda ledger: ledger.renew(hold_ids, lease_ms))
        return next(code for code in (Code.RENEWED, Code.UNAVAILABLE, Code.NOT_FOUND) if code in codes)

    async def expire(self, limit: int) -> int:
        """Charge in full up to `limit` holds of each realm whose lease ran out, and end the parts of holds that ended.

        Returns how many holds expired; a part is not counted again.
        """
        expired = sum(await self._everywhere(lambda ledger: ledger.expire(limit)))
        overdue = await self._everywhere(lambda ledger: ledger.overdue_parts(limit))
        await asyncio.gather(
            *(
                self._follow(realm, hold_id, home)
                for realm, parts in zip(self._ledgers, overdue, strict=True)
                for hold_id, home in parts
            )
        )
        return expired

    async def balances(self, *, rule: str | None, limit: int, cursor: str) -> tuple[tuple[AccountBalance, ...], str]:
        """A page of live calendar and lifetime accounts, realm after realm; a cursor is `<realm>/<cursor there>`."""
        names = list(self._ledgers)
        realm, _, inner = cursor.partition("/")
        first = names.index(realm) if realm in names else 0
        found: list[AccountBalance] = []
        for place, name in enumerate(names[first:], first):
            if len(found) >= limit:
                return tuple(found), f"{name}/"
            page, inner = await self._ledgers[name].balances(rule=rule, limit=limit - len(found), cursor=inner)
            found += page
            if inner:
                return tuple(found), f"{names[place]}/{inner}"
        return tuple(found), ""

    async def journal(self, limit: int) -> tuple[dict[str, object], ...]:
        """The newest journal entries of all realms, newest first."""
        entries = [entry for told in await self._everywhere(lambda ledger: ledger.journal(limit)) for entry in told]
        entries.sort(key=lambda entry: str(entry["time"]), reverse=True)
        return tuple(entries[: max(limit, 0)])

    async def open_holds(self) -> int:
        """How many holds are open now; the parts of one are not counted apart."""
        return sum(await self._everywhere(lambda ledger: ledger.open_holds()))

    async def reset(self, account: str, note: str) -> Code:
        """Begin an account (`AccountBalance.name`) anew: RESET, NOT_FOUND or UNAVAILABLE."""
        codes = await self._everywhere(lambda ledger: ledger.reset(account, note))
        return next(code for code in (Code.RESET, Code.UNAVAILABLE, Code.NOT_FOUND) if code in codes)

    async def resume(self, account: str, note: str) -> Code:
        """Open a latched account again, of whatever window it is: RESUMED, NOT_FOUND or UNAVAILABLE."""
        codes = await self._everywhere(lambda ledger: ledger.resume(account, note))
        return next(code for code in (Code.RESUMED, Code.UNAVAILABLE, Code.NOT_FOUND) if code in codes)

    async def alerts(self, after: str, limit: int) -> tuple[Alert, ...]:
        """Thresholds crossed in all realms, oldest first. The id of an alert tells the place reached in every realm."""
        places = dict(place.split("=", 1) for place in after.split(",") if place)
        told = await asyncio.gather(
            *(ledger.alerts(places.get(realm, ""), limit) for realm, ledger in self._ledgers.items())
        )
        found = sorted(
            (
                (alert.time_us, realm, order)
                for realm, page in zip(self._ledgers, told, strict=True)
                for order, alert in enumerate(page)
            ),
        )
        pages = dict(zip(self._ledgers, told, strict=True))
        answer = []
        for _, realm, order in found[:limit]:
            alert = pages[realm][order]
            places[realm] = alert.id
            answer.append(replace(alert, id=",".join(f"{name}={place}" for name, place in places.items())))
        return tuple(answer)

    async def top_consumers(self, account: str, limit: int) -> tuple[TopConsumer, ...]:
        """The tag values that spent most on an account (`AccountBalance.name`), the largest first."""
        told = await self._everywhere(lambda ledger: ledger.top_consumers(account, limit))
        return next((ranked for ranked in told if ranked), ())

    async def series(self, tag: str, period: Period, *, start_us: int, end_us: int) -> dict[str, list[SeriesPoint]]:
        """Spend by value of a tag in the UTC hours or days of [start, end), over all realms."""
        told = await self._everywhere(lambda ledger: ledger.series(tag, period, start_us=start_us, end_us=end_us))
        sums: dict[str, dict[int, SeriesPoint]] = {}
        for value, points in ((value, points) for series in told for value, points in series.items()):
            by_start = sums.setdefault(value, {})
            for point in points:
                before = by_start.get(point.start_us, SeriesPoint(point.start_us, 0, 0))
                cost = before.cost_nanodollars + point.cost_nanodollars
                by_start[point.start_us] = SeriesPoint(point.start_us, cost, before.tokens + point.tokens)
        return {value: [by_start[start] for start in sorted(by_start)] for value, by_start in sums.items()}

    # --- over several realms --------------------------------------------------------------------------------------

    async def _hold(self, request: HoldRequest) -> HoldReply:
        names = self._realms.of_request(request)
        if request.previous is not None and (len(names) > 1 or request.previous.realms != names):
            await self._resolve(request.previous)
            request = replace(request, previous=None)
        if len(names) == 1:
            reply = await self._ledgers[names[0]].hold(request)
            return replace(reply, realms=names) if reply.code in (Code.HELD, Code.EXISTS) else reply
        return await SpanningHold(request, self._realms, self._ledgers).ask()

    async def _resolve(self, resolution: Resolution) -> ResolveReply:
        if not resolution.realms:
            replies = await self._everywhere(lambda ledger: ledger.resolve(resolution))
            return min(replies, key=lambda reply: _MOST_TELLING.index(reply.code))
        home, *others = resolution.realms
        reply = await self._ledgers[home].resolve(resolution)
        if reply.code in _ENDS_PARTS:
            await asyncio.gather(*(self._ledgers[realm].resolve(resolution) for realm in others))
        return reply

    async def _follow(self, realm: str, hold_id: str, home: str) -> None:
        """End a part whose lease ran out as its home ended the hold. Where that has not ended, look again later."""
        ledger = self._ledgers[realm]
        outcome = await self._ledgers[home].outcome(hold_id)
        code = Code.EXISTS
        match outcome.ended:
            case Ended.OPEN | Ended.UNKNOWN:
                await ledger.renew([hold_id], LOOK_AGAIN_MS)
                return
            case Ended.RESOLVED:
                assert outcome.resolution is not None, "what is resolved has a resolution"
                code = (await ledger.resolve(outcome.resolution)).code
            case Ended.WITHDRAWN:
                code = await ledger.withdraw(hold_id)
            case Ended.EXPIRED:
                pass
        if code in (Code.EXISTS, Code.ALREADY_RESOLVED):  # in full, or at the settle that came before a restored part
            await ledger.expire_part(hold_id)

    async def _everywhere(self, ask: Callable[[RealmLedger], Awaitable[_T]]) -> list[_T]:
        """The same question to every realm, the answers in their order."""
        return list(await asyncio.gather(*(ask(ledger) for ledger in self._ledgers.values())))

    def _shielded(self, work: Coroutine[object, object, _T]) -> Awaitable[_T]:
        """Run to the end whatever becomes of the caller."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(cast("asyncio.Task[object]", task))
        task.add_done_callback(self._tasks.discard)
        return asyncio.shield(task)
