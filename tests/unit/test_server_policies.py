"""Loading beside requests: what is replaced goes at once, and the interpreter's settings are as before."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

from ext_proc.policy.status_file import WorkerPolicy, read_statuses, write_status
from ext_proc.policy.watch import Watcher
from ext_proc.server.policies import look

POLICY = """
name: b
type: gateway-budget-config
rules:
  - {{id: 'all-{{metadata.repo}}', limit_to: {cap}, unit: cost_per_day,
     when: {{metadata: {{cost_center: {{not_in: [x]}}}}}}}}
---
name: g
type: gateway-guardrail-config
rules: [{{id: g, when: {{}}, denied_patterns: [{{name: n, pattern: 'a+'}}]}}]
---
name: s
type: gateway-tagging-config
rules: [{{id: t, when: {{}}, required: [cost_center]}}]
"""


def test_a_replaced_set_is_freed_without_the_collector(tmp_path: Path) -> None:
    """Snapshots hold no cycles: what the collector does not see goes with the last who knows it."""
    (tmp_path / "p.yaml").write_text(POLICY.format(cap=1))
    watcher = Watcher(tmp_path)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        snapshot = watcher.snapshot
        parts: list[weakref.ref[Any]] = [
            weakref.ref(part) for part in (snapshot.rules, snapshot.guardrails, snapshot.tag_rules)
        ]
        (tmp_path / "p.yaml").write_text(POLICY.format(cap=22))
        assert look(watcher)
        assert all(part() is not None for part in parts), "a request that knows it keeps it"

        del snapshot

        assert [part() for part in parts] == [None, None, None]
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.parametrize("text", [POLICY.format(cap=2), "name: broken\n"])
def test_a_load_leaves_the_interpreter_as_it_was(tmp_path: Path, text: str) -> None:
    """Whether it loads or not, collection goes on afterwards, and threads change as often as before."""
    (tmp_path / "p.yaml").write_text(POLICY.format(cap=1))
    watcher = Watcher(tmp_path)
    interval = sys.getswitchinterval()
    (tmp_path / "p.yaml").write_text(text)

    look(watcher, force=True)

    assert gc.isenabled()
    assert sys.getswitchinterval() == interval
    gc.unfreeze()


def test_only_running_workers_are_reported(tmp_path: Path) -> None:
    """A file that an earlier process of the name wrote, or that is no status at all, is not what runs now."""
    mine = WorkerPolicy("w0", 7, "abc", loaded=2, refused=1, errors=("a.yaml:1: rules: is missing",))
    write_status(tmp_path, mine)
    write_status(tmp_path, WorkerPolicy("w1", 8, "old", loaded=1, refused=0))
    (tmp_path / "workers" / "w2").mkdir()
    (tmp_path / "workers" / "w2" / "policy.json").write_text("{")

    assert read_statuses(tmp_path, {"w0": 7, "w1": 9, "w2": 10, "w3": 11}) == (mine,)
