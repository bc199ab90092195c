"""The admin API over real HTTP and the ledger's memory model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from ext_proc.ledger.interface import (
    AccountBalance,
    Code,
)
from ext_proc.ledger.memory import MemoryLedger
from tests.admin_kit import DOLLAR, LIFETIME, NOW_US, WEEKLY, asked, context_of, serving, spent_ledger

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class SilentLedger(MemoryLedger):
    """A ledger whose store does not answer: what the contract says each call answers then."""

    async def balances(self, *, rule: str | None, limit: int, cursor: str) -> tuple[tuple[AccountBalance, ...], str]:
        del rule, limit, cursor
        return (), ""

    async def journal(self, limit: int) -> tuple[dict[str, object], ...]:
        del limit
        return ()

    async def renew(self, hold_ids: Sequence[str], lease_ms: int) -> Code:
        del hold_ids, lease_ms
        return Code.UNAVAILABLE


class BrokenLedger(MemoryLedger):
    """A ledger with a bug."""

    async def journal(self, limit: int) -> tuple[dict[str, object], ...]:
        raise ZeroDivisionError(limit)


async def test_budgets_show_every_account(tmp_path: Path) -> None:
    """Each live account has rule, template, bucket, unit, window, integer amounts, exact dollars and state."""
    ledger = await spent_ledger((WEEKLY, 7_500_000_001), (LIFETIME, 900))
    answer = await asked(context_of(ledger, tmp_path), "/v1/budgets")

    accounts = {str(account["rule"]): account for account in answer.json["accounts"]}  # type: ignore[attr-defined]  # JSON
    assert answer.status == 200
    assert answer.json["next_cursor"] is None
    assert accounts["per-web"] == {
        "rule": "per-web",
        "template": "per-{metadata.repo}",
        "bucket": {"metadata.repo": "web", "user": None},
        "unit": "cost_per_week",
        "window_start": "2026-05-10T22:00:00Z",
        "window_end": "2026-05-17T22:00:00Z",
        "cap": 10_000_000_000,
        "spent": 7_500_000_001,
        "held": 5,
        "cap_usd": "$10.00",
        "spent_usd": "$7.500000001",
        "held_usd": "$0.000000005",
        "state": "soft",
    }
    tokens = accounts["tokens"]
    assert tokens["unit"] == "tokens_per_lifetime"
    assert (tokens["window_start"], tokens["window_end"]) == (None, None)
    assert (tokens["cap_usd"], tokens["spent_usd"], tokens["held_usd"]) == (None, None, None)
    assert tokens["bucket"] == {}
    assert tokens["state"] == "constrained"


async def test_budgets_come_in_pages(tmp_path: Path) -> None:
    """Following next_cursor meets every account once."""
    accounts = [(replace(WEEKLY, expanded_id=f"r{n}", bucket=(("user", f"u{n}"),)), n + 1) for n in range(7)]
    ledger = await spent_ledger(*accounts)
    seen: list[int] = []
    async with serving(context_of(ledger, tmp_path)) as ask:
        cursor, pages = "", 0
        while pages == 0 or cursor:
            page = (await ask(f"/v1/budgets?limit=3&cursor={cursor}")).json
            seen += [account["spent"] for account in page["accounts"]]  # type: ignore[attr-defined]  # JSON
            cursor, pages = str(page["next_cursor"] or ""), pages + 1

    assert sorted(seen) == [1, 2, 3, 4, 5, 6, 7]
    assert pages == 3


async def test_budgets_of_one_rule(tmp_path: Path) -> None:
    """`rule=` keeps the accounts of that rule alone."""
    ledger = await spent_ledger((WEEKLY, 1), (LIFETIME, 1))
    answer = await asked(context_of(ledger, tmp_path), "/v1/budgets?rule=tokens")

    assert [account["rule"] for account in answer.json["accounts"]] == ["tokens"]  # type: ignore[attr-defined]  # JSON


async def test_the_journal_is_newest_first(tmp_path: Path) -> None:
    """Entries carry what the hold and the settle knew, the last charge first, as many as asked for."""
    ledger = await spent_ledger((WEEKLY, 1), (WEEKLY, 2), (WEEKLY, 3))
    answer = await asked(context_of(ledger, tmp_path), "/v1/journal?limit=2")

    entries: list[dict[str, object]] = answer.json["entries"]  # type: ignore[assignment]  # JSON
    assert [entry["charge_nanodollars"] for entry in entries] == [3, 2]
    assert entries[0]["caller"] == {"user": "ada"}
    assert entries[0]["served_model"] == "gpt-4o"
    assert entries[0]["basis"] == "reported"


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("/v1/budgets?limit=0", "limit must be an integer from 1 to 10000, not '0'"),
        ("/v1/budgets?limit=10001", "limit must be an integer"),
        ("/v1/budgets?limit=-1", "limit must be an integer"),
        ("/v1/budgets?limit=1e3", "limit must be an integer"),
        ("/v1/budgets?limit=", "limit must be an integer"),
        ("/v1/budgets?limit=%D9%A3", "limit must be an integer"),
        ("/v1/budgets?limit=1&limit=2", "limit is given more than once"),
        ("/v1/budgets?rules=a", "unknown parameter 'rules'; known are rule, limit, cursor"),
        ("/v1/budgets?rule=%00", "rule must be at most 1024 printable characters"),
        (f"/v1/budgets?cursor={'x' * 1025}", "cursor must be at most 1024"),
        ("/v1/journal?cursor=a", "unknown parameter 'cursor'; known are limit"),
    ],
)
async def test_bad_parameters_say_the_cure(tmp_path: Path, query: str, problem: str) -> None:
    """A parameter that cannot be meant is a 400 in JSON that names it and what would be right."""
    answer = await asked(context_of(MemoryLedger(lambda: NOW_US), tmp_path), query)

    assert answer.status == 400
    assert problem in str(answer.json["error"])


@settings(max_examples=150, deadline=None)
@given(
    path=st.sampled_from(["/v1/budgets", "/v1/journal"]),
    query=st.dictionaries(
        st.sampled_from(["limit", "rule", "cursor", "x"]) | st.text(max_size=5), st.text(max_size=20), max_size=3
    ),
)
def test_no_parameter_breaks_it(tmp_path_factory: pytest.TempPathFactory, path: str, query: dict[str, str]) -> None:
    """Whatever stands in the query, the answer is 200 or 400, in JSON."""
    encoded = URL.build(path=path, query=query)
    context = context_of(MemoryLedger(lambda: NOW_US), tmp_path_factory.getbasetemp())
    answer = asyncio.run(asked(context, str(encoded)))

    assert answer.status in {200, 400}
    assert set(answer.json) in ({"error"}, {"accounts", "next_cursor"}, {"entries"})


async def test_unknown_paths_and_methods_are_json(tmp_path: Path) -> None:
    """404 names the paths there are, 405 the method to use."""
    async with serving(context_of(MemoryLedger(lambda: NOW_US), tmp_path)) as ask:
        missing, wrong = await ask("/v2/budgets"), await ask("/v1/budgets", method="POST")

    assert missing.status == 404
    assert "/v1/budgets" in str(missing.json["error"])
    assert wrong.status == 405
    assert "use GET" in str(wrong.json["error"])
    assert wrong.headers["allow"] == "GET, HEAD"


async def test_a_bug_is_a_json_500_and_a_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception answers without detail, is logged with its traceback, and the server goes on."""
    async with serving(context_of(BrokenLedger(lambda: NOW_US), tmp_path)) as ask:
        broken, after = await ask("/v1/journal"), await ask("/healthz")

    assert broken.status == 500
    assert broken.json == {"error": "internal error; see the log"}
    assert "ZeroDivisionError" in caplog.text
    assert after.status == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Basic secret", 401),
        ("Bearer ", 401),
        ("Bearer sécret", 401),
        ("Bearer secret", 200),
        ("bearer secret", 200),
    ],
)
async def test_v1_needs_the_token(tmp_path: Path, authorization: str | None, status: int) -> None:
    """With a token configured, `/v1/*` answers its bearer alone, on loopback too."""
    context = context_of(MemoryLedger(lambda: NOW_US), tmp_path, token="secret")
    headers = {} if authorization is None else {"authorization": authorization}
    answer = await asked(context, "/v1/budgets", **headers)

    assert answer.status == status
    assert ("www-authenticate" in answer.headers) == (status == 401)


async def test_without_a_token_v1_answers_on_loopback_only(tmp_path: Path) -> None:
    """Bound to the world without a token, nothing of `/v1/*` is told, whether the path exists or not."""
    context = context_of(MemoryLedger(lambda: NOW_US), tmp_path, loopback=False)
    async with serving(context) as ask:
        statuses = [(await ask(path)).status for path in ("/v1/budgets", "/v1/journal", "/v1/nothing")]

    assert statuses == [403, 403, 403]


async def test_probes_and_metrics_need_no_token(tmp_path: Path) -> None:
    """Kubernetes and Prometheus ask without one."""
    context = context_of(MemoryLedger(lambda: NOW_US), tmp_path, token="secret", loopback=False)
    async with serving(context) as ask:
        statuses = [(await ask(path)).status for path in ("/healthz", "/readyz", "/metrics")]

    assert statuses == [200, 200, 200]


@pytest.mark.parametrize(
    ("components", "status"),
    [({"policy": True, "redis": "unreachable"}, 200), ({"policy": True, "workers": False}, 503), ({}, 200)],
)
async def test_readiness_is_false_when_a_component_is(
    tmp_path: Path, components: dict[str, bool | str], status: int
) -> None:
    """One component that is False makes it not ready; a text is told and changes nothing."""
    context = context_of(MemoryLedger(lambda: NOW_US), tmp_path, readiness=lambda: components)
    answer = await asked(context, "/readyz")

    assert answer.status == status
    assert answer.json == {"ready": status == 200, "components": components, "policy": {"version": "abc"}}


async def test_liveness_asks_nothing_of_redis(tmp_path: Path) -> None:
    """With Redis silent and the stack not ready, the process is still alive."""
    context = context_of(SilentLedger(lambda: NOW_US), tmp_path, readiness=lambda: {"workers": False})

    assert (await asked(context, "/healthz")).status == 200


@pytest.mark.parametrize("path", ["/v1/budgets", "/v1/journal"])
async def test_a_silent_redis_is_not_an_empty_list(tmp_path: Path, path: str) -> None:
    """When Redis does not answer the API says so; nobody is told that nothing was spent."""
    answer = await asked(context_of(SilentLedger(lambda: NOW_US), tmp_path), path)

    assert answer.status == 503
    assert "Redis does not answer" in str(answer.json["error"])


async def test_metrics_show_balances_read_at_scrape(tmp_path: Path) -> None:
    """Holds and balances come from the ledger at the moment of the scrape, under the pinned names."""
    ledger = await spent_ledger((WEEKLY, 7 * DOLLAR), (LIFETIME, 5))
    answer = await asked(context_of(ledger, tmp_path), "/metrics")

    samples = {
        (sample.name, sample.labels.get("rule", "")): (sample.value, sample.labels)
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert samples["tollgate_holds_open", ""][0] == 1
    assert samples["tollgate_ledger_up", ""][0] == 1
    assert samples["tollgate_budgets_truncated", ""][0] == 0
    assert samples["tollgate_policy_info", ""] == (1, {"version": "abc"})
    assert samples["tollgate_budget_cap", "per-web"][0] == 10 * DOLLAR
    assert samples["tollgate_budget_spent", "per-web"][0] == 7 * DOLLAR
    assert samples["tollgate_budget_held", "per-web"][0] == 5
    assert samples["tollgate_budget_spent", "per-web"][1] == {
        "document": "platform-budgets",
        "rule": "per-web",
        "template": "per-{metadata.repo}",
        "bucket": "repo=web, user=(none)",
        "unit": "cost_per_week",
    }


async def test_metrics_of_a_silent_redis_show_no_balances(tmp_path: Path) -> None:
    """No gauge claims zero when nothing is known: only that Redis is down."""
    answer = await asked(context_of(SilentLedger(lambda: NOW_US), tmp_path), "/metrics")

    assert answer.status == 200
    assert "tollgate_ledger_up 0.0" in answer.text
    assert "tollgate_holds_open" not in answer.text
    assert "tollgate_budget_spent{" not in answer.text


async def test_gauges_are_bounded_and_say_so(tmp_path: Path) -> None:
    """More accounts than the bound give as many gauges as the bound, and a gauge that says there are more."""
    accounts = [(replace(WEEKLY, bucket=(("user", f"u{number}"),)), 1) for number in range(1_005)]
    answer = await asked(context_of(await spent_ledger(*accounts), tmp_path), "/metrics")

    assert answer.text.count("\ntollgate_budget_spent{") == 1_000
    assert "tollgate_budgets_truncated 1.0" in answer.text


async def test_a_bucket_chosen_by_a_client_cannot_break_the_scrape(tmp_path: Path) -> None:
    """Quotes, newlines, backslashes and very long values in a bucket leave the exposition readable."""
    nasty = [replace(WEEKLY, bucket=(("user", text),)) for text in ('"', "a\nb", "\\", "é" * 4_000, "{}")]
    answer = await asked(context_of(await spent_ledger(*((spec, 1) for spec in nasty)), tmp_path), "/metrics")

    buckets = {
        sample.labels["bucket"]
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == "tollgate_budget_spent"
    }
    assert {'user="', "user=a\nb", "user=\\", "user={}"} < buckets
    assert max(map(len, buckets)) <= 512
