"""What people and probes are told when policy files change under a running stack."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ext_proc.supervisor.errors import SupervisorError
from ext_proc.supervisor.policy_watch import PolicyWatch

BUDGET = "name: b\ntype: gateway-budget-config\nrules:\n  - {id: all, when: {}, limit_to: 1, unit: cost_per_day}\n"
ACCOUNTS = """name: p
type: gateway-provider-config
accounts:
  - {name: own, provider: openai-compatible, endpoint: 'http://llm.internal:8000'}
"""


class Told:
    """A policy set on disk, and what was said of its changes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.write("budget.yaml", BUDGET)
        self.watch = PolicyWatch(directory)
        self.news: list[str] = []

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def look(self) -> list[str]:
        """Look once; what was said since."""
        self.news.clear()
        asyncio.run(self.watch.look(self.news.append))
        return list(self.news)


def test_a_changed_set_is_told_once(tmp_path: Path) -> None:
    """A set that loads is in force, and said to be, once."""
    told = Told(tmp_path)
    before = told.watch.info()["version"]
    assert told.look() == []
    told.write("budget.yaml", BUDGET.replace("limit_to: 1,", "limit_to: 25,"))
    (news,) = told.look()
    assert told.watch.info()["version"] != before
    assert news == f"the policy set changed: {told.watch.info()['version']} is in force"
    assert told.look() == []


def test_a_broken_set_changes_nothing_and_is_told_with_its_errors(tmp_path: Path) -> None:
    """The last good set stays, people read file, line and field once, and probes as long as it is so."""
    told = Told(tmp_path)
    before = told.watch.info()["version"]
    told.write("budget.yaml", BUDGET.replace("cost_per_day", "cost_per_fortnight"))
    (news,) = told.look()
    assert "the last good one stays in force" in news
    assert "budget.yaml:4: rules[0].unit: " in news
    assert told.watch.info()["version"] == before
    assert "rules[0].unit" in told.watch.info()["errors"]
    assert told.look() == []
    told.write("budget.yaml", BUDGET)
    assert told.look() == []
    assert "errors" not in told.watch.info()


def test_changed_accounts_are_told_to_need_a_start(tmp_path: Path) -> None:
    """Envoy knows accounts from its start: a set that changes them says so instead of failing later without a word."""
    told = Told(tmp_path)
    told.write("providers.yaml", ACCOUNTS)
    assert told.look()[1] == "provider accounts or endpoints changed: Envoy learns of them at the next start"


def test_a_set_that_never_loaded_is_an_error(tmp_path: Path) -> None:
    """There is no last good set to keep at the start."""
    (tmp_path / "budget.yaml").write_text("name: b\n")
    with pytest.raises(SupervisorError, match=r"does not load:\n.*budget\.yaml:1: "):
        PolicyWatch(tmp_path)
