"""What travels between a worker and the scripts, and nothing else: requests as JSON, answers as words.

A script's answer is lines of text: code, redis_us, epoch, seq, and what else it has to say. Numbers in a request stay
within 2^53 − 1 (`amounts`), so that JSON's doubles hold them exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import orjson

from ext_proc.ledger import keys
from ext_proc.ledger.amounts import MAX_PER_OUTPUT_MILLI, charged, effective, rate, saturated
from ext_proc.ledger.interface import (
    AccountSpec,
    AccountState,
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
    Plan,
    RefusedBecause,
    Resolution,
    ResolveReply,
    Stamp,
    TopConsumer,
    Weighing,
    WindowKind,
)
from ext_proc.ledger.options import Retention
from ext_proc.ledger.windows import SLIDING_US, WindowCache

WINDOW_STALE = "window_stale"
"""The script's way to say that a window in the request has ended: ask again with the time in the stamp."""

_ACCOUNTS_CACHED = 50_000
_WITHDRAWN = "withdrawn"


@dataclass(slots=True)
class _Known:
    """An account that was seen before, as the script reads it, for as long as its window lasts."""

    digest: str
    bounds: tuple[int, int] | None
    encoded: orjson.Fragment


class HoldEncoder:
    """Hold requests as the script reads them. Remembers the accounts it has seen."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._windows = WindowCache()
        self._known: dict[AccountSpec, _Known] = {}

    def encode(self, request: HoldRequest, now_us: int, *, restored: bool = False, weigh: bool = False) -> bytes:
        """The request with the calendar windows of `now_us`. `restored`: it was admitted before, and is not refused for
        its age. `weigh`: only ask what would be said to each plan.
        """
        accounts: list[orjson.Fragment] = []
        positions: dict[str, int] = {}
        plans = orjson.dumps([self._plan(plan, accounts, positions, now_us) for plan in request.plans])
        fingerprint = blake2b(plans, digest_size=8)
        fingerprint.update(" ".join(positions).encode())
        retention, part = self._retention, request.part
        ask: dict[str, object] = {
            "id": request.hold_id,
            "fingerprint": fingerprint.hexdigest() if part is None else part.fingerprint,
            "first": 0 if part is None else part.plan_index,
            "nanodollars": 0 if part is None else part.hold_nanodollars,
            "refused": part is not None and part.refused,
            "weigh": weigh,
            "lease_us": request.lease_ms * 1000,
            "keep_us": retention.resolved_ms * 1000,
            "refused_us": retention.refused_ms * 1000,
            "idle_us": retention.lifetime_idle_ms * 1000,
            "context": request.context if part is None or not part.home else f"@{part.home}",
            "series": [(tag, value, keys.series_name(tag)) for tag, value in request.series],
            "top_by": request.top_by,
            "accounts": accounts,
            "plans": orjson.Fragment(plans),
            "restored": restored,
        }
        if request.previous is not None:
            ask["previous"] = _resolution(request.previous)
        return orjson.dumps(ask)

    def _plan(
        self, plan: Plan, accounts: list[orjson.Fragment], positions: dict[str, int], now_us: int
    ) -> dict[str, object]:
        postings = []
        seen = set()
        for posting in plan.postings:
            known = self._account(posting.account, now_us)
            assert known.digest not in seen, f"two postings of one plan on one account: {posting.account.rule_id}"
            seen.add(known.digest)
            position = positions.get(known.digest)
            if position is None:
                position = positions[known.digest] = len(positions) + 1
                accounts.append(known.encoded)
            postings.append(
                {
                    "account": position,
                    "deciding": posting.deciding,
                    "fixed": saturated(posting.fixed),
                    "milli": rate(posting),
                    "spent_below": -1 if posting.spent_below is None else saturated(posting.spent_below),
                    "spent_from": -1 if posting.spent_from is None else saturated(posting.spent_from),
                }
            )
        return {
            "target": plan.target,
            "output_min": saturated(plan.output_min),
            "output_max": saturated(plan.output_max),
            "postings": postings,
        }

    def _account(self, spec: AccountSpec, now_us: int) -> _Known:
        bounds = self._windows.bounds(spec.window, now_us)
        known = self._known.get(spec)
        if known is None or known.bounds != bounds:
            if len(self._known) >= _ACCOUNTS_CACHED:
                self._known.clear()
            known = self._known[spec] = _encoded(spec, bounds)
        return known


def _encoded(spec: AccountSpec, bounds: tuple[int, int] | None) -> _Known:
    digest = keys.digest(spec)
    account: dict[str, object] = {
        "kind": spec.window.kind,
        "measure": spec.measure,
        "thresholds": ",".join(map(str, sorted(set(spec.alert_thresholds)))),
        "latch": spec.latch,
        "cap": saturated(spec.cap),
        "name": keys.account_name(spec.window.kind, digest, bounds[0] if bounds else 0),
        "meta": describe(spec, bounds),
    }
    if spec.window.kind is WindowKind.SLIDING:
        assert spec.window.period is not None, "a sliding window has a period"
        account["period"] = SLIDING_US[spec.window.period]
    if bounds is not None:
        account["window_start"], account["window_end"] = bounds
    return _Known(digest, bounds, orjson.Fragment(orjson.dumps(account)))


def describe(spec: AccountSpec, bounds: tuple[int, int] | None) -> str:
    """What an account keeps about itself, written when it begins, so that Redis alone can list it."""
    window = spec.window
    description = [
        spec.expanded_id,
        spec.rule_id,
        spec.document_name,
        spec.document_type,
        spec.bucket,
        spec.measure,
        window.kind,
        window.period,
        window.timezone,
        *(bounds or (None, None)),
    ]
    return orjson.dumps(description).decode()


def encode_resolution(resolution: Resolution, retention: Retention) -> bytes:
    """A settle or release as the script reads it."""
    return orjson.dumps({**_resolution(resolution), "keep_us": retention.resolved_ms * 1000})


def _resolution(resolution: Resolution) -> dict[str, object]:
    charge = effective(resolution)
    by_measure = {str(measure): charged(charge, measure) for measure in Measure}
    return {
        "id": resolution.hold_id,
        "basis": resolution.basis,
        "fingerprint": f"{resolution.basis} {' '.join(map(str, by_measure.values()))}",
        "charge": by_measure,
        "detail": resolution.detail,
    }


def encode_extension(extension: Extension) -> bytes:
    """An extension as the script reads it: caps by the digest of their account, whatever its window."""
    return orjson.dumps(
        {
            "id": extension.hold_id,
            "output": saturated(extension.output),
            "cost_milli": min(max(extension.cost_milli, 0), MAX_PER_OUTPUT_MILLI),
            "caps": {keys.digest(account): saturated(account.cap) for account in extension.may_refuse},
        }
    )


def decode_extend(reply: Sequence[bytes]) -> ExtendReply:
    """The script's answer to an extension."""
    return ExtendReply(Code(reply[0].decode()), stamp(reply), int(reply[4]))


def stamp(reply: Sequence[bytes]) -> Stamp:
    """When the answer was given, by which life of Redis."""
    return Stamp(int(reply[1]), reply[2].decode(), int(reply[3]))


def decode_hold(request: HoldRequest, reply: Sequence[bytes]) -> HoldReply:
    """The script's answer to a hold. A refusal's states belong to the last plan."""
    code = Code(reply[0].decode())
    when = stamp(reply)
    if code not in (Code.HELD, Code.EXISTS, Code.REFUSED):
        return HoldReply(code, when)
    index, output, words = int(reply[4]), int(reply[5]), reply[6].decode()
    first = 0 if request.part is None else request.part.plan_index
    plan = request.plans[index - first] if request.plans else None
    states = (
        tuple(_state(plan, position, text) for position, text in enumerate(words.split(";"))) if plan and words else ()
    )
    if code is Code.REFUSED:
        return HoldReply(code, when, index, states=_with_top_consumers(plan, states, reply[7]))
    return HoldReply(code, when, index, output, states)


def _with_top_consumers(plan: Plan | None, states: tuple[AccountState, ...], told: bytes) -> tuple[AccountState, ...]:
    if plan is None or not told:
        return states
    tops = {
        plan.postings[at].account: TopConsumer(tag, value, int(spent)) for at, tag, value, spent in orjson.loads(told)
    }
    return tuple(replace(state, top_consumer=tops.get(state.account)) for state in states)


def _state(plan: Plan, position: int, text: str) -> AccountState:
    spent, held, start, end, *refusal = text.split(" ")
    because, asked = None, 0
    if refusal:
        position, because, asked = int(refusal[0]), RefusedBecause(refusal[1]), int(refusal[2])
    posting = plan.postings[position]
    return AccountState(
        account=posting.account,
        deciding=posting.deciding,
        spent=int(spent),
        held=int(held),
        window_start_us=None if start == "-" else int(start),
        window_end_us=None if end == "-" else int(end),
        refused=because,
        asked=asked,
    )


def decode_resolve(reply: Sequence[bytes]) -> ResolveReply:
    """The script's answer to a settle or release."""
    return ResolveReply(Code(reply[0].decode()), stamp(reply))


def decode_weighing(request: HoldRequest, reply: Sequence[bytes]) -> Weighing:
    """The script's answer to a hold that is only weighed."""
    if reply[0] != b"weighed":
        return Weighing(reply=decode_hold(request, reply))
    named = {b"refused": Weighing.REFUSES, b"left_out": Weighing.LEFT_OUT}
    return Weighing(tuple(named[word] if word in named else int(word) for word in reply[4].split()))


def encode_withdrawal(hold_id: str, retention: Retention) -> bytes:
    """A withdrawal as the script that resolves reads it: a release that leaves no trace in the journal."""
    asked = _resolution(Resolution(hold_id, Charge(), Basis.RELEASED))
    return orjson.dumps({**asked, "fingerprint": _WITHDRAWN, "keep_us": retention.resolved_ms * 1000})


def decode_outcome(hold_id: str, reply: Sequence[bytes]) -> Outcome:
    """The script's answer to how a hold ended."""
    said = reply[0].decode()
    if said != Ended.RESOLVED:
        return Outcome(Ended.OPEN if said == Ended.OPEN else Ended.EXPIRED)
    if reply[4] == _WITHDRAWN.encode():
        return Outcome(Ended.WITHDRAWN)
    basis, *words = reply[4].decode().split(" ")
    amounts = dict(zip(Measure, map(int, words), strict=True))
    charge = Charge(
        cost_nanodollars=amounts[Measure.COST],
        input_tokens=amounts[Measure.INPUT_TOKENS],
        output_tokens=amounts[Measure.OUTPUT_TOKENS],
        requests=amounts[Measure.REQUESTS],
    )
    return Outcome(Ended.RESOLVED, Resolution(hold_id, charge, Basis(basis)))
