"""A worker that cannot start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ext_proc.identity import server_secret
from ext_proc.server.settings import WorkerSettings
from ext_proc.telemetry.environment import worker_environment

pytestmark = pytest.mark.redis

POLICY = """
name: budgets
type: gateway-budget-config
rules:
  - {id: all, when: {}, limit_to: 10, unit: cost_per_month}
"""


@pytest.mark.parametrize("what", ["secret", "listen"])
def test_worker_that_cannot_start_ends_with_the_error(what: str, redis_url: str, tmp_path: Path) -> None:
    """What fails after the ledger has started ends the process by itself, and says what it was."""
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "budgets.yaml").write_text(POLICY, encoding="utf-8")
    settings = WorkerSettings(
        name="w0",
        listen=f"unix:{tmp_path}/missing/w0.sock" if what == "listen" else f"unix:{tmp_path}/w0.sock",
        policies=str(policies),
        redis_url=redis_url,
        state_dir=str(tmp_path),
        metrics_dir=str(tmp_path),
    )
    secret = "short" if what == "secret" else "long enough for a secret"
    environment = {
        **os.environ,
        **worker_environment(tmp_path),
        server_secret.VARIABLE: secret,
    }
    command = [sys.executable, "-m", "ext_proc.server", "w0"]
    told = settings.to_json()
    ended = subprocess.run(
        command, env=environment, input=told, check=False, timeout=200, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert (server_secret.VARIABLE if what == "secret" else "missing/w0.sock") in ended.stderr
