"""Lints: each finds its mistake, says where and what to do, and is silent where there is none.

Every file of `tests/corpus/linted_policies` is one case. Its first lines, after `#! `, are the warnings it must get,
without the file's name: all of them, in order, and no others.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ext_proc.exchange.terms import Terms
from ext_proc.identity.caller import Caller
from ext_proc.policy.condition import Clause
from ext_proc.policy.lint import PricesAt, lint
from ext_proc.policy.lint.matching import covers
from ext_proc.policy.loader import load_files
from ext_proc.policy.snapshot import MatchFacts
from ext_proc.policy.yaml_source import SourceFile

NOW_US = 1_790_000_000_000_000
CASES = sorted((Path(__file__).parents[1] / "corpus" / "linted_policies").glob("*.yaml"))
MARK = "#! "
RULES = """
name: b
type: gateway-budget-config
rules:
  - {id: a, when: {metadata: {x: 1}}, limit_to: 1, unit: cost_per_day}
  - {id: b, when: {metadata: {x: 2}}, limit_to: 1, unit: cost_per_day}
"""


def warnings(file: SourceFile, *samples: MatchFacts) -> list[str]:
    """The warnings of one file."""
    snapshot = load_files([file])
    prices = PricesAt(Terms.of(snapshot, lease_ms=0).prices, NOW_US)
    return [str(warning) for warning in lint(snapshot, files=[file], samples=samples, prices=prices)]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_each_lint_finds_its_mistake_and_nothing_else(path: Path) -> None:
    """The warnings are exactly the expected ones."""
    content = path.read_bytes()
    lines = content.decode().splitlines()
    expected = [f"{path.name}:{line.removeprefix(MARK)}" for line in lines if line.startswith(MARK)]

    assert warnings(SourceFile(path.name, content)) == expected


def test_covering_never_claims_more_than_clauses_show() -> None:
    """A wide condition with a clause the narrow one lacks does not cover it."""
    search, ads = (Clause("metadata.x", frozenset((value,))) for value in ("search", "ads"))

    assert covers((), (search,))
    assert covers((search,), (search, ads))
    assert not covers((search,), ())
    assert not covers((search,), (ads,))
    assert not covers((Clause("metadata.x", frozenset(("ads",)), negated=True),), (search,))
    assert not covers((Clause("metadata.x", frozenset(("ads",)), negated=True),), (ads,))


def test_a_rule_that_no_sample_matches_is_named() -> None:
    """With samples at hand, dead rules show; without them nothing is said."""
    file = SourceFile("b.yaml", RULES.encode())
    sample = MatchFacts(Caller(tags={"x": "1"}), "gpt-4o", "openai-main/gpt-4o")

    (warning,) = warnings(file, sample)

    assert warnings(file) == []
    assert warning.startswith(
        "b.yaml:6: rules[1].when: 'b' is matched by none of the 1 sample requests, correct the rule"
    )


def test_check_prints_warnings_and_still_exits_with_zero(tmp_path: Path) -> None:
    """Warnings are marked and do not fail a pipeline; samples come from a file."""
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "b.yaml").write_text(RULES)
    samples = tmp_path / "samples.yaml"
    samples.write_text("samples:\n  - {model: gpt-4o, tags: {x: 2}, user: ann}\n")

    command = [sys.executable, "-m", "ext_proc.cli", "check", str(policies), "--samples", str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("warning: b.yaml:5: rules[0].when: 'a' is matched by none of the 1 sample requests")


def test_broken_samples_are_errors(tmp_path: Path) -> None:
    """A sample file is checked like a document."""
    (tmp_path / "a.yaml").write_text("name: s\ntype: gateway-settings\n")
    samples = tmp_path / "samples.txt"
    samples.write_text("samples:\n  - {modl: gpt-4o}\n")

    command = [sys.executable, "-m", "ext_proc.cli", "check", str(tmp_path), "--samples", str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stdout == "samples.txt:2: samples[0].modl: unknown field, did you mean 'model'?\n"
