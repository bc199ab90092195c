"""What an operator sees of the store itself."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from ext_proc.cli import main
from tests.e2e_kit import POLICIES, Gateway
from tests.stack_fixture import running_stack

pytestmark = pytest.mark.envoy


def test_ledger_stats_counts_keys_and_names_unsafe_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The embedded Redis is safe as it is; switching its append-only file off is told by API, command and metric."""
    with running_stack(tmp_path, POLICIES) as stack:
        gateway = Gateway(stack, "stats")
        gateway.chat()
        gateway.resolved()
        safe = httpx.get(f"{stack.admin}/v1/ledger").json()
        metrics = httpx.get(f"{stack.admin}/metrics").text
        assert main(["ledger", "stats", "--admin", stack.admin, "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert main(["ledger", "stats", "--admin", stack.admin]) == 0
        table = capsys.readouterr().out
        gateway.close()

    assert safe["warnings"] == []
    assert {kind["kind"] for kind in safe["kinds"]} >= {"journal", "clock"}
    assert all(kind["keys"] > 0 for kind in safe["kinds"])
    assert printed["version"] == safe["version"]
    assert "open holds: 0" in table
    assert "tollgate_ledger_unsafe_settings 0.0" in metrics
