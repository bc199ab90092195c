"""Loading: a directory of documents becomes a snapshot; the set that ships loads without a warning."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.policy.errors import PolicySetError
from ext_proc.policy.lint import lint
from ext_proc.policy.loader import load
from tests.policy_kit import DOLLAR, facts, snapshot

SHIPPED = Path(__file__).parents[2] / "policies"


def test_the_set_that_ships_loads_without_a_warning() -> None:
    """What a newcomer reads first is right, and `check` finds nothing to say about it."""
    assert lint(load(SHIPPED)) == []


def test_a_concrete_name_can_be_routed_to_itself_among_others() -> None:
    """A rule that spreads one model's traffic over accounts is no nested virtual model."""
    document = """
name: routing
type: gateway-load-balancing-config
rules:
  - id: spread
    type: weight-based-routing
    when: {models: [openai-main/gpt-4o]}
    load_balance_targets: [{target: openai-main/gpt-4o, weight: 70}, {target: azure/gpt-4o, weight: 30}]
"""

    assert snapshot(document).virtual_models == {"openai-main/gpt-4o"}


def test_several_documents_in_one_file_and_anchors_load() -> None:
    """One file may hold many documents, and repeat itself with anchors and merge keys."""
    text = """
name: a
type: gateway-budget-config
rules:
  - &base {id: one, when: &search {metadata: {cost_center: search}}, limit_to: 1, unit: cost_per_day}
  - {<<: *base, id: two, limit_to: 2}
---
---
name: b
type: gateway-settings
"""

    matched = snapshot(text).match(facts({"cost_center": "search"}))

    assert [(rule.account.rule_id, rule.account.cap) for rule in matched] == [("one", DOLLAR), ("two", 2 * DOLLAR)]


def test_a_provider_document_replaces_the_default_accounts() -> None:
    """Without one the three public accounts exist; with one only those it names, with their credentials and prices."""
    assert set(snapshot("name: s\ntype: gateway-settings").accounts) == {"openai-main", "anthropic-main", "gemini-main"}

    loaded = snapshot(
        """
name: mine
type: gateway-provider-config
provider: openai-compatible
endpoint: http://llm.internal:8000/
credential: {file: /run/secrets/key}
models:
  - {name: llama, cost: {per_1000_tokens: {input: 0.1, output: 0.2}}}
  - {name: other, cost: public_cost}
"""
    )

    (account,) = loaded.accounts.values()
    assert (account.name, account.endpoint) == ("mine", "http://llm.internal:8000")
    assert account.credential_file == "/run/secrets/key"
    assert {model.name: model.cost is None for model in account.models} == {"llama": False, "other": True}


def test_hidden_names_and_other_files_are_skipped(tmp_path: Path) -> None:
    """A mounted ConfigMap's own names, editors' leftovers and other files are not policy."""
    (tmp_path / "a.yaml").write_text("name: s\ntype: gateway-settings\n")
    (tmp_path / ".hidden.yaml").write_text("broken: [")
    (tmp_path / "notes.txt").write_text("broken: [")
    (tmp_path / "sub.yaml").mkdir()

    assert load(tmp_path).settings.metadata_header == "x-tfy-metadata"


def test_the_version_follows_the_content(tmp_path: Path) -> None:
    """The version is the same for the same files, and another for any change."""
    text = "name: s\ntype: gateway-settings\n"
    (tmp_path / "a.yaml").write_text(text)
    first = load(tmp_path).version
    again = load(tmp_path).version
    (tmp_path / "a.yaml").write_text(text + "# changed\n")

    assert first == again != load(tmp_path).version


@pytest.mark.parametrize("make", [False, True])
def test_a_directory_without_policies_is_refused(tmp_path: Path, *, make: bool) -> None:
    """An empty or absent directory is an error with a cure, never an empty policy."""
    directory = tmp_path / "set"
    if make:
        directory.mkdir()

    with pytest.raises(PolicySetError, match="holds no policy files" if make else "cannot be read"):
        load(directory)


@given(st.from_regex(r"[a-z{}.]{0,12}", fullmatch=True))
def test_any_id_loads_or_is_explained(name: str) -> None:
    """Templated ids never make a rule that cannot be asked."""
    text = (
        f"name: b\ntype: gateway-budget-config\nrules: [{{id: '{name}', when: {{}}, limit_to: 1, unit: cost_per_day}}]"
    )
    try:
        loaded = snapshot(text)
    except PolicySetError:
        return

    (rule,) = loaded.match(facts())

    assert "{" not in rule.account.expanded_id


def documented() -> list[str]:
    """The documents in docs/policies.md."""
    page = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    return [block for block in blocks if block.startswith("name: ")]


@pytest.mark.parametrize("text", documented(), ids=lambda text: text.split("\n")[0].removeprefix("name: "))
def test_the_documents_in_the_docs_load(text: str) -> None:
    """What the page shows can be pasted."""
    assert snapshot(text).documents
