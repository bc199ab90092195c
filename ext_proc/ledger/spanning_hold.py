"""One hold over accounts of several realms: weighed everywhere, held in the other realms, and then at home.

No script is atomic over two realms, so a hold is made of parts, each with the same id and each atomic for itself:

1. every realm is asked what it would say to each plan; nothing is held yet,
2. the first plan that all admit, with the largest output that all can carry, is held in every realm but its home,
3. and then at home. That step admits the request: until then it is nobody's, from then on it is held.

Never over: each realm grants its part in one step against its own caps. All or nothing: a part that is refused takes
back those that were granted; where we die before that, their leases end, their home is asked, and does not know them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ext_proc.ledger.interface import AccountState, Code, HoldReply, HoldRequest, RealmLedger, Weighing
from ext_proc.ledger.realms import Realms, fingerprint, part_of

_GRANTED = frozenset({Code.HELD, Code.EXISTS})
_SAID_BEFORE = (
    Code.UNAVAILABLE,
    Code.REFUSED,
    Code.EXISTS_WITH_DIFFERENT_AMOUNT,
    Code.ALREADY_RESOLVED,
    Code.EXISTS,
    Code.TOO_OLD,
)
"""What one realm has said of an id before, the answer that prevails over what others say first.

A refusal, and a hold that stands, prevail over tombstones elsewhere: of parts that were taken back because of it, or of
a settle that came before its hold was restored.
"""


class SpanningHold:
    """One request over several realms."""

    def __init__(self, request: HoldRequest, realms: Realms, ledgers: Mapping[str, RealmLedger]) -> None:
        self._request = request
        self._realms = realms
        self._ledgers = ledgers
        self._mark = fingerprint(request)

    async def ask(self) -> HoldReply:
        """Hold, or refuse, or say what was said before."""
        names = self._realms.of_request(self._request)
        said = await asyncio.gather(*(self._ledgers[realm].weigh(self._weighed_in(realm)) for realm in names))
        weighed = dict(zip(names, said, strict=True))
        known = {realm: weighing.reply for realm, weighing in weighed.items() if weighing.reply is not None}
        if known:
            return await self._repeated(known)
        tried = reached = None
        for index in range(len(self._request.plans)):
            outputs = [weighing.outputs[index] for weighing in said]
            if Weighing.LEFT_OUT in outputs:
                continue
            tried = reached = index
            if Weighing.REFUSES not in outputs:
                return await self._hold(index, min(outputs))
        if tried is None:
            tried = max(len(self._request.plans) - 1, 0)
        refusing = [] if reached is None else [r for r, w in weighed.items() if w.outputs[tried] == Weighing.REFUSES]
        return await self._refuse(tried, refusing)

    async def restore(self) -> HoldReply:
        """Hold what was admitted already, in every realm; what stands there from before is left as it is."""
        plan = self._request.plans[0]
        home, *others = self._realms.of_plan(plan)
        parts = (self._ledgers[realm].restore(self._part(0, realm, plan.output_max)) for realm in others)
        replies = await asyncio.gather(*parts)
        if any(reply.code is Code.UNAVAILABLE for reply in replies):
            return HoldReply(Code.UNAVAILABLE)
        reply = await self._ledgers[home].restore(self._part(0, home, plan.output_max))
        return self._answer(reply, (reply, *replies), (home, *others))

    def _weighed_in(self, realm: str) -> HoldRequest:
        """All plans, as far as they fall on one realm."""
        part = part_of(self._request, self._mark, 0, self._realms, realm=realm).part
        plans = tuple(self._realms.plan_in(plan, realm) for plan in self._request.plans)
        return replace(self._request, plans=plans, previous=None, part=part)

    def _part(self, index: int, realm: str, output: int | None = None) -> HoldRequest:
        return part_of(self._request, self._mark, index, self._realms, realm=realm, output=output)

    async def _repeated(self, known: Mapping[str, HoldReply]) -> HoldReply:
        """The id is known in some realm. A hold that was begun and not admitted is gone on with."""
        code = next(code for code in _SAID_BEFORE if any(reply.code is code for reply in known.values()))
        replies = [reply for reply in known.values() if reply.code is code]
        if code is Code.REFUSED:
            return self._answer(replies[0], replies)
        if code is not Code.EXISTS:
            return replies[0]
        index, output = replies[0].plan_index, replies[0].output_limit
        home, *others = self._realms.of_plan(self._request.plans[index])
        if home in known and known[home].code is Code.EXISTS:
            return self._answer(known[home], replies, (home, *others))
        return await self._hold(index, output)

    async def _hold(self, index: int, output: int) -> HoldReply:
        home, *others = self._realms.of_plan(self._request.plans[index])
        parts = (self._ledgers[realm].hold(self._part(index, realm, output)) for realm in others)
        replies = dict(zip(others, await asyncio.gather(*parts), strict=True))
        for reply in replies.values():
            if reply.code is Code.EXISTS and (reply.plan_index, reply.output_limit) != (index, output):
                return await self._hold(reply.plan_index, reply.output_limit)  # a repeated call was quicker
        if all(reply.code in _GRANTED for reply in replies.values()):
            replies[home] = await self._ledgers[home].hold(self._part(index, home, output))
            if replies[home].code in _GRANTED:
                return self._answer(replies[home], replies.values(), (home, *others))
        return await self._take_back(index, home, replies)

    async def _take_back(self, index: int, home: str, replies: Mapping[str, HoldReply]) -> HoldReply:
        """Some realm did not grant its part: what others granted is given back, and the refusal remembered at home.

        A hold that is kept although its fate is unknown is left as it is: what was admitted elsewhere is restored.
        """
        failed = {realm: reply for realm, reply in replies.items() if reply.code not in _GRANTED}
        code = next(code for code in _SAID_BEFORE if any(reply.code is code for reply in failed.values()))
        if code is Code.UNAVAILABLE and self._request.keep_if_unavailable:
            return HoldReply(Code.UNAVAILABLE)
        held = [realm for realm, reply in replies.items() if reply.code is Code.HELD]
        withdrawn = asyncio.gather(*(self._ledgers[realm].withdraw(self._request.hold_id) for realm in held))
        if code is Code.REFUSED and home not in failed:
            await self._ledgers[home].hold(self._part(index, home))
        await withdrawn
        refusing = [reply for reply in failed.values() if reply.code is code]
        return self._answer(refusing[0], refusing)

    async def _refuse(self, tried: int, refusing: Iterable[str]) -> HoldReply:
        """Have the refusal said and remembered where an account refuses, and at home."""
        if not self._request.plans:
            return HoldReply(Code.REFUSED)
        home = self._realms.of_plan(self._request.plans[tried])[0]
        told = dict.fromkeys((home, *refusing))
        asked = {realm: self._part(tried, realm) for realm in told}
        if not refusing:  # every plan waits for more to be spent: none of them explains the refusal
            asked = {home: replace(asked[home], plans=(replace(asked[home].plans[0], postings=()),))}
        replies = await asyncio.gather(*(self._ledgers[realm].hold(part) for realm, part in asked.items()))
        return self._answer(next((r for r in replies if r.code is not Code.REFUSED), replies[0]), replies)

    def _answer(self, reply: HoldReply, replies: Iterable[HoldReply], realms: tuple[str, ...] = ()) -> HoldReply:
        """One answer out of those of several realms: the states of all accounts, in posting order."""
        by_account = {state.account: state for answer in replies for state in answer.states}
        states: list[AccountState] = []
        if self._request.plans:
            postings = self._request.plans[reply.plan_index].postings
            states = [by_account[p.account] for p in postings if p.account in by_account]
        return replace(reply, states=tuple(states), realms=realms)
