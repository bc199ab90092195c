"""The state directory: one stack at a time, nothing left behind, a killed predecessor cleaned up after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ext_proc.supervisor.errors import StateDirError
from ext_proc.supervisor.state_dir import StateDir, process_identity

FOREVER = [sys.executable, "-c", "import sys; sys.stdin.read()"]


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is killed."""
    with subprocess.Popen(FOREVER, stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def killed_predecessor(path: Path, sockets: Path, children: dict[str, tuple[int, str | None]]) -> None:
    """What a supervisor that was killed leaves: its record, and a lock file that nobody holds."""
    path.mkdir()
    (path / "lock").write_text("1\n")
    record = {"sockets": str(sockets), "children": {n: {"pid": p, "identity": i} for n, (p, i) in children.items()}}
    (path / "children.json").write_text(json.dumps(record))


def test_leaving_keeps_data_and_logs_and_nothing_else(tmp_path: Path) -> None:
    """After a stop the state directory holds what survives restarts; sockets, metrics and lock are gone."""
    with StateDir(tmp_path / "state") as state:
        state.redis.mkdir()
        (state.redis / "appendonly.aof").write_text("x")
        (state.metrics / "counter.db").write_text("x")
        sockets = state.sockets
        state.socket("w0.sock").write_text("")
        state.record_child("w0", os.getpid())
    assert not sockets.exists()
    assert sorted(path.name for path in state.path.iterdir()) == ["logs", "redis"]
    assert (state.redis / "appendonly.aof").exists()


def test_two_stacks_never_share_a_state_directory(tmp_path: Path) -> None:
    """The second one is refused with the first one's process id and a cure, and the first one is not disturbed."""
    with StateDir(tmp_path / "state") as first:
        with pytest.raises(StateDirError, match=rf"in use by another stack \(process {os.getpid()}\).*--state-dir"):
            StateDir(tmp_path / "state").__enter__()
        assert first.sockets.is_dir()
    with StateDir(tmp_path / "state"):
        pass


def test_only_the_owner_can_read_the_state(tmp_path: Path) -> None:
    """Budgets and logs are nobody else's business."""
    with StateDir(tmp_path / "state") as state:
        for directory in (state.path, state.logs, state.metrics, state.sockets):
            assert directory.stat().st_mode & 0o077 == 0


def test_socket_paths_stay_short_however_deep_the_state_directory_is(tmp_path: Path) -> None:
    """The kernel takes 108 bytes; a state directory may be longer."""
    with StateDir(tmp_path / ("d" * 100) / ("e" * 100)) as state:
        assert len(os.fsencode(state.socket("envoy-admin.sock"))) < 108


def test_a_long_tmpdir_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets go where their paths fit, even if TMPDIR is not that place."""
    long = tmp_path / ("t" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with StateDir(tmp_path / "state") as state:
        assert len(os.fsencode(state.socket("envoy-admin.sock"))) < 108
        assert not list(long.iterdir())


def test_children_of_a_killed_predecessor_are_killed(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    """Whoever holds the lock owns the directory: what a dead supervisor left behind does not live on in it."""
    sockets = Path(tempfile.mkdtemp(prefix="tollgate-"))
    killed_predecessor(tmp_path / "state", sockets, {"redis": (child.pid, process_identity(child.pid))})
    with StateDir(tmp_path / "state"):
        assert child.wait(10) == -9
        assert not sockets.exists()


def test_a_process_that_only_has_the_same_number_is_not_killed(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    """Process ids are used again: only the very process that was recorded may be killed."""
    identity = process_identity(child.pid)
    assert identity is not None
    for index, other in enumerate((None, identity + "1", "another-boot/" + identity.partition("/")[2])):
        killed_predecessor(tmp_path / f"state{index}", tmp_path / "none", {"w0": (child.pid, other)})
    for state_dir in tmp_path.iterdir():
        with StateDir(state_dir):
            assert child.poll() is None


def test_nothing_is_removed_on_the_word_of_a_file(tmp_path: Path) -> None:
    """A damaged or forged record cannot make a start remove a directory that is not one of our socket directories."""
    precious = tmp_path / "precious"
    precious.mkdir()
    link = tmp_path / "tollgate-link"
    link.symlink_to(precious)
    for index, record in enumerate(("", "[]", "{}", json.dumps({"sockets": str(precious), "children": {}}))):
        (tmp_path / f"s{index}").mkdir()
        (tmp_path / f"s{index}" / "children.json").write_text(record)
        with StateDir(tmp_path / f"s{index}"):
            pass
    killed_predecessor(tmp_path / "state", link, {})
    with StateDir(tmp_path / "state"):
        pass
    assert precious.is_dir()


def test_a_directory_that_cannot_be_written_is_named_with_a_cure(tmp_path: Path) -> None:
    """The error names the directory and the option."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirError, match=r"state directory .*file/state cannot be used: .*--state-dir DIR"):
        StateDir(tmp_path / "file" / "state").__enter__()


def test_the_identity_of_a_process_ends_with_it() -> None:
    """A process that has ended has no identity, even before its parent asked for its status."""
    with subprocess.Popen(FOREVER, stdin=subprocess.PIPE) as process:
        assert process_identity(process.pid) is not None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        assert process_identity(process.pid) is None
    assert process_identity(process.pid) is None
