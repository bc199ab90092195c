"""The model: what the ledger promises, in the plainest code that keeps it.

This module is the specification. The Redis ledger must answer every sequence of calls exactly as this does, and a
stateful test holds the two together. It has no concurrency, no deadline and no failure; time comes from the clock it
is given, in microseconds.

Three rules carry the rest:

- A step reads everything first and then changes everything at once (here: nothing can fail in between).
- An account remembers a *generation*, new each time it begins anew. A hold remembers the generation it was made in,
  and its settle moves that one or, where it is gone, none: a balance is never negative.
- What is past its time is absent, whether or not it was deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from ext_proc.ledger import ids, keys
from ext_proc.ledger.amounts import (
    amount,
    charged,
    effective,
    extension_milli,
    largest_output,
    saturated,
    saturated_plan,
)
from ext_proc.ledger.interface import (
    AccountBalance,
    AccountSpec,
    AccountState,
    Alert,
    Basis,
    Charge,
    Code,
    Ended,
    ExtendReply,
    Extension,
    HoldReply,
    HoldRequest,
    Measure,
    Outcome,
    Period,
    Plan,
    Posting,
    RefusedBecause,
    Resolution,
    ResolveReply,
    SeriesPoint,
    Stamp,
    TopConsumer,
    Weighing,
    WindowKind,
)
from ext_proc.ledger.journal import JournalFigures, entry, event, posting_row
from ext_proc.ledger.options import DAY_MS, Retention
from ext_proc.ledger.standing import Slot, Standing
from ext_proc.ledger.windows import SLIDING_US, WindowCache

STEP_BACK_US = 60_000_000
"""Redis time that steps back by no more than this is held at the last time seen; a larger step is believed."""

EXACT_SLOTS = 1_000
SUB_WINDOWS = 60
TOP_MAX = 100
SERIES_MAX = 200
_WITHDRAWN = "withdrawn"
OTHER = "~other"
"""Where spend is counted once there are too many values of a tag to keep apart."""


@dataclass(slots=True)
class _Slot:
    """What fell at one time of a sliding window: one instant, or a whole sub-window counted at its end."""

    spent: int = 0
    held: int = 0


@dataclass(slots=True)
class _Account:
    """One counter. `earlier` holds the balances of generations that were reset by hand."""

    spec: AccountSpec
    name: str
    start_us: int
    end_us: int
    generation: int
    expires_us: int = 0
    cap: int = 0
    spent: int = 0
    held: int = 0
    slots: dict[int, _Slot] = field(default_factory=dict)
    earlier: dict[int, _Slot] = field(default_factory=dict)
    thresholds: tuple[int, ...] = ()
    crossed: int = 0  # the highest threshold told in this window
    latches: bool = False
    top: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _HeldPosting:
    """What a hold set aside on one account."""

    key: str
    generation: int
    measure: Measure
    amount: int
    slot_us: int | None


@dataclass(slots=True)
class _Hold:
    """An open, expired or resolved hold. `fingerprint` is what a repeated call must match."""

    fingerprint: object
    expires_us: int | None = None  # None while open
    resolved: bool = False  # a tombstone: `fingerprint` is then that of the resolution
    expired: bool = False
    reply: HoldReply | None = None
    postings: tuple[_HeldPosting, ...] = ()
    context: str = "{}"
    series: tuple[tuple[str, str], ...] = ()
    waiting: Resolution | None = None  # the settle that came before its hold
    output: int = 0  # what it carries: as granted, later as extended
    home: str = ""  # of a part: the realm that keeps the journal entry
    hold_nanodollars: int = 0


class MemoryLedger:
    """The `Ledger` protocol in one process's memory: for tests, and as the specification."""

    def __init__(self, clock: Callable[[], int], retention: Retention | None = None) -> None:
        self._clock = clock
        self._retention = retention or Retention()
        self._windows = WindowCache()
        self._accounts: dict[str, _Account] = {}
        self._holds: dict[str, _Hold] = {}
        self._refused: dict[str, tuple[object, HoldReply, int]] = {}
        self._leases: dict[str, int] = {}
        self._parts: dict[str, int] = {}  # the leases of parts whose home is another realm
        self._postings: list[dict[str, object]] = []
        self._journal: list[dict[str, object]] = []
        self._outbox: list[Alert] = []
        self._latched: set[str] = set()
        self._series: dict[tuple[Period, str, int], dict[str, list[int]]] = {}
        self._seen_us = 0
        self._seq = 0
        self._changed = False

    # --- the protocol -------------------------------------------------------------------------------------------

    async def hold(self, request: HoldRequest) -> HoldReply:
        """Ask for a hold."""
        now_us = self._begin()
        request = replace(request, plans=tuple(saturated_plan(plan) for plan in request.plans))
        if request.previous is not None:
            self._resolve(request.previous, now_us)
        return self._stamped(self._hold(request, now_us), now_us)

    async def restore(self, request: HoldRequest) -> HoldReply:
        """Hold what was admitted while the ledger was away (`outage.admitted`), whatever the caps say.

        A settle that came before it is charged when the reaper next comes by.
        """
        now_us = self._begin()
        saturated = replace(request, plans=tuple(saturated_plan(plan) for plan in request.plans))
        return self._stamped(self._hold(saturated, now_us, restored=True), now_us)

    async def resolve(self, resolution: Resolution) -> ResolveReply:
        """Settle or release a hold, once."""
        now_us = self._begin()
        code = self._resolve(resolution, now_us)
        return ResolveReply(code, self._stamp(now_us))

    async def extend(self, extension: Extension) -> ExtendReply:
        """Let an open hold carry more output."""
        now_us = self._begin()
        code, output = self._extend(extension, now_us)
        return ExtendReply(code, self._stamp(now_us), output)

    async def renew(self, hold_ids: Sequence[str], lease_ms: int) -> Code:
        """Push the leases of open holds, never pulling one in."""
        now_us = self._begin()
        known = [hold_id for hold_id in hold_ids if hold_id in self._leases or hold_id in self._parts]
        for hold_id in known:
            leases = self._leases if hold_id in self._leases else self._parts
            leases[hold_id] = max(leases[hold_id], now_us + lease_ms * 1000)
            self._changed = True
        self._stamp(now_us)
        return Code.RENEWED if known else Code.NOT_FOUND

    async def expire(self, limit: int) -> int:
        """Charge in full the holds whose lease ran out, the oldest first."""
        now_us = self._begin()
        overdue = sorted((until, hold_id) for hold_id, until in self._leases.items() if until <= now_us)[:limit]
        expired = sum(self._expire(hold_id, now_us) for _, hold_id in overdue)
        self._stamp(now_us)
        return expired

    async def balances(self, *, rule: str | None, limit: int, cursor: str) -> tuple[tuple[AccountBalance, ...], str]:
        """A page of live calendar and lifetime accounts, those first that are forgotten first."""
        now_us = self._begin()
        ordered = sorted(
            ((account.expires_us, key) for key, account in self._accounts.items() if _is_listed(account)),
        )
        names = [key for _, key in ordered]
        first = names.index(cursor) + 1 if cursor in names else 0
        found: list[AccountBalance] = []
        last = cursor
        for key in names[first:]:
            account = self._accounts[key]
            live = account.expires_us > now_us and (account.end_us == 0 or now_us < account.end_us)
            if live and rule in (None, account.spec.expanded_id, account.spec.rule_id):
                if len(found) == limit:
                    return tuple(found), last
                found.append(_balance(account))
            last = key
        return tuple(found), ""

    async def journal(self, limit: int) -> tuple[dict[str, object], ...]:
        """The newest journal entries, newest first."""
        return tuple(reversed(self._journal[-limit:])) if limit > 0 else ()

    async def reset(self, account: str, note: str) -> Code:
        """Begin an account anew; what is in flight settles in the generation it was held in."""
        now_us = self._begin()
        known = self._accounts.get(account)
        if known is None or known.expires_us <= now_us or not _is_listed(known):
            return Code.NOT_FOUND
        self._journal.append(event("reset", account, known.spent, note, now_us))
        known.earlier[known.generation] = _Slot(known.spent, known.held)
        known.generation = self._seq + 1
        known.spent = known.held = known.crossed = 0
        known.top.clear()
        self._changed = True
        self._stamp(now_us)
        return Code.RESET

    async def resume(self, account: str, note: str) -> Code:
        """Open a latched account again."""
        now_us = self._begin()
        digest = account.split(":")[1]
        if digest not in self._latched:
            return Code.NOT_FOUND
        known = self._accounts.get(account)
        spent = known.spent if known is not None and known.expires_us > now_us else 0
        self._journal.append(event("resumed", account, spent, note, now_us))
        self._latched.discard(digest)
        self._changed = True
        self._stamp(now_us)
        return Code.RESUMED

    async def alerts(self, after: str, limit: int) -> tuple[Alert, ...]:
        """Thresholds crossed, oldest first; `after` is the id of one already seen."""
        ids_told = [alert.id for alert in self._outbox]
        first = ids_told.index(after) + 1 if after else 0
        return tuple(self._outbox[first : first + limit])

    async def top_consumers(self, account: str, limit: int) -> tuple[TopConsumer, ...]:
        """The tag values that spent most on an account."""
        known = self._accounts.get(account)
        ranked = sorted(known.top.items(), key=_rank, reverse=True) if known else []
        return tuple(TopConsumer(tag, value, spent) for (tag, value), spent in ranked[:limit])

    async def series(self, tag: str, period: Period, *, start_us: int, end_us: int) -> dict[str, list[SeriesPoint]]:
        """Spend by value of a tag in the UTC hours or days of [start, end)."""
        points: dict[str, list[SeriesPoint]] = {}
        for (kind, name, start), values in sorted(self._series.items()):
            if kind is period and name == tag and start_us - SLIDING_US[period] < start < end_us:
                for value, (cost, tokens) in values.items():
                    points.setdefault(value, []).append(SeriesPoint(start, cost, tokens))
        return points

    async def open_holds(self) -> int:
        """How many holds are open now."""
        return len(self._leases)

    # --- parts of holds over several realms -----------------------------------------------------------------------

    async def weigh(self, request: HoldRequest) -> Weighing:
        """What this realm would say to a part, or what it has said before."""
        now_us = self._begin()
        request = replace(request, plans=tuple(saturated_plan(plan) for plan in request.plans))
        known = self._repeated(request, now_us)
        if known is not None:
            return Weighing(reply=self._stamped(known, now_us))
        return Weighing(tuple(self._weighed(request, plan, now_us) for plan in request.plans))

    async def withdraw(self, hold_id: str) -> Code:
        """Take a part back because the whole is not held: it is no charge, and no row tells of it."""
        now_us = self._begin()
        code = self._resolve(Resolution(hold_id, Charge(), Basis.RELEASED), now_us, withdrawn=True)
        self._stamp(now_us)
        return code

    async def outcome(self, hold_id: str) -> Outcome:
        """How a hold that is at home here ended. One that is unknown here is withdrawn by asking."""
        now_us = self._begin()
        known = self._known(hold_id, now_us)
        if known is None:
            if self._is_too_old(hold_id, now_us):
                return Outcome(Ended.EXPIRED)
            self._entomb(hold_id, _WITHDRAWN, now_us)
            self._stamp(now_us)
            return Outcome(Ended.WITHDRAWN)
        if known.expired:
            return Outcome(Ended.EXPIRED)
        if not known.resolved:
            return Outcome(Ended.OPEN)
        if known.fingerprint == _WITHDRAWN:
            return Outcome(Ended.WITHDRAWN)
        basis, charge = cast("tuple[Basis, Charge]", known.fingerprint)
        return Outcome(Ended.RESOLVED, Resolution(hold_id, charge, basis))

    async def overdue_parts(self, limit: int) -> tuple[tuple[str, str], ...]:
        """Parts whose lease ran out, the oldest first: (hold id, home realm)."""
        now_us = self._begin()
        overdue = sorted((until, hold_id) for hold_id, until in self._parts.items() if until <= now_us)[:limit]
        return tuple((hold_id, self._holds[hold_id].home) for _, hold_id in overdue)

    async def expire_part(self, hold_id: str) -> Code:
        """Charge a part in full, because its home did so."""
        now_us = self._begin()
        if hold_id in self._parts:
            self._expire(hold_id, now_us)
        self._stamp(now_us)
        return Code.SETTLED

    def standing(self, spec: AccountSpec) -> Standing:
        """What an account holds now: what `stand` of another ledger takes over."""
        now_us = self._begin()
        account = self._account(spec, now_us)
        ranked = sorted(account.top.items(), key=_rank, reverse=True)
        return Standing(
            spent=account.spent,
            held=account.held,
            slots=tuple(Slot(at_us, slot.spent, slot.held) for at_us, slot in sorted(account.slots.items())),
            latched=keys.digest(spec) in self._latched,
            top=tuple(TopConsumer(tag, value, spent) for (tag, value), spent in ranked),
        )

    def stand(self, spec: AccountSpec, standing: Standing) -> None:
        """Take over what an account holds elsewhere."""
        now_us = self._begin()
        account = self._account(spec, now_us)
        self._accounts[account.name] = account
        account.generation = self._seq + 1
        account.cap, account.thresholds, account.latches = saturated(spec.cap), spec.alert_thresholds, spec.latch
        self._keep(account, now_us)
        account.spent, account.held = standing.spent, standing.held
        account.slots = {slot.at_us: _Slot(slot.spent, slot.held) for slot in standing.slots}
        account.top = {(consumer.tag, consumer.value): consumer.spent for consumer in standing.top}
        if standing.latched:
            self._latched.add(keys.digest(spec))

    # --- hold ---------------------------------------------------------------------------------------------------

    def _hold(self, request: HoldRequest, now_us: int, *, restored: bool = False) -> HoldReply:
        if restored:
            return self._restore(request, now_us)
        repeated = self._repeated(request, now_us)
        if repeated is not None:
            return repeated
        states: tuple[AccountState, ...] = ()
        tried = max(len(request.plans) - 1, 0)
        if request.part is not None and request.part.refused:
            return self._refuse(request, 0, self._refusals(request, request.plans[0], now_us), now_us)
        reached = [entry for entry in enumerate(request.plans) if self._is_reached(entry[1], now_us)]
        for index, plan in reached:
            tried = index
            states = self._refusals(request, plan, now_us)
            if not states:
                return self._grant(request, index, now_us)
        return self._refuse(request, tried, states, now_us)

    def _restore(self, request: HoldRequest, now_us: int) -> HoldReply:
        known = self._known(request.hold_id, now_us)
        waiting = known.waiting if known is not None and known.resolved else None
        if known is not None and waiting is None and known.fingerprint != _WITHDRAWN:
            return _repeated(known, content(request))
        reply = self._grant(request, 0, now_us)
        if waiting is not None:
            kept = self._holds[request.hold_id]
            kept.waiting = waiting
            leases = self._parts if kept.home else self._leases
            leases[request.hold_id] = now_us
        return reply

    def _repeated(self, request: HoldRequest, now_us: int) -> HoldReply | None:
        """What a repeated call gets, or None for a new id."""
        fingerprint = content(request)
        known = self._known(request.hold_id, now_us)
        if known is not None:
            return _repeated(known, fingerprint)
        refused = self._refused.get(request.hold_id)
        if refused is not None and refused[2] > now_us:
            return refused[1] if refused[0] == fingerprint else HoldReply(Code.EXISTS_WITH_DIFFERENT_AMOUNT)
        return HoldReply(Code.TOO_OLD) if self._is_too_old(request.hold_id, now_us) else None

    def _weighed(self, request: HoldRequest, plan: Plan, now_us: int) -> int:
        if not self._is_reached(plan, now_us):
            return Weighing.LEFT_OUT
        return Weighing.REFUSES if self._refusals(request, plan, now_us) else self._affordable(plan, now_us)

    def _refuse(self, request: HoldRequest, tried: int, states: tuple[AccountState, ...], now_us: int) -> HoldReply:
        for state in states:
            account = self._account(state.account, now_us)
            self._refresh_rule(account, state.account, now_us)
            if state.account.latch and state.refused is RefusedBecause.SPENT:
                self._latched.add(keys.digest(state.account))
        reply = HoldReply(Code.REFUSED, plan_index=_first(request) + tried, states=states)
        self._refused[request.hold_id] = (content(request), reply, now_us + self._retention.refused_ms * 1000)
        self._changed = True
        return reply

    def _refusals(self, request: HoldRequest, plan: Plan, now_us: int) -> tuple[AccountState, ...]:
        """The accounts that stand in the way of the plan's smallest output; none when it is admissible."""
        states = []
        for posting in plan.postings:
            account = self._account(posting.account, now_us)
            asked = amount(posting, plan.output_min)
            because = self._refused_because(posting, account, asked)
            if because is not None:
                state = _state(posting, account, _enough_forgotten_us(posting, account, asked, because))
                top = _top_consumer(account, request.top_by)
                states.append(replace(state, refused=because, asked=asked, top_consumer=top))
        return tuple(states)

    def _is_reached(self, plan: Plan, now_us: int) -> bool:
        """Whether every account that the plan waits for has spent enough."""
        return all(
            posting.spent_from is None or self._account(posting.account, now_us).spent >= posting.spent_from
            for posting in plan.postings
        )

    def _refused_because(self, posting: Posting, account: _Account, asked: int) -> RefusedBecause | None:
        """Why this account refuses, most lasting reason first. Nothing asked is never refused for want of money."""
        if posting.account.latch and posting.deciding and keys.digest(posting.account) in self._latched:
            return RefusedBecause.LATCHED
        if posting.spent_below is not None and account.spent >= posting.spent_below:
            return RefusedBecause.CONSTRAINED
        if not posting.deciding or asked == 0:
            return None
        cap = saturated(posting.account.cap)
        if asked > cap:
            return RefusedBecause.NEVER_FITS
        if account.spent + asked > cap:
            return RefusedBecause.SPENT
        if account.spent + account.held + asked > cap:
            return RefusedBecause.CONTENDED
        return None

    def _grant(self, request: HoldRequest, index: int, now_us: int) -> HoldReply:
        plan = request.plans[index]
        output = self._affordable(plan, now_us)
        held = tuple(self._set_aside(posting, amount(posting, output), now_us) for posting in plan.postings)
        states = tuple(self._granted_state(posting, now_us) for posting in plan.postings)
        reply = HoldReply(Code.HELD, plan_index=_first(request) + index, output_limit=output, states=states)
        home, hold_nanodollars = (request.part.home, request.part.hold_nanodollars) if request.part else ("", 0)
        costs = [posting.amount for posting in held if posting.measure is Measure.COST]
        self._holds[request.hold_id] = _Hold(
            content(request),
            reply=reply,
            postings=held,
            context=request.context,
            series=request.series,
            output=output,
            home=home,
            hold_nanodollars=max(hold_nanodollars, *costs, 0),
        )
        leases = self._parts if home else self._leases
        leases[request.hold_id] = now_us + request.lease_ms * 1000
        self._changed = True
        return reply

    def _affordable(self, plan: Plan, now_us: int) -> int:
        """The largest output that every account can carry."""
        output = plan.output_max
        for posting in plan.postings:
            if posting.deciding:
                account = self._account(posting.account, now_us)
                room = saturated(posting.account.cap) - account.spent - account.held
                output = min(output, largest_output(posting, room, plan.output_min, plan.output_max))
        return output

    def _set_aside(self, posting: Posting, amount: int, now_us: int) -> _HeldPosting:
        account = self._account(posting.account, now_us)
        self._accounts[account.name] = account
        if not account.generation:
            account.generation = self._seq + 1
        self._refresh_rule(account, posting.account, now_us)
        self._keep(account, now_us)
        account.held += amount
        slot_us = None
        if account.spec.window.kind is WindowKind.SLIDING:
            slot_us = _slot_us(account, now_us)
            account.slots.setdefault(slot_us, _Slot()).held += amount
        return _HeldPosting(account.name, account.generation, posting.account.measure, amount, slot_us)

    def _granted_state(self, posting: Posting, now_us: int) -> AccountState:
        account = self._account(posting.account, now_us)
        end_us = None
        if account.slots:
            end_us = min(account.slots) + _period_us(account)
        return _state(posting, account, end_us)

    # --- extend -------------------------------------------------------------------------------------------------

    def _extend(self, extension: Extension, now_us: int) -> tuple[Code, int]:
        known = self._known(extension.hold_id, now_us)
        if known is None:
            return Code.NOT_FOUND, 0
        if known.resolved or known.expired or known.waiting is not None:
            return Code.ALREADY_RESOLVED, 0
        wanted = saturated(extension.output) - known.output
        if wanted <= 0:
            return Code.EXISTS, known.output
        caps = {keys.digest(account): saturated(account.cap) for account in extension.may_refuse}
        granted = min(self._room(extension, posting, caps, wanted, now_us) for posting in (None, *known.postings))
        if granted < 1:
            return Code.EXHAUSTED, known.output
        postings = []
        for posting in known.postings:
            more = -(-extension_milli(extension, posting.measure) * granted // 1000)
            longer = replace(posting, amount=saturated(posting.amount + more))
            self._post(known, posting, longer.amount - posting.amount, 0, now_us)
            postings.append(longer)
        known.postings = tuple(postings)
        known.output += granted
        costs = [posting.amount for posting in postings if posting.measure is Measure.COST]
        known.hold_nanodollars = max(known.hold_nanodollars, *costs, 0)
        self._changed = True
        return Code.EXTENDED, known.output

    def _room(
        self, extension: Extension, posting: _HeldPosting | None, caps: dict[str, int], wanted: int, now_us: int
    ) -> int:
        """How many of the tokens wanted an account has room for. One that has begun anew since does not refuse."""
        cap = None if posting is None else caps.get(posting.key.split(":")[1])
        milli = 0 if posting is None else extension_milli(extension, posting.measure)
        account = None if posting is None else self._accounts.get(posting.key)
        if posting is None or cap is None or not milli or account is None or account.expires_us <= now_us:
            return wanted
        if account.generation != posting.generation:
            return wanted
        if posting.slot_us is not None:
            _forget(account, now_us)
        room = cap - account.spent - account.held
        return min(wanted, max(0, room) * 1000 // milli)

    # --- resolve ------------------------------------------------------------------------------------------------

    def _resolve(self, resolution: Resolution, now_us: int, *, withdrawn: bool = False) -> Code:
        charge = effective(resolution)
        fingerprint: object = _WITHDRAWN if withdrawn else (resolution.basis, charge)
        known = self._known(resolution.hold_id, now_us)
        if known is None or (known.fingerprint == _WITHDRAWN and not withdrawn):
            if self._is_too_old(resolution.hold_id, now_us):
                return Code.TOO_OLD
            self._entomb(resolution.hold_id, fingerprint, now_us)
            if resolution.basis is not Basis.RELEASED:
                self._holds[resolution.hold_id].waiting = resolution
            return Code.TOMBSTONED
        if known.waiting is not None:
            first = (known.waiting.basis, effective(known.waiting))
            return Code.EXISTS if first == fingerprint else Code.ALREADY_RESOLVED
        if known.resolved:
            return Code.EXISTS if known.fingerprint == fingerprint else Code.ALREADY_RESOLVED
        return self._settle(resolution, known, fingerprint, now_us)

    def _settle(self, resolution: Resolution, known: _Hold, fingerprint: object, now_us: int) -> Code:
        """Replace what a hold set aside, or was charged when it expired, by the charge."""
        charge = effective(resolution)
        for posting in known.postings:
            spent = charged(charge, posting.measure)
            if known.expired:
                self._post(known, posting, 0, spent - _expired_charge(posting), now_us)
            else:
                self._post(known, posting, -posting.amount, spent, now_us)
        cost = charge.cost_nanodollars - (known.hold_nanodollars if known.expired else 0)
        if not known.home:
            self._record_series(known.series, cost, charged(charge, Measure.TOKENS), now_us)
        if fingerprint != _WITHDRAWN:
            self._write_entry(resolution, known, cost, now_us)
        self._leases.pop(resolution.hold_id, None)
        self._parts.pop(resolution.hold_id, None)
        self._entomb(resolution.hold_id, fingerprint, now_us)
        if known.expired:
            return Code.CORRECTED
        return Code.RELEASED if resolution.basis is Basis.RELEASED else Code.SETTLED

    def _expire(self, hold_id: str, now_us: int) -> bool:
        """Whether the hold expired: one whose settle was there before it is charged that instead."""
        known = self._holds[hold_id]
        if known.waiting is not None:
            self._settle(known.waiting, known, (known.waiting.basis, effective(known.waiting)), now_us)
            return False
        for posting in known.postings:
            self._post(known, posting, -posting.amount, _expired_charge(posting), now_us)
        if not known.home:
            self._record_series(known.series, known.hold_nanodollars, 0, now_us)
        self._write_entry(Resolution(hold_id, Charge(), Basis.EXPIRED), known, known.hold_nanodollars, now_us)
        known.expired = True
        # What waited long may be told late: the hold of a batch can be corrected for as long again as it was held.
        lived_us = now_us - ids.minted_or_zero_us(hold_id)
        known.expires_us = max(self._remembered_until_us(hold_id, now_us), now_us + lived_us)
        self._leases.pop(hold_id, None)
        self._parts.pop(hold_id, None)
        self._changed = True
        return True

    def _post(self, hold: _Hold, posting: _HeldPosting, held: int, spent: int, now_us: int) -> None:
        """Move one account, if the generation (and the slot) that the hold was made in is still there."""
        account = self._accounts.get(posting.key)
        if account is None:
            return
        earlier = account.earlier.get(posting.generation)
        if earlier is not None:
            earlier.held += held
            earlier.spent += spent
        if account.expires_us <= now_us or account.generation != posting.generation:
            return
        if posting.slot_us is not None:
            _forget(account, now_us)
            slot = account.slots.get(posting.slot_us)
            if slot is None:
                return
            slot.held += held
            slot.spent += spent
        account.held += held
        account.spent += spent
        if _is_listed(account):
            self._spend_moved(account, hold.series, spent, now_us)

    def _spend_moved(self, account: _Account, series: tuple[tuple[str, str], ...], spent: int, now_us: int) -> None:
        """What follows when spend moves: top consumers, thresholds, the latch."""
        if spent:
            is_full = len(account.top) >= TOP_MAX
            for tag, value in series:
                counted = (tag, OTHER) if is_full and (tag, value) not in account.top else (tag, value)
                account.top[counted] = account.top.get(counted, 0) + spent
        self._alert(account, now_us)
        if account.latches and account.spent >= account.cap:
            self._latched.add(account.name.split(":")[1])

    def _alert(self, account: _Account, now_us: int) -> None:
        """Tell each threshold that the spend has passed, once per window."""
        for percent in account.thresholds:
            if account.cap and percent > account.crossed and account.spent * 100 >= percent * account.cap:
                account.crossed = percent
                self._outbox.append(_told(account, percent, str(len(self._outbox)), now_us))

    def _refresh_rule(self, account: _Account, spec: AccountSpec, now_us: int) -> None:
        """The rule may have been edited: thresholds above what is spent are armed again, those below are told."""
        thresholds = tuple(sorted(set(spec.alert_thresholds)))
        edited = (account.cap, account.thresholds) != (saturated(spec.cap), thresholds)
        account.cap, account.thresholds, account.latches = saturated(spec.cap), thresholds, spec.latch
        if edited and _is_listed(account) and account.name in self._accounts:
            reached = [percent for percent in thresholds if account.spent * 100 >= percent * account.cap]
            account.crossed = min(account.crossed, max(reached, default=0))
            self._alert(account, now_us)

    def _record_series(self, series: tuple[tuple[str, str], ...], cost: int, tokens: int, now_us: int) -> None:
        if not cost and not tokens:
            return
        for period in (Period.HOUR, Period.DAY):
            start_us = now_us - now_us % SLIDING_US[period]
            for tag, value in series:
                values = self._series.setdefault((period, tag, start_us), {})
                counted = OTHER if len(values) >= SERIES_MAX and value not in values else value
                point = values.setdefault(counted, [0, 0])
                point[0] += cost
                point[1] += tokens

    def _entomb(self, hold_id: str, fingerprint: object, now_us: int) -> None:
        until_us = self._remembered_until_us(hold_id, now_us)
        self._holds[hold_id] = _Hold(fingerprint, expires_us=until_us, resolved=True)
        self._changed = True

    def _write_entry(self, resolution: Resolution, known: _Hold, charge_nanodollars: int, now_us: int) -> None:
        charge = effective(resolution)
        figures = JournalFigures(
            hold_id=resolution.hold_id,
            time_us=now_us,
            charge_nanodollars=charge_nanodollars,
            hold_nanodollars=known.hold_nanodollars,
            input_tokens=charge.input_tokens,
            output_tokens=charge.output_tokens,
            basis=resolution.basis,
            correction=known.expired,
        )
        if known.home:
            self._postings.append(posting_row(figures, known.home))
        else:
            self._journal.append(entry(known.context, resolution.detail, figures))

    # --- time, accounts -----------------------------------------------------------------------------------------

    def _begin(self) -> int:
        now_us = self._clock()
        self._changed = False
        if 0 < self._seen_us - now_us <= STEP_BACK_US:
            return self._seen_us
        return now_us

    def _stamp(self, now_us: int) -> Stamp:
        if self._changed:
            self._seq += 1
            self._seen_us = now_us
        return Stamp(now_us, "model", self._seq)

    def _stamped(self, reply: HoldReply, now_us: int) -> HoldReply:
        return replace(reply, stamp=self._stamp(now_us))

    def _known(self, hold_id: str, now_us: int) -> _Hold | None:
        known = self._holds.get(hold_id)
        if known is not None and known.expires_us is not None and known.expires_us <= now_us:
            return None
        return known

    def _remembered_until_us(self, hold_id: str, now_us: int) -> int:
        """From now, or from the id's mint time should Redis time have stepped back behind that."""
        return max(now_us, ids.minted_or_zero_us(hold_id)) + self._retention.resolved_ms * 1000

    def _is_too_old(self, hold_id: str, now_us: int) -> bool:
        return ids.minted_or_zero_us(hold_id) < now_us - self._retention.resolved_ms * 1000

    def _account(self, spec: AccountSpec, now_us: int) -> _Account:
        """The account as it is now; a new one is not kept until something is held on it."""
        bounds = self._windows.bounds(spec.window, now_us) or (0, 0)
        digest = keys.digest(spec)
        name = f"{spec.window.kind}:{keys.account_name(spec.window.kind, digest, bounds[0])}"
        account = self._accounts.get(name)
        if account is None or account.expires_us <= now_us:
            return _Account(spec, name, *bounds, generation=0)
        _forget(account, now_us)
        return account

    def _keep(self, account: _Account, now_us: int) -> None:
        """Push the time the account is forgotten, in steps, so that a busy one is not written for it each time."""
        match account.spec.window.kind:
            case WindowKind.CALENDAR:
                needed, slack = account.end_us + self._retention.resolved_ms * 1000, 0
            case WindowKind.LIFETIME:
                needed, slack = now_us + self._retention.lifetime_idle_ms * 1000, DAY_MS * 1000
            case WindowKind.SLIDING:
                needed, slack = now_us + 2 * _period_us(account), 2 * _period_us(account)
            case WindowKind.OPEN:
                needed = now_us + self._retention.resolved_ms * 1000
                slack = self._retention.resolved_ms * 1000
        if account.expires_us < needed:
            account.expires_us = needed + slack


def _repeated(known: _Hold, fingerprint: object) -> HoldReply:
    if known.resolved or known.expired:
        return HoldReply(Code.ALREADY_RESOLVED)
    if known.fingerprint != fingerprint:
        return HoldReply(Code.EXISTS_WITH_DIFFERENT_AMOUNT)
    assert known.reply is not None, "an open hold remembers its answer"
    return replace(known.reply, code=Code.EXISTS)


def _first(request: HoldRequest) -> int:
    """Where the first plan of a part stands among those of the whole request."""
    return 0 if request.part is None else request.part.plan_index


def content(request: HoldRequest) -> object:
    """What makes two hold requests the same: accounts, amounts and output ranges of every plan; not caps or context."""
    if request.part is not None:
        return request.part.fingerprint
    return tuple(
        (
            plan.target,
            plan.output_min,
            plan.output_max,
            tuple(
                (keys.digest(p.account), p.deciding, p.fixed, p.per_output_milli, p.spent_below, p.spent_from)
                for p in plan.postings
            ),
        )
        for plan in request.plans
    )


def _state(posting: Posting, account: _Account, sliding_end_us: int | None) -> AccountState:
    kind = account.spec.window.kind
    calendar = kind is WindowKind.CALENDAR
    return AccountState(
        account=posting.account,
        deciding=posting.deciding,
        spent=account.spent,
        held=account.held,
        window_start_us=account.start_us if calendar else None,
        window_end_us=account.end_us if calendar else sliding_end_us,
    )


def _period_us(account: _Account) -> int:
    period = account.spec.window.period
    assert period is not None, "a sliding window has a period"
    return SLIDING_US[period]


def _slot_us(account: _Account, now_us: int) -> int:
    """The slot a hold falls in: its own instant while the cap is small, else the end of its sub-window."""
    if account.cap <= EXACT_SLOTS and len(account.slots) < EXACT_SLOTS:
        return now_us
    sub_window_us = _period_us(account) // SUB_WINDOWS
    return (now_us // sub_window_us + 1) * sub_window_us


def _enough_forgotten_us(posting: Posting, account: _Account, asked: int, because: RefusedBecause) -> int | None:
    """When a sliding window will have forgotten enough for the refused amount; None if that never happens."""
    if because not in (RefusedBecause.SPENT, RefusedBecause.CONTENDED):
        return None
    total = account.spent + account.held + asked
    for slot_us in sorted(account.slots):
        slot = account.slots[slot_us]
        total -= slot.spent + slot.held
        if total <= saturated(posting.account.cap):
            return slot_us + _period_us(account)
    return None


def _forget(account: _Account, now_us: int) -> None:
    """Drop the slots of a sliding window that are a whole period old."""
    for slot_us in [slot_us for slot_us in account.slots if slot_us <= now_us - _period_us(account)]:
        slot = account.slots.pop(slot_us)
        account.spent -= slot.spent
        account.held -= slot.held


def _expired_charge(posting: _HeldPosting) -> int:
    """What expiry charges: all that was held, but nothing where only the open requests are counted."""
    return 0 if posting.measure is Measure.CONCURRENT else posting.amount


def _rank(consumer: tuple[tuple[str, str], int]) -> tuple[int, str]:
    (tag, value), spent = consumer
    return spent, f"{tag}\x1f{value}"


def _top_consumer(account: _Account, tags: tuple[str, ...]) -> TopConsumer | None:
    """The largest consumer by the first of these tags that has one."""
    for tag in tags:
        for (name, value), spent in sorted(account.top.items(), key=_rank, reverse=True):
            if name == tag and value != OTHER:
                return TopConsumer(tag, value, spent)
    return None


def _told(account: _Account, percent: int, place: str, now_us: int) -> Alert:
    balance = _balance(account)
    return Alert(
        id=place,
        account=account.name,
        rule=balance.rule,
        bucket=balance.bucket,
        measure=balance.measure,
        window_start_us=balance.window_start_us,
        window_end_us=balance.window_end_us,
        percent=percent,
        spent=account.spent,
        held=account.held,
        cap=account.cap,
        time_us=now_us,
    )


def _is_listed(account: _Account) -> bool:
    return account.spec.window.kind in (WindowKind.CALENDAR, WindowKind.LIFETIME)


def _balance(account: _Account) -> AccountBalance:
    spec = account.spec
    calendar = spec.window.kind is WindowKind.CALENDAR
    return AccountBalance(
        rule=spec.expanded_id,
        template=spec.rule_id,
        document=spec.document_name,
        document_type=spec.document_type,
        bucket=spec.bucket,
        measure=spec.measure,
        window=spec.window,
        window_start_us=account.start_us if calendar else None,
        window_end_us=account.end_us if calendar else None,
        cap=account.cap,
        spent=account.spent,
        held=account.held,
        name=account.name,
    )
