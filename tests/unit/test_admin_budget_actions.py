"""Resuming and resetting budgets over the admin API and by `tollgate budgets`, on the ledger's model."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ext_proc.ledger import ids
from ext_proc.ledger.interface import AccountSpec, Basis, Charge, Code, HoldRequest, Plan, Posting, Resolution
from ext_proc.ledger.memory import MemoryLedger
from tests.admin_kit import NOW_US, context_of, serving
from tests.policy_kit import facts, snapshot

pytestmark = pytest.mark.anyio

WEEK_US = 7 * 86_400 * 1_000_000
POLICY = """
name: budgets
type: gateway-budget-config
evaluation: all
rules:
  - {id: shut, when: {}, limit_to: 1, unit: cost_per_day, on_exhausted: latch}
  - {id: 'repo-{metadata.repo}', when: {}, limit_to: 1, unit: cost_per_day, on_exhausted: latch}
"""
SET = snapshot(POLICY)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Desk:
    """A ledger that moves in time, with requests of repositories on it."""

    ledger: MemoryLedger
    now_us: int = NOW_US
    count: int = 0

    async def hold(self, repo: str, amount: int) -> Code:
        """Ask on the accounts of one repository's request."""
        self.count += 1
        accounts: tuple[AccountSpec, ...] = tuple(rule.account for rule in SET.match(facts({"repo": repo})))
        plan = Plan("a/m", tuple(Posting(account, deciding=True, fixed=amount) for account in accounts), 0, 0)
        hold_id = ids.mint(self.now_us, self.count.to_bytes(8, "big"))
        reply = await self.ledger.hold(HoldRequest(hold_id, (plan,), 60_000))
        if reply.code is Code.HELD:
            charge = Charge(cost_nanodollars=amount, requests=1)
            await self.ledger.resolve(Resolution(hold_id, charge, Basis.REPORTED))
        return reply.code


@pytest.fixture
def desk() -> Desk:
    """Nothing spent yet."""
    desk = Desk(MemoryLedger(lambda: NOW_US))
    desk.ledger = MemoryLedger(lambda: desk.now_us)
    return desk


async def post(desk: Desk, tmp_path: Path, path: str, document: object, **headers: str) -> tuple[int, dict[str, Any]]:
    """One POST; its status and JSON."""
    context = context_of(desk.ledger, tmp_path, snapshot=lambda: SET)
    async with serving(context) as ask, aiohttp.ClientSession() as session:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        async with session.post(ask.url + path, data=body, headers=headers) as answer:
            return answer.status, await answer.json()


async def test_a_latched_budget_is_resumed_even_in_a_later_window(desk: Desk, tmp_path: Path) -> None:
    """The latch outlives its window, where the ledger knows no account any more; its rule opens it all the same."""
    assert await desk.hold("web", 10**9) is Code.HELD
    desk.now_us += WEEK_US
    assert await desk.hold("web", 1) is Code.REFUSED

    status, answer = await post(desk, tmp_path, "/v1/budgets/resume", {"rule": "shut", "note": "checked"})
    assert (status, answer) == (200, {"resumed": [{"rule": "shut", "bucket": {}}]})
    assert await desk.hold("web", 1) is Code.REFUSED, "its repository is still shut"
    bucket = {"metadata.repo": "web"}
    status, answer = await post(desk, tmp_path, "/v1/budgets/resume", {"rule": "repo-web", "bucket": bucket})

    assert (status, answer) == (200, {"resumed": [{"rule": "repo-web", "bucket": bucket}]})
    assert await desk.hold("web", 1) is Code.HELD
    noted = [entry["note"] for entry in await desk.ledger.journal(10) if entry.get("event") == "resumed"]
    assert noted == ["admin API", "admin API: checked"]


async def test_a_rule_with_several_accounts_wants_to_know_which(desk: Desk, tmp_path: Path) -> None:
    """409 lists the buckets; `all` takes them all; nothing is changed before."""
    for repo in ("web", "api"):
        await desk.hold(repo, 5)
    rule = {"rule": "repo-{metadata.repo}"}

    status, answer = await post(desk, tmp_path, "/v1/budgets/reset", rule)
    assert status == 409
    assert sorted(bucket["metadata.repo"] for bucket in answer["buckets"]) == ["api", "web"]
    status, answer = await post(desk, tmp_path, "/v1/budgets/reset", {**rule, "all": True})

    assert status == 200
    assert sorted(account["bucket"]["metadata.repo"] for account in answer["reset"]) == ["api", "web"]
    balances, _ = await desk.ledger.balances(rule="repo-{metadata.repo}", limit=10, cursor="")
    assert [balance.spent for balance in balances] == [0, 0]


@pytest.mark.parametrize(
    ("document", "status", "problem"),
    [
        ({"rule": "shut"}, 404, "no account of the rule 'shut' is latched"),
        ({"rule": "unknown"}, 404, "no account of the rule 'unknown' is latched"),
        ({}, 400, "rule must be the id of a rule"),
        ({"rule": "shut", "buckets": {}}, 400, "unknown field 'buckets'; known are rule, bucket, all, note"),
        ({"rule": "shut", "bucket": {"a": 1}}, 400, "bucket must be an object of texts"),
        ({"rule": "shut", "bucket": []}, 400, "bucket must be an object of texts"),
        ({"rule": "shut", "note": "\n"}, 400, "note must be at most 500 printable characters"),
        ({"rule": "shut", "all": "yes"}, 400, "all must be true or false"),
        ([], 400, "send a JSON object"),
        (b"{", 400, "the body is not JSON"),
    ],
)
async def test_what_cannot_be_meant_is_refused(
    desk: Desk, tmp_path: Path, document: object, status: int, problem: str
) -> None:
    """Each answer says what would be right."""
    found, answer = await post(desk, tmp_path, "/v1/budgets/resume", document)

    assert found == status
    assert problem in answer["error"]


async def test_browsers_may_not_act(desk: Desk, tmp_path: Path) -> None:
    """A page in somebody's browser has an origin; nothing of ours has."""
    status, _ = await post(desk, tmp_path, "/v1/budgets/reset", {"rule": "shut"}, origin="https://evil.example")

    assert status == 403


async def test_acting_needs_the_token(desk: Desk, tmp_path: Path) -> None:
    """These routes are guarded as every other below /v1/."""
    context = context_of(desk.ledger, tmp_path, snapshot=lambda: SET, token="t" * 16)
    async with serving(context) as ask:
        assert (await ask("/v1/budgets/resume", method="POST")).status == 401


async def test_the_policy_report_is_served(desk: Desk, tmp_path: Path) -> None:
    """`/v1/policy` is what the supervisor says of the set, worker by worker."""
    report: Mapping[str, object] = {"version": "abc", "converged": True, "workers": []}
    async with serving(context_of(desk.ledger, tmp_path, policy=lambda: report)) as ask:
        assert (await ask("/v1/policy")).json == report


async def test_the_command_acts_in_the_name_of_who_types(desk: Desk, tmp_path: Path) -> None:
    """`tollgate budgets resume RULE --bucket KEY=VALUE` prints what it opened."""
    await desk.hold("web", 10**9)
    async with serving(context_of(desk.ledger, tmp_path, snapshot=lambda: SET)) as ask:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ext_proc", "budgets", "resume", "repo-{metadata.repo}"),
            *("--bucket", "metadata.repo=web", "--note", "loop fixed", "--admin", ask.url),
            stdout=asyncio.subprocess.PIPE,
        )
        stdout, _ = await process.communicate()

    assert process.returncode == 0
    assert json.loads(stdout) == {"rule": "repo-{metadata.repo}", "bucket": {"metadata.repo": "web"}}
    (entry, *_) = await desk.ledger.journal(1)
    assert str(entry["note"]).endswith(": loop fixed")
