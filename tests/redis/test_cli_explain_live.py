"""`tollgate explain --redis`: judged against live balances, which it leaves alone."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ext_proc.ledger import ids
from ext_proc.ledger.interface import Code
from ext_proc.ledger.redis_ledger import RedisLedger
from ext_proc.policy.loader import load
from tests.ledger_kit import all_keys, connected, settle, simple_hold
from tests.policy_kit import facts

pytestmark = [pytest.mark.redis, pytest.mark.anyio]

POLICY = """
name: budgets
type: gateway-budget-config
rules:
  - {id: search-daily, when: {metadata: {cost_center: search}}, limit_to: 1, unit: cost_per_lifetime}
"""
TAGS = {"cost_center": "search"}
BODY = '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}'


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def explained(url: str, policies: Path) -> dict[str, Any]:
    """What the command says, as JSON."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ext_proc", "explain", "--policies", str(policies), "--redis", url, "--json"),
        *("--header", f"x-tfy-metadata: {json.dumps(TAGS)}", "--body", BODY),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TOLLGATE_KEY_SECRET": "for-tests-only-16-bytes"},
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    document: dict[str, Any] = json.loads(stdout)
    return document


async def everything(ledger: RedisLedger) -> dict[bytes, object]:
    """Every key and its content."""
    return {key: await ledger.read("DUMP", key) for key in await all_keys(ledger)}


async def test_the_verdict_follows_what_is_spent(redis_url: str, tmp_path: Path) -> None:
    """A request that an empty account passes is refused where the live one is exhausted; Redis is as it was."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    account = load(tmp_path).match(facts(TAGS, "openai-main/gpt-4o-mini"))[0].account
    async with connected(redis_url) as ledger:
        before = await explained(redis_url, tmp_path)
        hold = ids.mint(ledger.now_us(), bytes(8))
        held = await ledger.hold(simple_hold(hold, 10**9, account))
        assert held.code is Code.HELD
        contended = await explained(redis_url, tmp_path)
        await ledger.resolve(settle(hold, 10**9))
        books = await everything(ledger)
        exhausted = await explained(redis_url, tmp_path)

        assert before["verdict"]["verdict"] == "pass"
        assert contended["verdict"]["type"] == "budget_contended"
        assert contended["rules"][0]["held"] == 10**9
        assert exhausted["verdict"]["type"] == "budget_exceeded"
        assert exhausted["verdict"]["rule"] == "search-daily"
        assert exhausted["rules"][0]["spent"] == 10**9
        assert await everything(ledger) == books
