"""`tollgate budgets` and `tollgate journal` against the real admin API."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ext_proc.admin.accounts import account_from_json, account_json
from ext_proc.ledger.memory import MemoryLedger
from tests.admin_kit import DOLLAR, LIFETIME, NOW_US, WEEKLY, context_of, serving, spent_ledger

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Done:
    code: int | None
    stdout: str
    stderr: str


async def tollgate(*arguments: str, **environment: str) -> Done:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "ext_proc", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "120", **environment},
    )
    stdout, stderr = await process.communicate()
    return Done(process.returncode, stdout.decode(), stderr.decode())


async def test_budgets_as_a_table(tmp_path: Path) -> None:
    """Every account is a line of the table, with the figures of the API."""
    ledger = await spent_ledger((WEEKLY, 7 * DOLLAR), (LIFETIME, 900))
    async with serving(context_of(ledger, tmp_path)) as ask:
        done = await tollgate("budgets", "--admin", ask.url)

    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("BUCKET")
    assert [line.split()[0] for line in lines[1:]] == ["web,", "(shared)"]
    assert "$7.0000" in lines[1]
    assert "constrained" in lines[2]


async def test_budgets_as_json_over_all_pages(tmp_path: Path) -> None:
    """`--json` prints every account of every page as the API gives it, and `--rule` keeps one rule's."""
    accounts = [(replace(WEEKLY, bucket=(("user", f"u{number}"),)), 1) for number in range(1_003)]
    ledger = await spent_ledger(*accounts, (LIFETIME, 7))
    async with serving(context_of(ledger, tmp_path)) as ask:
        every = await tollgate("budgets", "--json", "--admin", f"{ask.url}/")
        one = await tollgate("budgets", "--json", "--rule", "tokens", "--admin", ask.url)

    assert len(every.stdout.splitlines()) == 1_004
    assert [json.loads(line)["spent"] for line in one.stdout.splitlines()] == [7]


async def test_the_journal_ends_with_the_newest(tmp_path: Path) -> None:
    """Entries are printed in the order in which they happened, as many as asked for."""
    ledger = await spent_ledger((WEEKLY, 1), (WEEKLY, 2), (WEEKLY, 3))
    async with serving(context_of(ledger, tmp_path)) as ask:
        done = await tollgate("journal", "--limit", "2", "--admin", ask.url)

    assert [json.loads(line)["charge_nanodollars"] for line in done.stdout.splitlines()] == [2, 3]


async def test_the_token_comes_from_the_environment(tmp_path: Path) -> None:
    """With the token in TOLLGATE_ADMIN_TOKEN the API answers; without it its own words are the error."""
    context = context_of(MemoryLedger(lambda: NOW_US), tmp_path, token="secret")
    async with serving(context) as ask:
        without = await tollgate("budgets", "--admin", ask.url, TOLLGATE_ADMIN_TOKEN="")
        with_token = await tollgate("budgets", "--admin", ask.url, TOLLGATE_ADMIN_TOKEN="secret")

    assert without.code == 1
    assert without.stderr == "tollgate: send the admin token as 'authorization: Bearer <token>'\n"
    assert with_token.code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("journal", "--limit", "0"), 1, "limit must be an integer from 1 to 10000"),
        (("journal", "--admin", "localhost:1"), 2, "not a URL"),
        (("budgets", "--admin", "http://127.0.0.1:1"), 1, "Is `tollgate up` running there?"),
    ],
)
async def test_what_cannot_be_answered_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], code: int, problem: str
) -> None:
    """No traceback: one line that says what is wrong."""
    async with serving(context_of(MemoryLedger(lambda: NOW_US), tmp_path)) as ask:
        where = () if "--admin" in arguments else ("--admin", ask.url)
        done = await tollgate(*arguments, *where)

    assert done.code == code
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


async def test_an_account_survives_the_json() -> None:
    """What the command line reads back of an account is what the API was given."""
    ledger = await spent_ledger((WEEKLY, 7_500_000_001), (LIFETIME, 900))
    balances, _ = await ledger.balances(rule=None, limit=10, cursor="")

    for balance in balances:
        again = account_from_json(json.loads(json.dumps(account_json(balance))))
        assert (again.measure, again.bucket) == (balance.measure, balance.bucket)
        assert account_json(again) == account_json(balance)
