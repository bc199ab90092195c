"""A ledger in several realms on the real stack: a tenant's budget and a shared one, charged by the same request."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from ext_proc.identity.keys import KeyHash
from tests.e2e_kit import GPT_4O_MINI, PATIENCE_SECONDS, chat_body, cost, eventually
from tests.identity_kit import a_key, identity_document
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

KEYS = {tenant: a_key(tenant) for tenant in ("acme", "rival", "small")}
USAGE = '{"input": 100, "output": 50}'
CHARGE = cost(GPT_4O_MINI, input_uncached=100, output=50)
LIMIT = 100
AFFORDED = 10
HOLD = cost(GPT_4O_MINI, output=LIMIT)  # and what its prompt is held at, less than a tenth of that
SMALL_CAP = f"{AFFORDED * HOLD * 1.2 / 1e9:.9f}"

POLICIES = {
    "settings.yaml": "name: settings\ntype: gateway-settings\nledger: {realm_by: tenant, realms: 4}\n",
    "identity.yaml": identity_document(
        "keys:\n"
        + "".join(
            f"  - {{id: {tenant}, hash: '{KeyHash.plain(key)}', virtual_account: {tenant}, tenant: {tenant}}}\n"
            for tenant, key in KEYS.items()
        )
        + "tenants: [{id: acme, plan: pro}, {id: rival, plan: pro}, {id: small, plan: free}]\n"
    ),
    "budgets.yaml": f"""
name: organisation
type: gateway-budget-config
rules:
  - {{id: everybody, when: {{}}, limit_to: 100, unit: cost_per_month}}
---
name: tenants
type: gateway-budget-config
rules:
  - {{id: small-tenant, when: {{plans: [free]}}, limit_to: {SMALL_CAP}, unit: cost_per_month,
      budget_applies_per: [tenant]}}
  - {{id: per-tenant, when: {{}}, limit_to: 100, unit: cost_per_month, budget_applies_per: [tenant]}}
""",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One stack for the module, with two workers."""
    with running_stack(tmp_path_factory.mktemp("realms"), POLICIES, "--workers", "2") as stack:
        yield stack


def chat(stack: RunningStack, tenant: str, **body: Any) -> httpx.Response:
    """One request of a tenant, on a connection of its own."""
    headers = {"authorization": f"Bearer {KEYS[tenant]}", "x-mock-usage": USAGE}
    url = f"{stack.listen}/v1/chat/completions"
    return httpx.post(url, json=chat_body(max_tokens=LIMIT, **body), headers=headers, timeout=PATIENCE_SECONDS)


def accounts(stack: RunningStack) -> dict[tuple[str, str | None], dict[str, Any]]:
    """The live accounts by rule and tenant."""
    found = httpx.get(f"{stack.admin}/v1/budgets", timeout=PATIENCE_SECONDS).json()["accounts"]
    return {(account["rule"], account["bucket"].get("tenant")): account for account in found}


def journal(stack: RunningStack, tenant: str) -> list[dict[str, Any]]:
    """The entries of a tenant."""
    found = httpx.get(f"{stack.admin}/v1/journal", params={"limit": 1000}, timeout=PATIENCE_SECONDS).json()["entries"]
    return [entry for entry in found if entry["caller"]["tenant"] == tenant]


def test_a_request_is_charged_once_in_every_realm_it_falls_on(running: RunningStack) -> None:
    """The tenant's budget and the shared one take the exact charge, plain and streamed; the journal has it once."""
    before = accounts(running).get(("everybody", None), {"spent": 0})["spent"]
    for tenant in ("acme", "rival"):
        for stream in (False, True):
            assert chat(running, tenant, stream=stream).status_code == 200

    def settled() -> bool | None:
        held = sum(account["held"] for account in accounts(running).values())
        done = all(len(journal(running, tenant)) == 2 for tenant in ("acme", "rival"))
        return True if done and not held else None

    eventually(settled, "four charges and nothing held")
    after = accounts(running)
    assert after["per-tenant", "acme"]["spent"] == after["per-tenant", "rival"]["spent"] == 2 * CHARGE
    assert after["everybody", None]["spent"] - before == 4 * CHARGE
    assert {entry["charge_nanodollars"] for entry in journal(running, "acme")} == {CHARGE}


def test_a_crowd_at_a_tenants_budget_gets_what_fits(running: RunningStack) -> None:
    """Forty at once at a tenant's last dollars: never over, and what was refused holds nothing in any realm."""
    before = accounts(running).get(("everybody", None), {"spent": 0})["spent"]
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: chat(running, "small"), range(40)))

    passed = sum(answer.status_code == 200 for answer in answers)
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert passed >= AFFORDED

    def settled() -> bool | None:
        held = sum(account["held"] for account in accounts(running).values())
        return True if len(journal(running, "small")) == passed and not held else None

    eventually(settled, "the charges of those that passed, and nothing held")
    after = accounts(running)
    assert after["small-tenant", "small"]["spent"] == passed * CHARGE <= after["small-tenant", "small"]["cap"]
    assert after["everybody", None]["spent"] - before == passed * CHARGE


def test_a_gateway_with_another_layout_does_not_start_on_this_redis(running: RunningStack, tmp_path: Path) -> None:
    """Two layouts would keep one account twice: the second gateway says so, with the cure, and serves nobody."""
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "budgets.yaml").write_text(POLICIES["budgets.yaml"])
    command = [sys.executable, "-P", "-m", "ext_proc.cli", "up", "--policies", str(policies), "--listen", "127.0.0.1:0"]
    command += ["--admin", "127.0.0.1:0", "--redis", running.redis_url, "--state-dir", str(tmp_path / "state")]
    second = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False, timeout=120)

    assert second.returncode != 0
    assert "this Redis is in use with {realm_by: tenant, realms: 4}" in second.stderr
    assert "stop every worker" in second.stderr
    assert chat(running, "acme").status_code == 200
