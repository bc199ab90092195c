"""`tollgate tags docs`: the glossary with owners, as a page people can read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TAGGING = """
name: tagging
type: gateway-tagging-config
rules:
  - {id: all, when: {}, required: [cost_center], mode: enforce}
  - {id: nightly, when: {metadata: {pipeline: nightly}}, required: [repo]}
tags:
  cost_center:
    description: Who pays.
    pattern: '[a-z]+'
    unknown_value: refuse
    values:
      - {value: search, owner: ann@example.com, description: Search | ranking, dashboard: https://grafana/d/1}
      - {value: ads}
"""


def tags(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "ext_proc.cli", "tags", "docs", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_glossary_names_what_is_required_and_who_owns_what(tmp_path: Path) -> None:
    """Required tags with their consequence, values with owner, meaning and dashboard; a missing owner shows."""
    (tmp_path / "tagging.yaml").write_text(TAGGING)

    done = tags(tmp_path)

    assert done.returncode == 0
    assert "| `cost_center` | all | 400 |" in done.stdout
    assert "| `repo` | nightly | counted, and let pass |" in done.stdout
    assert "| `search` | ann@example.com | Search \\| ranking | https://grafana/d/1 |" in done.stdout
    assert "| `ads` | (no owner) |  |  |" in done.stdout
    assert "Other values are refused." in done.stdout


def test_a_set_that_does_not_load_has_no_glossary(tmp_path: Path) -> None:
    """The errors are shown instead, and the exit code is 1."""
    (tmp_path / "tagging.yaml").write_text("name: t\n")

    done = tags(tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert "tagging.yaml:1: type: is missing" in done.stderr
