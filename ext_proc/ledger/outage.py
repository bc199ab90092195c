"""Admitting without Redis, and giving Redis back what it missed.

- `LocalAllowance` is `on_store_failure: local`: each process may admit a small share of each cap per outage. With N
  processes no more than N × share of a cap is admitted that Redis does not know of.
- `EventLog` keeps holds and resolutions on local disk, by id: as the outage journal (what was admitted while Redis was
  away) and as the ring of what Redis acknowledged lately (for a Redis that comes back older than it was).
- `replay` brings a log to Redis. Every step is by id, so a log may be replayed twice, or partly, without harm.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from ext_proc.ledger.amounts import amount, saturated
from ext_proc.ledger.ids import minted_or_zero_us
from ext_proc.ledger.interface import (
    AccountSpec,
    Basis,
    Charge,
    Code,
    HoldRequest,
    Ledger,
    Measure,
    Part,
    Period,
    Plan,
    Posting,
    Resolution,
    Window,
    WindowKind,
)

DEFAULT_SHARE_PERCENT = 1


class LocalAllowance:
    """What one process may admit on its own during one outage: a share of each deciding account's cap.

    The share is spent by holds and never given back before `recovered`: an outage ends, it is not a window.
    """

    def __init__(self, share_percent: int = DEFAULT_SHARE_PERCENT) -> None:
        assert 0 <= share_percent <= 100, "a share is 0 to 100 percent"  # noqa: PLR2004 - percent
        self._share_percent = share_percent
        self._admitted: dict[AccountSpec, int] = {}

    def admit(self, plan: Plan, output: int) -> bool:
        """Take the plan's amounts from the allowance of every deciding account; all or none."""
        asked = [(posting.account, amount(posting, output)) for posting in plan.postings if posting.deciding]
        if any(self._admitted.get(spec, 0) + taken > self.allowance(spec) for spec, taken in asked if taken):
            return False
        for spec, taken in asked:
            self._admitted[spec] = self._admitted.get(spec, 0) + taken
        return True

    def allowance(self, spec: AccountSpec) -> int:
        """The most this process admits on an account per outage; at least one where requests are counted."""
        share = saturated(spec.cap) * self._share_percent // 100
        if spec.measure in (Measure.REQUESTS, Measure.CONCURRENT) and spec.cap and self._share_percent:
            return max(share, 1)
        return share

    def recovered(self) -> None:
        """Redis is back: the next outage begins with a full allowance."""
        self._admitted.clear()


class EventLog:
    """Holds and resolutions in two segment files, the older of which is dropped when the newer is full.

    `max_bytes` bounds each segment. What was dropped is counted. A torn last line, of a process that died while
    writing it, is skipped when read.
    """

    def __init__(self, directory: Path, name: str, *, max_bytes: int = 4 << 20) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._paths = (directory / f"{name}.log", directory / f"{name}.old.log")
        self._max_bytes = max_bytes
        self._file: int | None = None
        self._size = 0
        self.segments_dropped = 0

    def append_hold(self, request: HoldRequest, plan_index: int, output: int) -> None:
        """Remember a hold as it was admitted: one plan, one output."""
        self._append({"hold": admitted(request, plan_index, output)})

    def append_resolution(self, resolution: Resolution) -> None:
        """Remember how a hold ended."""
        self._append({"resolution": resolution})

    def read(self) -> Iterable[HoldRequest | Resolution]:
        """Everything there is, oldest first."""
        for path in reversed(self._paths):
            if not path.exists():
                continue
            for line in path.read_bytes().splitlines():
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                yield _hold(record["hold"]) if "hold" in record else _resolution(record["resolution"])

    def clear(self) -> None:
        """Forget everything: it has been replayed."""
        self.close()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, record: dict[str, object]) -> None:
        line = orjson.dumps(record) + b"\n"
        if self._file is not None and self._size + len(line) > self._max_bytes:
            self.close()
            if self._paths[1].exists():
                self.segments_dropped += 1
            self._paths[0].replace(self._paths[1])
        if self._file is None:
            self._file = os.open(self._paths[0], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._size = os.fstat(self._file).st_size
            if self._size and not self._paths[0].read_bytes().endswith(b"\n"):
                line = b"\n" + line  # the last line is torn: keep ours apart from it
        self._size += os.write(self._file, line)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did. `complete` is False where Redis went away again: replay the log again later."""

    complete: bool
    restored: int = 0
    settled: int = 0


async def replay(log: EventLog, ledger: Ledger, *, since_us: int = 0) -> Replayed:
    """Bring what is in the log to Redis, in order. What Redis knows already is left as it is.

    `since_us` leaves out ids minted before: those whose tombstones may be gone must not be brought back.
    """
    restored = settled = 0
    for record in log.read():
        if minted_or_zero_us(record.hold_id) < since_us:
            continue
        if isinstance(record, HoldRequest):
            code = (await ledger.restore(record)).code
            restored += code is Code.HELD
        else:
            code = (await ledger.resolve(record)).code
            settled += code in (Code.SETTLED, Code.RELEASED, Code.CORRECTED)
        if code is Code.UNAVAILABLE:
            return Replayed(complete=False, restored=restored, settled=settled)
    return Replayed(complete=True, restored=restored, settled=settled)


def admitted(request: HoldRequest, plan_index: int, output: int) -> HoldRequest:
    """A request reduced to what was admitted: that plan, that output, every account tracking."""
    plan = request.plans[plan_index]
    postings = tuple(
        Posting(posting.account, deciding=False, fixed=posting.fixed, per_output_milli=posting.per_output_milli)
        for posting in plan.postings
    )
    only = Plan(plan.target, postings, output, output)
    return replace(request, plans=(only,), previous=None, keep_if_unavailable=True)


def _hold(raw: dict[str, object]) -> HoldRequest:
    plans = tuple(_plan(plan) for plan in _list(raw["plans"]))
    pairs = tuple((str(tag), str(value)) for tag, value in _list(raw["series"]))
    return HoldRequest(
        hold_id=str(raw["hold_id"]),
        plans=plans,
        lease_ms=_int(raw["lease_ms"]),
        context=str(raw["context"]),
        series=pairs,
        part=_part(raw.get("part")),
        keep_if_unavailable=True,
    )


def _part(raw: object) -> Part | None:
    return Part(**raw) if isinstance(raw, dict) else None


def _plan(raw: dict[str, object]) -> Plan:
    postings = tuple(
        Posting(_account(posting["account"]), False, _int(posting["fixed"]), _int(posting["per_output_milli"]))  # noqa: FBT003 - tracking, as `admitted` wrote it
        for posting in _list(raw["postings"])
    )
    return Plan(str(raw["target"]), postings, _int(raw["output_min"]), _int(raw["output_max"]))


def _account(raw: dict[str, Any]) -> AccountSpec:
    window = raw["window"]
    return AccountSpec(
        document_type=str(raw["document_type"]),
        document_name=str(raw["document_name"]),
        rule_id=str(raw["rule_id"]),
        expanded_id=str(raw["expanded_id"]),
        bucket=tuple((str(key), None if value is None else str(value)) for key, value in _list(raw["bucket"])),
        measure=Measure(str(raw["measure"])),
        window=Window(
            WindowKind(window["kind"]), Period(window["period"]) if window["period"] else None, window["timezone"]
        ),
        cap=_int(raw["cap"]),
        alert_thresholds=tuple(_list(raw["alert_thresholds"])),
        latch=bool(raw["latch"]),
    )


def _resolution(raw: dict[str, object]) -> Resolution:
    charge = raw["charge"]
    assert isinstance(charge, dict), "a resolution has a charge"
    realms = tuple(str(realm) for realm in _list(raw.get("realms", [])))  # [] in a log of an older release
    return Resolution(str(raw["hold_id"]), Charge(**charge), Basis(str(raw["basis"])), str(raw["detail"]), realms)


def _list(raw: object) -> list[Any]:
    assert isinstance(raw, list), "written by this module"
    return raw


def _int(raw: object) -> int:
    assert isinstance(raw, int), "written by this module"
    return raw
