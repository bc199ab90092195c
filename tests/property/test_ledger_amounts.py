"""Goal: the scripts count in doubles and the model in exact integers, and they never differ, however large."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ext_proc.ledger.amounts import MAX_AMOUNT, MAX_PER_OUTPUT_MILLI, amount, largest_output
from ext_proc.ledger.interface import Code, HoldRequest, Posting, Window, WindowKind
from ext_proc.ledger.memory import MemoryLedger
from tests.conftest import running_redis
from tests.ledger_kit import LEASE_MS, TestClock, account, hold_id, on_test_clock, one_plan, settle

LIFETIME = Window(WindowKind.LIFETIME)

# Round numbers, their neighbours, and the places where doubles stop being exact.
EDGES = (0, 1, 999, 1_000, 10**9, MAX_PER_OUTPUT_MILLI, 2**52, MAX_AMOUNT, 2**53, 2**60)
figures = st.one_of(
    st.integers(0, 2**60),
    st.integers(0, 5_000),
    st.builds(lambda edge, step: max(0, edge + step), st.sampled_from(EDGES), st.integers(-2, 2)),
)


@given(fixed=figures, milli=figures, output=figures, room=figures)
def test_largest_output_fits_and_one_more_does_not(fixed: int, milli: int, output: int, room: int) -> None:
    """The granted output fits the room and is the largest that does."""
    posting = Posting(account(), deciding=True, fixed=fixed, per_output_milli=milli)
    if amount(posting, 0) > room:
        return

    granted = largest_output(posting, room, 0, output)

    assert amount(posting, granted) <= room
    assert granted == output or amount(posting, granted + 1) > room or amount(posting, output) == 0


@pytest.fixture(scope="module")
def own_redis() -> Iterator[str]:
    """A Redis of this module's own."""
    with running_redis("--save", "", "--appendonly", "no") as server:
        yield server.url


@pytest.mark.redis
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cap=figures, fixed=figures, milli=figures, spent=figures, output_min=figures, output_range=figures, later=figures
)
def test_scripts_count_as_the_model_does(  # noqa: PLR0917 - one column each
    own_redis: str, cap: int, fixed: int, milli: int, spent: int, output_min: int, output_range: int, later: int
) -> None:
    """Whatever the cap, the rates, the outputs and the charges, Redis grants, refuses and books the model's figures."""

    async def run() -> None:
        clock = TestClock()
        model = MemoryLedger(clock)
        ledger = await on_test_clock(own_redis, clock)
        spec = account(cap=cap, window=LIFETIME)
        opening = HoldRequest(hold_id(1), (one_plan(Posting(spec, deciding=False, fixed=0)),), LEASE_MS)
        posting = Posting(spec, deciding=True, fixed=fixed, per_output_milli=milli)
        plan = one_plan(posting, output_min=output_min, output_max=output_min + output_range)
        asked = HoldRequest(hold_id(2), (plan,), LEASE_MS)
        for book in (model, ledger):
            await book.hold(opening)
            await book.resolve(settle(opening.hold_id, spent))
        expected, actual = await model.hold(asked), await ledger.hold(asked)
        assert replace(expected, stamp=None) == replace(actual, stamp=None), ledger.last_error
        assert expected.code in (Code.HELD, Code.REFUSED)
        for book in (model, ledger):
            await book.resolve(settle(asked.hold_id, later))
        assert await model.balances(rule=None, limit=5, cursor="") == await ledger.balances(
            rule=None, limit=5, cursor=""
        )
        await ledger.close()

    asyncio.run(run())
