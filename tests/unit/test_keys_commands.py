"""`tollgate keys` where no stack runs: hashes for documents, and what cannot be meant; the server secret's homes."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest

from ext_proc.cli import main
from ext_proc.identity.errors import ServerSecretError
from ext_proc.identity.keys import KeyHash, id_of
from ext_proc.identity.server_secret import FILE_NAME, server_secret
from tests.identity_kit import a_key, caller, identity_document, policy

SECRET = "0123456789abcdef0123456789abcdef"


def test_a_hash_of_the_command_is_good_in_a_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`keys hash --new` prints a key and the hash that a gateway with the same server secret accepts."""
    monkeypatch.setenv("TOLLGATE_KEY_SECRET", SECRET)

    assert main(["keys", "hash", "--new", "ci"]) == 0
    key, written = capsys.readouterr().out.split()
    assert (id_of(key), written) == ("ci", str(KeyHash.keyed(key, SECRET.encode())))

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{key}\n"))
    assert main(["keys", "hash"]) == 0
    assert capsys.readouterr().out.split() == [written]

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{key}\n"))
    assert main(["keys", "hash", "--plain"]) == 0
    plain = capsys.readouterr().out.strip()
    assert caller(policy(identity_document(f"keys: [{{id: ci, hash: '{plain}', user: u}}]")), ("x-api-key", key)).user


@pytest.mark.parametrize(
    "arguments",
    [
        ["hash", "--new", "a b"],
        ["hash"],  # standard input holds no key
        ["create", "--tag", "oops"],
        ["rotate", "ci", "--overlap", "soon"],
        ["show", "a/b"],
    ],
)
def test_what_cannot_be_meant_is_said(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line."""
    monkeypatch.setattr("sys.stdin", io.StringIO("no key\n"))

    assert main(["keys", *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_hash_without_a_server_secret_is_not_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A secret that no gateway knows would make a hash that no gateway accepts."""
    monkeypatch.setattr("sys.stdin", io.StringIO(a_key("ci") + "\n"))

    assert main(["keys", "hash", "--state-dir", str(tmp_path / "none")]) == 1
    assert "TOLLGATE_KEY_SECRET" in capsys.readouterr().err


def test_the_server_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    """The same at every start, readable by nobody else."""
    first = server_secret(tmp_path / "state", {})

    assert server_secret(tmp_path / "state", {}) == first
    assert len(first) == 64
    assert stat.S_IMODE((tmp_path / "state" / FILE_NAME).stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "state").iterdir()] == [FILE_NAME]


def test_a_configured_server_secret_wins_and_leaves_no_file(tmp_path: Path) -> None:
    """The variable, then the file it names, then the state directory."""
    (tmp_path / "mounted").write_text(f"{SECRET}\n")
    environment = {"TOLLGATE_KEY_SECRET_FILE": str(tmp_path / "mounted")}

    assert server_secret(tmp_path / "state", environment) == SECRET.encode()
    assert server_secret(tmp_path / "state", {**environment, "TOLLGATE_KEY_SECRET": "x" * 16}) == b"x" * 16
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    "environment", [{"TOLLGATE_KEY_SECRET": "short"}, {"TOLLGATE_KEY_SECRET_FILE": "/does/not/exist"}]
)
def test_a_useless_server_secret_is_an_error(tmp_path: Path, environment: dict[str, str]) -> None:
    """It never falls back to another one: keys would stop working."""
    with pytest.raises(ServerSecretError, match="TOLLGATE_KEY_SECRET"):
        server_secret(tmp_path, environment)
