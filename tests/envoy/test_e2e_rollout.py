"""docs/rollout.md on a running stack: each of its sets put in force after the other, and what the page says seen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e_kit import Gateway, eventually
from tests.scrape_kit import parsed
from tests.stack_fixture import running_stack

pytestmark = pytest.mark.envoy

STEPS = Path(__file__).parent.parent.parent / "docs" / "rollout"
TAG_RULE = "everyone-names-a-cost-center"


class Rollout:
    """A stack whose policy directory holds one step after the other."""

    def __init__(self, gateway: Gateway, policies: Path) -> None:
        self.gateway = gateway
        self._policies = policies

    def take(self, step: str) -> None:
        """Put a step in force, and wait until all workers have it."""
        before = str(self._report()["version"])
        for file in (STEPS / step).iterdir():
            shutil.copy(file, self._policies / file.name)
        eventually(lambda: self._in_force(before), f"{step} in force")

    def untagged(self) -> httpx.Response:
        """A request that says nothing of who pays."""
        self.gateway.tags.clear()
        return self.gateway.chat(max_tokens=5)

    def dear(self, output: int) -> httpx.Response:
        """A request of the demo cost center for a premium model that writes so many tokens, settled."""
        self.gateway.tags["cost_center"] = "demo"
        answer = self.gateway.chat(model="gpt-4o", max_tokens=output, usage={"input": 0, "output": output})
        eventually(lambda: True if self._held() == 0 else None, "nothing held")
        return answer

    def metric(self, name: str, rule: str) -> float:
        """A counter of one rule; 0 where it has never counted."""
        return parsed(self.gateway.admin.get("/metrics").content).get((name, (("rule", rule),)), 0)

    def last(self) -> dict[str, object]:
        """The newest journal entry."""
        entry: dict[str, object] = self.gateway.admin.get("/v1/journal", params={"limit": 1}).json()["entries"][0]
        return entry

    def _in_force(self, before: str) -> bool | None:
        report = self._report()
        return True if report["version"] != before and report["converged"] and report["healthy"] else None

    def _report(self) -> dict[str, object]:
        report: dict[str, object] = self.gateway.admin.get("/v1/policy").json()
        return report

    def _held(self) -> int:
        return sum(account["held"] for account in self.gateway.admin.get("/v1/budgets").json()["accounts"])


@pytest.fixture
def rollout(tmp_path: Path) -> Iterator[Rollout]:
    """A stack at step 1."""
    policies = tmp_path / "policies"
    shutil.copytree(STEPS / "1-tags-audit", policies)
    with running_stack(tmp_path, policies) as stack:
        gateway = Gateway(stack, "demo")
        yield Rollout(gateway, policies)
        gateway.close()


def test_the_four_steps_do_what_the_page_says(rollout: Rollout) -> None:
    """Tags are counted, then required; budgets are counted, then hard, without losing what was spent meanwhile."""
    untagged = rollout.untagged()
    eventually(lambda: rollout.gateway.admin.get("/v1/journal").json()["entries"] or None, "the first entry")
    assert untagged.status_code == 200
    assert untagged.headers["x-tollgate-verdict"] == f"pass; would_refuse={TAG_RULE}"
    assert rollout.last()["would_refuse"] == [TAG_RULE]
    assert rollout.metric("tollgate_would_refuse_total", TAG_RULE) == 1

    rollout.take("2-tags-enforced")
    refused = rollout.untagged()
    assert refused.status_code == 400
    assert 'x-tfy-metadata: {"cost_center": "…"}' in refused.json()["mitigation"]

    rollout.take("3-budgets-audit")
    verdicts = [rollout.dear(950).headers["x-tollgate-verdict"] for _ in range(3)]
    assert verdicts == [
        "pass",
        "pass; would_refuse=demo-daily; would_downgrade=demo-daily",
        "pass; would_refuse=demo-daily; would_downgrade=demo-daily",
    ]
    assert rollout.last()["would_refuse"] == rollout.last()["would_downgrade"] == ["demo-daily"]
    assert rollout.last()["served_model"] == "openai-main/gpt-4o"
    assert rollout.metric("tollgate_would_refuse_total", "demo-daily") == 2
    assert rollout.metric("tollgate_would_downgrade_total", "demo-daily") == 2

    rollout.take("4-budgets-enforced")
    exhausted = rollout.dear(10)
    assert exhausted.status_code == 429
    assert exhausted.json()["detail"] == "Cost center 'demo' has exhausted its daily $0.01 AI budget."
    assert exhausted.json()["context"]["spent_to_date"] == "$0.0285"
