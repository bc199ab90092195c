"""The admin API over a real Redis: live balances, and what it says when Redis goes and comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ext_proc.ledger import ids
from ext_proc.ledger.interface import Basis, Charge, Code, HoldRequest, Plan, Posting, Resolution
from ext_proc.ledger.redis_ledger import RedisLedger
from tests.admin_kit import DOLLAR, WEEKLY, Answer, Ask, context_of, serving
from tests.conftest import RedisServer
from tests.ledger_kit import PATIENT, connected
from tests.scrape_kit import Samples, parsed, value

pytestmark = [pytest.mark.redis, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def ledger(redis_url: str) -> AsyncIterator[RedisLedger]:
    async with connected(redis_url) as one:
        yield one


async def hold(ledger: RedisLedger, number: int, nanodollars: int) -> str:
    hold_id = ids.mint(ledger.now_us(), number.to_bytes(8, "big"))
    plan = Plan("openai-main/gpt-4o", (Posting(WEEKLY, deciding=True, fixed=nanodollars),), 0, 0)
    reply = await ledger.hold(HoldRequest(hold_id, (plan,), lease_ms=60_000))
    assert reply.code is Code.HELD
    return hold_id


async def gauges(ask: Ask) -> Samples:
    return parsed((await ask("/metrics")).text.encode())


def amounts(answer: Answer) -> list[tuple[object, object]]:
    accounts: list[dict[str, object]] = answer.json["accounts"]  # type: ignore[assignment]  # JSON
    return [(account["spent"], account["held"]) for account in accounts]


async def test_budgets_and_gauges_follow_each_step(ledger: RedisLedger, tmp_path: Path) -> None:
    """After a hold it shows as held, after the settle as spent; API and gauges agree at each step."""
    async with serving(context_of(ledger, tmp_path)) as ask:
        hold_id = await hold(ledger, 1, 3 * DOLLAR)
        held, held_gauges = await ask("/v1/budgets"), await gauges(ask)
        await ledger.resolve(Resolution(hold_id, Charge(cost_nanodollars=2 * DOLLAR), Basis.REPORTED))
        spent, spent_gauges = await ask("/v1/budgets"), await gauges(ask)
        journal = await ask("/v1/journal")

    labels = {
        "document": WEEKLY.document_name,
        "rule": WEEKLY.expanded_id,
        "template": WEEKLY.rule_id,
        "bucket": "repo=web, user=(none)",
        "unit": "cost_per_week",
    }
    assert amounts(held) == [(0, 3 * DOLLAR)]
    assert amounts(spent) == [(2 * DOLLAR, 0)]
    assert value(held_gauges, "tollgate_holds_open") == 1
    assert value(held_gauges, "tollgate_budget_held", **labels) == 3 * DOLLAR
    assert value(spent_gauges, "tollgate_holds_open") == 0
    assert value(spent_gauges, "tollgate_budget_spent", **labels) == 2 * DOLLAR
    assert value(spent_gauges, "tollgate_budget_cap", **labels) == WEEKLY.cap
    entries: list[dict[str, object]] = journal.json["entries"]  # type: ignore[assignment]  # JSON
    assert [entry["charge_nanodollars"] for entry in entries] == [2 * DOLLAR]


async def test_an_empty_redis_is_an_empty_list(ledger: RedisLedger, tmp_path: Path) -> None:
    """Nothing spent yet is an answer, not an error."""
    async with serving(context_of(ledger, tmp_path)) as ask:
        budgets, journal, shown = await ask("/v1/budgets"), await ask("/v1/journal"), await gauges(ask)

    assert (budgets.status, budgets.json) == (200, {"accounts": [], "next_cursor": None})
    assert (journal.status, journal.json) == (200, {"entries": []})
    assert value(shown, "tollgate_ledger_up") == 1
    assert value(shown, "tollgate_holds_open") == 0


async def test_an_outage_is_told_and_ends(tmp_path: Path) -> None:
    """While Redis is away the API says 503 and no balance is shown; when it is back, so are the figures."""
    server = RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    server.start()
    try:
        async with (
            connected(server.url, replace(PATIENT, deadline_ms=500)) as ledger,
            serving(context_of(ledger, tmp_path)) as ask,
        ):
            await hold(ledger, 1, DOLLAR)
            server.kill()
            budgets, journal = await ask("/v1/budgets"), await ask("/v1/journal")
            probes = [(await ask("/healthz")).status, (await ask("/readyz")).status]
            dark = await gauges(ask)
            server.start()
            while (after := await ask("/v1/budgets")).status == 503:  # ends when the ledger has found Redis again
                pass
            light = await gauges(ask)
    finally:
        server.stop()

    assert (budgets.status, journal.status) == (503, 503)
    assert probes == [200, 200]
    assert value(dark, "tollgate_ledger_up") == 0
    assert not [name for name, _ in dark if name.startswith(("tollgate_budget", "tollgate_holds_open"))]
    assert amounts(after) == [(0, DOLLAR)]
    assert value(light, "tollgate_ledger_up") == 1
    assert value(light, "tollgate_holds_open") == 1
