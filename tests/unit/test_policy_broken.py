"""Broken documents: each says exactly what is wrong and what would be right.

Every file of `tests/corpus/broken_policies` is one case. Its first lines, after `#! `, are the errors that loading it
must report, without the file's name: all of them, in order, and no others.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ext_proc.policy.errors import PolicySetError
from ext_proc.policy.loader import load, load_files
from ext_proc.policy.yaml_source import MAX_FILE_BYTES, SourceFile

CASES = sorted((Path(__file__).parents[1] / "corpus" / "broken_policies").glob("*.yaml"))
MARK = "#! "


def refused(*files: SourceFile) -> list[str]:
    """The errors of a set that must not load."""
    with pytest.raises(PolicySetError) as caught:
        load_files(files)
    return [str(error) for error in caught.value.errors]


def test_the_table_is_long_enough() -> None:
    """The table covers every document type; it is the promise that messages are written with care."""
    assert len(CASES) >= 60


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_broken_document_says_what_is_wrong_and_what_would_be_right(path: Path) -> None:
    """The errors are exactly the expected ones."""
    content = path.read_bytes()
    lines = content.decode().splitlines()
    expected = [f"{path.name}:{line.removeprefix(MARK)}" for line in lines if line.startswith(MARK)]

    assert refused(SourceFile(path.name, content)) == expected


def test_every_error_of_every_file_is_reported_at_once() -> None:
    """One run of `check` shows all there is to mend, in file and line order, syntax errors among them."""
    files = [
        SourceFile("c.yaml", b"name: c\ntype: gateway-settings\nerror_format: x\nuser_label: y\n"),
        SourceFile("b.yaml", b"name: [\n"),
        SourceFile("a.yaml", b"name: a\ntype: gateway-sttings\n---\nname: a\ntype: gateway-settings\ncolour: red\n"),
    ]

    places = [error.split(": ")[0] + " " + error.split(": ")[1] for error in refused(*files)]

    assert places == [
        "a.yaml:2 type",
        "a.yaml:6 colour",
        "b.yaml:2 (file)",
        "c.yaml:3 error_format",
        "c.yaml:4 user_label",
    ]


def test_a_conflict_between_files_names_both_places() -> None:
    """Rule ids are unique per document type over the whole set."""
    text = "name: {0}\ntype: gateway-budget-config\nrules: [{{id: r, when: {{}}, limit_to: 1, unit: cost_per_day}}]\n"
    files = [SourceFile(f"{name}.yaml", text.format(name).encode()) for name in ("a", "b")]

    assert refused(*files) == [
        "b.yaml:3: rules[0].id: the gateway-budget-config rule 'r' stands already at a.yaml:3, give each its own"
    ]


def test_a_file_that_is_not_utf_8_names_the_line() -> None:
    """Text in another encoding is refused where it starts."""
    assert refused(SourceFile("a.yaml", b"name: a\ntype: gateway-settings\n# \xff\n")) == [
        "a.yaml:3: (file): is not UTF-8, save it as UTF-8"
    ]


def test_a_file_past_the_size_bound_is_not_parsed() -> None:
    """A huge file costs nothing but the look at its size."""
    (error,) = refused(SourceFile("a.yaml", b"#" * (MAX_FILE_BYTES + 1)))

    assert error == f"a.yaml:1: (file): is {MAX_FILE_BYTES + 1} bytes, split it into files of at most {MAX_FILE_BYTES}"


def test_aliases_cannot_explode() -> None:
    """A billion laughs are counted, not built."""
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
    text = "\n".join(["name: a", "type: gateway-settings", "l0: &l0 [x]", *levels])

    (error,) = refused(SourceFile("a.yaml", text.encode()))

    assert error.endswith("expands to more than 2000000 values, use fewer aliases")


def test_check_prints_every_error_and_exits_with_one(tmp_path: Path) -> None:
    """The command says `file:line: field: problem, cure` on stdout, one line per error, and exits 1."""
    (tmp_path / "a.yaml").write_text("name: a\ntype: gateway-settings\nuser_label: maybe\ncolour: red\n")

    done = subprocess.run(
        [sys.executable, "-m", "ext_proc.cli", "check", str(tmp_path)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == (
        "a.yaml:3: user_label: 'maybe' is not a truth value, write true or false, without quotes"
    )
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == ["a.yaml:3", "a.yaml:4"]


def test_check_of_a_right_set_is_silent_and_exits_with_zero(tmp_path: Path) -> None:
    """Nothing to say, nothing said."""
    (tmp_path / "a.yaml").write_text("name: a\ntype: gateway-settings\n")

    done = subprocess.run(
        [sys.executable, "-m", "ext_proc.cli", "check", str(tmp_path)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    """A tag that would call a function in a careless loader does nothing here."""
    flag = tmp_path / "ran"
    (tmp_path / "a.yaml").write_text(
        f'name: !!python/object/apply:os.system ["touch {flag}"]\ntype: gateway-settings\n'
    )

    with pytest.raises(PolicySetError):
        load(tmp_path)

    assert not flag.exists()
