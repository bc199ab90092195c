"""Goal: what is admitted while Redis is away is bounded, kept on disk, and charged once when Redis is back."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ext_proc.ledger import ids
from ext_proc.ledger.interface import Code, HoldRequest, Measure, Period, Posting, Resolution, Window, WindowKind
from ext_proc.ledger.outage import EventLog, LocalAllowance, Replayed, admitted, replay
from tests.ledger_kit import LEASE_MS, account, connected, one_plan, release, settle, simple_hold

LIFETIME = Window(WindowKind.LIFETIME)
SPEC = account(cap=10_000, window=LIFETIME)


def fresh_id(number: int) -> str:
    """An id of this moment, as a worker without Redis mints it."""
    return ids.mint(time.time_ns() // 1000, number.to_bytes(8, "big"))


def test_allowance_is_a_share_of_the_cap_per_outage() -> None:
    """One percent of 10,000 is admitted in one outage and no more; the next outage begins anew."""
    allowance = LocalAllowance()
    plan = one_plan(Posting(SPEC, deciding=True, fixed=30))

    assert [allowance.admit(plan, 0) for _ in range(4)] == [True, True, True, False]
    allowance.recovered()
    assert allowance.admit(plan, 0)


def test_allowance_is_all_or_nothing_over_accounts() -> None:
    """A request that one account refuses takes nothing from the others; tracking accounts and free requests pass."""
    allowance = LocalAllowance(share_percent=10)
    tight, roomy = account("tight", cap=100), account("roomy", cap=10_000)
    both = one_plan(Posting(tight, deciding=True, fixed=11), Posting(roomy, deciding=True, fixed=1_000))
    only_roomy = one_plan(Posting(roomy, deciding=True, fixed=1_000))

    assert not allowance.admit(both, 0)
    assert allowance.admit(only_roomy, 0)
    assert not allowance.admit(only_roomy, 0)
    assert allowance.admit(one_plan(Posting(roomy, deciding=False, fixed=10**6)), 0)
    assert allowance.admit(one_plan(Posting(roomy, deciding=True, fixed=0)), 0)


def test_allowance_of_small_request_limits_is_one() -> None:
    """One percent of ten requests is none at all; one is let through, unless the share or the cap is nothing."""
    spec = account(cap=10, measure=Measure.REQUESTS)
    plan = one_plan(Posting(spec, deciding=True, fixed=1))

    allowance = LocalAllowance()
    assert [allowance.admit(plan, 0) for _ in range(2)] == [True, False]
    assert not LocalAllowance(share_percent=0).admit(plan, 0)


def test_log_reads_back_what_was_written(tmp_path: Path) -> None:
    """A hold and its end come back equal: accounts, windows, tags, context, charge."""
    log = EventLog(tmp_path, "outage")
    spec = replace(
        account(window=Window(WindowKind.CALENDAR, Period.MONTH, "Europe/Berlin"), bucket=(("metadata.repo", None),)),
        latch=True,
    )
    plans = (one_plan(Posting(SPEC, deciding=True, fixed=1)), one_plan(Posting(spec, True, 7, 2_500), output_max=90))  # noqa: FBT003 - deciding
    request = HoldRequest(fresh_id(1), plans, LEASE_MS, '{"caller":{}}', (("repo", "ö"),), previous=release("x"))
    resolution = Resolution(request.hold_id, settle("", 70).charge, settle("", 1).basis, '{"status":200}')
    log.append_hold(request, 1, 40)
    log.append_resolution(resolution)

    assert list(EventLog(tmp_path, "outage").read()) == [admitted(request, 1, 40), resolution]


def test_log_survives_a_torn_last_line(tmp_path: Path) -> None:
    """A process that died in mid-write costs that line alone; what is written next stands."""
    log = EventLog(tmp_path, "outage")
    log.append_resolution(settle("a", 1))
    log.close()
    with (tmp_path / "outage.log").open("ab") as file:
        file.write(b'{"resolution": {"hold')
    again = EventLog(tmp_path, "outage")
    again.append_resolution(settle("b", 2))

    assert list(again.read()) == [settle("a", 1), settle("b", 2)]


def test_log_is_bounded_and_counts_what_it_drops(tmp_path: Path) -> None:
    """Two segments at most stay on disk; dropping one is counted, the newest entries stay."""
    log = EventLog(tmp_path, "ring", max_bytes=2_000)
    for number in range(100):
        log.append_resolution(settle(f"id-{number}", number))

    kept = list(log.read())
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4_000
    assert log.segments_dropped > 0
    assert kept[-1] == settle("id-99", 99)
    assert [record.hold_id for record in kept] == [f"id-{n}" for n in range(100 - len(kept), 100)]


@pytest.mark.redis
def test_replay_charges_what_was_admitted_once(redis_url: str, tmp_path: Path) -> None:
    """Admissions of an outage are held and settled by id, past any cap; replaying twice changes nothing."""

    async def run() -> None:
        log = EventLog(tmp_path, "outage")
        requests = [simple_hold(fresh_id(n), 6_000, SPEC) for n in range(3)]
        for request in requests:
            log.append_hold(request, 0, 0)
        log.append_resolution(settle(requests[0].hold_id, 5_000))
        log.append_resolution(release(requests[1].hold_id))
        async with connected(redis_url) as ledger:
            assert await replay(log, ledger) == Replayed(complete=True, restored=3, settled=2)
            assert await replay(log, ledger) == Replayed(complete=True)
            (balance,), _ = await ledger.balances(rule=None, limit=1, cursor="")
            assert (balance.spent, balance.held) == (5_000, 6_000)
            assert len(await ledger.journal(10)) == 2
            log.clear()
            assert list(log.read()) == []

    asyncio.run(run())


@pytest.mark.redis
def test_settle_by_another_worker_may_overtake_the_replay(redis_url: str, tmp_path: Path) -> None:
    """A request that one worker admitted without Redis and another settled is charged, whoever reaches Redis first."""

    async def run() -> None:
        log = EventLog(tmp_path, "outage")
        request = simple_hold(fresh_id(1), 6_000, SPEC)
        log.append_hold(request, 0, 0)
        async with connected(redis_url) as ledger:
            assert (await ledger.resolve(settle(request.hold_id, 5_000))).code is Code.TOMBSTONED
            assert await replay(log, ledger) == Replayed(complete=True, restored=1)
            assert await replay(log, ledger) == Replayed(complete=True)
            assert await ledger.expire(10) == 0
            (balance,), _ = await ledger.balances(rule=None, limit=1, cursor="")
            assert (balance.spent, balance.held) == (5_000, 0)
            (entry,) = await ledger.journal(10)
            assert (entry["charge_nanodollars"], entry["basis"]) == (5_000, "reported")

    asyncio.run(run())


@pytest.mark.redis
def test_replay_of_a_request_older_than_tombstones_is_not_refused(redis_url: str, tmp_path: Path) -> None:
    """An outage may last longer than ids are remembered: what was admitted in it is charged all the same."""

    async def run() -> None:
        log = EventLog(tmp_path, "outage")
        old = simple_hold(ids.mint(1_000_000, bytes(8)), 60, SPEC)
        log.append_hold(old, 0, 0)
        log.append_resolution(settle(old.hold_id, 50))
        async with connected(redis_url) as ledger:
            assert (await ledger.hold(replace(old, hold_id=ids.mint(1_000_000, b"another!")))).code is Code.TOO_OLD
            assert await replay(log, ledger) == Replayed(complete=True, restored=1, settled=1)

    asyncio.run(run())
