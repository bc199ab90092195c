"""The state directory: what one stack keeps across restarts, under a lock, and the short directory for its sockets.

```
<state dir>/            default .tollgate in the current directory
  lock                  held (flock) while a stack runs; names it
  children.json         who is running, so that a successor can clean up after a killed supervisor
  redis/                the append-only file of the embedded Redis: budgets survive restarts
  logs/                 one bounded log per child
  envoy.yaml            the configuration Envoy runs with
  catalogue.json        the last good file of public prices (`--catalogue`)
  content/              logged contents, where policy allows any; two bounded files per worker
  metrics/              Prometheus counters shared by the workers; emptied at each start
```

Unix socket paths are limited to 108 bytes, which a state directory deep in a home directory exceeds: sockets live in
a short directory of their own, made at start and removed at the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import stat
import tempfile
from pathlib import Path
from typing import Self

from ext_proc.supervisor.errors import StateDirError

DEFAULT_STATE_DIR = Path(".tollgate")
_SOCKET_PATH_BYTES_MAX = 107  # sun_path is 108 with its end mark
_LONGEST_SOCKET_NAME = "envoy-admin.sock"
_SOCKET_DIR_PREFIX = "tollgate-"
_KILLED_WITHIN_SECONDS = 5.0


def process_identity(pid: int) -> str | None:
    """Boot and start time of a process: with the pid, unique where pids are used again. None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, started_ticks = fields[0], fields[19]  # fields 3 and 22 of proc(5), counted after the command name
    return None if state == "Z" else f"{boot}/{started_ticks}"


class StateDir:
    """An opened, locked state directory. Use as a context manager: leaving it removes everything that is not kept."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.redis = self.path / "redis"
        self.logs = self.path / "logs"
        self.metrics = self.path / "metrics"
        self.envoy_config = self.path / "envoy.yaml"
        self.catalogue = self.path / "catalogue.json"
        self.sockets = Path()  # known once entered
        self._lock_path = self.path / "lock"
        self._children_path = self.path / "children.json"
        self._children: dict[str, int] = {}
        self._lock = -1

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            try:
                self._clean_up_after_predecessor()
                shutil.rmtree(self.metrics, ignore_errors=True)
                for directory in (self.logs, self.metrics):
                    directory.mkdir(mode=0o700, exist_ok=True)
                self.sockets = _make_socket_dir()
                self._write_children()
            except BaseException:
                os.close(self._lock)
                raise
        except OSError as error:
            raise StateDirError(
                f"the state directory {self.path} cannot be used: {error.strerror}: {error.filename or self.path}. "
                f"Choose one that you may write with --state-dir DIR"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.sockets, ignore_errors=True)
        shutil.rmtree(self.metrics, ignore_errors=True)
        self._children_path.unlink(missing_ok=True)
        # Unlinked while locked: a successor that opened the old file finds that it is gone and opens the new one.
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)

    def record_child(self, name: str, pid: int) -> None:
        """Remember a running child for a successor."""
        self._children[name] = pid
        self._write_children()

    def forget_child(self, name: str) -> None:
        """The child is gone."""
        if self._children.pop(name, None) is not None:
            self._write_children()

    @property
    def children(self) -> dict[str, int]:
        """Name → pid of what runs now."""
        return dict(self._children)

    def socket(self, name: str) -> Path:
        """Where the Unix socket of that name lives."""
        assert len(name) <= len(_LONGEST_SOCKET_NAME)
        return self.sockets / name

    # --- the lock

    def _take_lock(self) -> None:
        while True:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip() or "unknown"
                os.close(descriptor)
                raise StateDirError(
                    f"the state directory {self.path} is in use by another stack (process {holder}). "
                    f"Stop that one, or give this one a directory of its own with --state-dir DIR"
                ) from None
            if self._still_there(descriptor):
                break
            os.close(descriptor)  # the predecessor removed it on leaving, after we had opened it
        self._lock = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def _still_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._lock_path.stat())
        except FileNotFoundError:
            return False

    # --- the predecessor

    def _write_children(self) -> None:
        record = {
            "sockets": str(self.sockets),
            "children": {name: {"pid": pid, "identity": process_identity(pid)} for name, pid in self._children.items()},
        }
        fresh = self._children_path.with_suffix(".new")
        fresh.write_text(json.dumps(record))
        fresh.replace(self._children_path)

    def _clean_up_after_predecessor(self) -> None:
        """We hold the lock, so whoever wrote the record is dead; the parent-death signal should have left nothing.

        A child is killed only if the process with its pid is the very one that was recorded.
        """
        try:
            record = json.loads(self._children_path.read_text())
            children = [(int(child["pid"]), child["identity"]) for child in record["children"].values()]
            sockets = Path(record["sockets"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return
        for pid, identity in children:
            if identity is not None:
                _kill_the_very_process(pid, identity)
        if _is_our_socket_dir(sockets):
            shutil.rmtree(sockets, ignore_errors=True)
        self._children_path.unlink()


def _kill_the_very_process(pid: int, identity: str) -> None:
    """Kill it and wait until it is gone. The pidfd keeps naming the same process, whatever happens to the number."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if process_identity(pid) != identity:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], _KILLED_WITHIN_SECONDS)
    finally:
        os.close(pidfd)


def _make_socket_dir() -> Path:
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp makes it ours alone
        made = Path(tempfile.mkdtemp(prefix=_SOCKET_DIR_PREFIX, dir=parent))
        if len(os.fsencode(made / _LONGEST_SOCKET_NAME)) <= _SOCKET_PATH_BYTES_MAX:
            return made
        made.rmdir()
    raise StateDirError("no temporary directory with a path short enough for Unix sockets; set TMPDIR to a shorter one")


def _is_our_socket_dir(path: Path) -> bool:
    """Whether it is surely one that `_make_socket_dir` made, before anything is removed on a file's word."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return path.name.startswith(_SOCKET_DIR_PREFIX) and stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
