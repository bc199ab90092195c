"""`tollgate prices`: what is shown, compared and found, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_proc.cli import main
from tests.catalogue_kit import catalogue_json

ACCOUNTS = """
name: providers
type: gateway-provider-config
accounts:
  - name: openai-main
    provider: openai
    models: [{name: gpt-4o}, {name: gpt-nope}]
  - name: vllm
    provider: openai-compatible
    endpoint: http://vllm:8000
    models:
      - {name: llama, cost: {per_1000_tokens: {input: INPUT, output: 0.0002}}}
"""
DOWNGRADES = """
name: routing
type: gateway-load-balancing-config
downgrades:
  - {when: {}, swap: {openai-main/gpt-4o: openai-main/gpt-4o-mini}}
"""


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A policy set with a public, an unknown and a private price."""
    return policy_set(tmp_path / "policies", "0.0001")


def policy_set(directory: Path, price: str) -> Path:
    directory.mkdir()
    (directory / "providers.yaml").write_text(ACCOUNTS.replace("INPUT", price))
    (directory / "routing.yaml").write_text(DOWNGRADES)
    return directory


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str]]:
    code = main(["prices", *map(str, arguments)])
    return code, capsys.readouterr().out.splitlines()


def test_show_names_every_model_of_the_set(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Declared models, targets of routing and those asked for, each once, with its price or none."""
    code, lines = printed(capsys, "show", policies, "--model", "openai-main/gpt-4.1")

    assert code == 0
    assert [line.partition(":")[0] for line in lines] == [
        "openai-main/gpt-4o",
        "openai-main/gpt-nope",
        "vllm/llama",
        "openai-main/gpt-4o-mini",
        "openai-main/gpt-4.1",
    ]
    assert lines[1] == "openai-main/gpt-nope: unpriced"
    assert lines[2].startswith("vllm/llama: input $0.1, output $0.2 (private-")


def test_diff_shows_what_another_set_changes(
    policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the changed price, with both sides; and nothing for a set that costs the same."""
    dearer = policy_set(tmp_path / "dearer", "0.0003")

    code, lines = printed(capsys, "diff", dearer, "--from", policies)
    assert code == 0
    assert len(lines) == 1
    assert "input $0.1" in lines[0].partition("→")[0]
    assert "input $0.3" in lines[0].partition("→")[2]
    assert printed(capsys, "diff", policies, "--from", policies) == (0, [])


def test_diff_shows_what_time_has_changed(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """OpenAI's o3 became cheaper on 10 June 2025."""
    model = ("--model", "openai-main/o3", "--at", "2025-07-01")

    assert len(printed(capsys, "diff", policies, "--since", "2025-06-01", *model)[1]) == 1
    assert printed(capsys, "diff", policies, "--since", "2025-06-20", *model)[1] == []


def test_lint_exits_with_1_where_it_finds_something(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model without a price is named; CI can stop on it."""
    code, lines = printed(capsys, "lint", policies)

    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("openai-main/gpt-nope: has no known price")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["diff"], "--from DIR"),
        (["show", "--model", "nobody/gpt-4o"], "the accounts are openai-main, vllm"),
        (["show", "--model", "gpt-4o"], "not ACCOUNT/MODEL"),
        (["show", "--at", "soon"], "such as 2026-01-31"),
    ],
)
def test_what_cannot_be_meant_is_said(
    policies: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    """One line with the cure, exit code 2."""
    action, *rest = arguments

    assert main(["prices", action, str(policies), *rest]) == 2
    assert problem in capsys.readouterr().err


def test_diff_shows_what_a_mounted_catalogue_changes(
    policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A changed price, a model it lacks, with --all those that the set does not name; the shipped price stands left."""
    file = tmp_path / "data.json"
    file.write_text(catalogue_json(input_mtok=0.3))

    code, lines = printed(capsys, "diff", policies, "--catalogue", file)
    assert code == 0
    assert {line.partition(": ")[0] for line in lines} == {"openai-main/gpt-4o", "openai-main/gpt-4o-mini"}
    changed = next(line for line in lines if line.startswith("openai-main/gpt-4o-mini"))
    assert "input $0.15, output $0.6" in changed.partition("→")[0]
    assert "input $0.3, output $0.6" in changed.partition("→")[2]

    every = printed(capsys, "diff", policies, "--catalogue", file, "--all")[1]
    assert len(every) > 50
    assert set(lines) <= set(every)


def test_a_broken_catalogue_is_one_error(policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that takes one says what is wrong with it."""
    file = tmp_path / "data.json"
    file.write_text("{}")

    for command in (["prices", "lint"], ["prices", "show"], ["check"]):
        assert main([*command, str(policies), "--catalogue", str(file)]) == 1
        assert f"--catalogue {file}: is no list of providers" in capsys.readouterr().err


def test_check_warns_by_the_catalogue_that_is_mounted(
    policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model whose price only the file lacks is named."""
    file = tmp_path / "data.json"
    file.write_text(catalogue_json())

    main(["check", str(policies)])
    shipped = capsys.readouterr().out
    main(["check", str(policies), "--catalogue", str(file)])

    assert "gpt-4o\n" not in shipped
    assert capsys.readouterr().out != shipped
