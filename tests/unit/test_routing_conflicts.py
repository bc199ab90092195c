"""Chains that no request could go through are errors when a set loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_proc.policy.errors import PolicySetError
from ext_proc.policy.loader import load

RULE = """
name: routing
type: gateway-load-balancing-config
rules:
  - id: chat
    type: priority-based-routing
    when: {models: [chat]}
    load_balance_targets:
      - {target: openai-main/gpt-4o}
      - {target: %s}
"""


def test_a_chain_across_dialects_is_told_with_both_sides(tmp_path: Path) -> None:
    """The error stands at the target and names what does not fit."""
    (tmp_path / "routing.yaml").write_text(RULE % "anthropic-main/claude-opus-4-6")
    with pytest.raises(PolicySetError, match=r"'openai-main' speaks .*, 'anthropic-main' speaks anthropic"):
        load(tmp_path)


def test_a_chain_within_one_dialect_loads(tmp_path: Path) -> None:
    """Two models of one account are a chain."""
    (tmp_path / "routing.yaml").write_text(RULE % "openai-main/gpt-4o-mini")
    assert load(tmp_path).virtual_models == {"chat"}
