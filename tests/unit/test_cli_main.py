"""The tollgate command: what it prints and returns, and what it does not import."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ext_proc import __version__, cli
from ext_proc.cli.command import COMMANDS, Command, Subparsers
from ext_proc.cli.errors import CommandError, UsageError


def tollgate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ext_proc", *arguments]
    wide = {**os.environ, "COLUMNS": "200"}  # argparse breaks long lines at the terminal's width
    return subprocess.run(command, capture_output=True, text=True, check=False, env=wide)


def test_version() -> None:
    """`--version` prints the package's version."""
    done = tollgate("--version")

    assert (done.returncode, done.stdout) == (0, f"tollgate {__version__}\n")


def test_help_lists_every_command() -> None:
    """`--help` names each command with what it does, on stdout."""
    done = tollgate("--help")

    assert done.returncode == 0
    for command in COMMANDS.values():
        assert command.name in done.stdout
        assert command.help in done.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "COMMAND"),
        (["nope"], "invalid choice: 'nope'"),
        (["mock-provider", "--nope"], "unrecognized arguments: --nope"),
        (["mock-provider", "--listen"], "argument --listen: expected one argument"),
        (["mock-provider", "--listen", "here"], "--listen here: not HOST:PORT"),
        (["mock-provider", "--listen", "127.0.0.1:65536"], "not HOST:PORT"),
    ],
)
def test_what_is_typed_wrong_is_one_line_and_exit_code_2(arguments: list[str], problem: str) -> None:
    """A usage error says in one line what is wrong, and nothing on stdout."""
    done = tollgate(*arguments)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("tollgate")
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_package_and_the_command_are_the_same() -> None:
    """`python -m ext_proc`, `python -m ext_proc.cli` and the installed `tollgate` all run `main`."""
    module = subprocess.run([sys.executable, "-m", "ext_proc.cli", "--version"], capture_output=True, check=True)
    installed = subprocess.run(
        [Path(sys.executable).with_name("tollgate"), "--version"], capture_output=True, check=True
    )

    assert module.stdout == installed.stdout


def test_help_imports_no_subcommand() -> None:
    """A command pays only for itself: gRPC, redis and aiohttp are not imported to print the help."""
    code = (
        "import sys\nfrom ext_proc.cli import main\nassert main(['--help']) == 0\n"
        "heavy = {'grpc', 'redis', 'aiohttp', 'genai_prices', 'envoy_data_plane', 'uvloop'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


class FakeCommand:
    """A command module whose run does what a test says."""

    outcome: BaseException | int = 0

    @staticmethod
    def add_parser(subparsers: Subparsers) -> None:
        subparsers.add_parser("fake")

    @classmethod
    def run(cls, args: argparse.Namespace) -> int:
        assert args.command == "fake"
        if isinstance(cls.outcome, BaseException):
            raise cls.outcome
        return cls.outcome


@pytest.mark.parametrize(
    ("outcome", "code", "stderr"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (UsageError("not both"), 2, "tollgate: not both\n"),
        (CommandError("no Redis"), 1, "tollgate: no Redis\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(
    outcome: BaseException | int,
    code: int,
    stderr: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A command's outcome becomes its exit code; expected errors are one line, never a traceback."""
    monkeypatch.setitem(COMMANDS, "fake", Command("fake", "fake_command", "does what it is told"))
    monkeypatch.setitem(sys.modules, "fake_command", FakeCommand)  # a class serves as module
    monkeypatch.setattr(FakeCommand, "outcome", outcome)

    assert cli.main(["fake"]) == code
    assert capsys.readouterr().err == stderr


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception keeps its traceback: swallowing it would hide where it happened."""
    monkeypatch.setitem(COMMANDS, "fake", Command("fake", "fake_command", "does what it is told"))
    monkeypatch.setitem(sys.modules, "fake_command", FakeCommand)  # a class serves as module
    monkeypatch.setattr(FakeCommand, "outcome", ZeroDivisionError("bug"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["fake"])
