"""Hot reload: a policy directory that is looked at again and again, and a last good snapshot that always stands.

`Watcher` holds no clock and starts no thread: whoever owns it calls `poll` (every second or so, and on SIGHUP). A set
that does not load changes nothing but `status`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ext_proc.policy.errors import PolicyError, PolicySetError
from ext_proc.policy.loader import load_files, read
from ext_proc.policy.snapshot import Snapshot
from ext_proc.policy.yaml_source import CONFIGMAP_DATA, content_hash, is_policy_file

Stamp = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """What an operator wants to know of the policy in force."""

    version: str  # of the snapshot in force
    loaded: int  # snapshots put in force since the start, the first included
    refused: int  # sets that did not load since the start
    errors: tuple[PolicyError, ...] = ()  # of the set on disk now; empty where it is the one in force

    @property
    def healthy(self) -> bool:
        """Whether what is on disk is what is in force."""
        return not self.errors


class Watcher:
    """The policy of one directory. Raises PolicySetError where the first set does not load: there is none to keep."""

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory)
        self._stamp = stamp(self._directory)
        files = read(self._directory)
        self.snapshot = load_files(files)
        self._seen = content_hash(files)  # of the files read last, loaded or not
        self.status = Status(self.snapshot.version, loaded=1, refused=0)

    def poll(self, *, force: bool = False) -> bool:
        """Look again; whether a new snapshot is in force now.

        Files are read only when their times, sizes or inodes changed (or with `force`, as on SIGHUP), and decoded only
        when their content did.
        """
        now = stamp(self._directory)
        if now == self._stamp and not force:
            return False
        # Taken before reading: a file that changes while it is read is read again by the next poll.
        self._stamp = now
        before, self._seen = self._seen, ""  # files that cannot be read are like none seen before
        try:
            files = read(self._directory)
            self._seen = content_hash(files)
            if self._seen == before:
                return False
            fresh = self.snapshot if self._seen == self.snapshot.version else load_files(files)
            _check_layout(self.snapshot, fresh)
        except PolicySetError as refused:
            self.status = replace(self.status, refused=self.status.refused + 1, errors=refused.errors)
            return False
        if fresh is self.snapshot:  # an edit was taken back
            self.status = replace(self.status, errors=())
            return False
        self.snapshot = fresh
        self.status = Status(fresh.version, self.status.loaded + 1, self.status.refused)
        return True


def _check_layout(before: Snapshot, fresh: Snapshot) -> None:
    """Laid out anew, accounts would begin empty elsewhere, while requests in flight settle where they were held.

    Raises PolicySetError.
    """
    if fresh.settings.realms != before.settings.realms:
        problem = "it would lay the ledger out anew under requests in flight"
        cure = "stop the whole gateway before you change it, or take the change back"
        raise PolicySetError((PolicyError("(set)", 0, "ledger", problem, cure),))


def stamp(directory: Path) -> Stamp:
    """What changes when a file of the directory does: cheap to take, never raises.

    A mounted ConfigMap changes by its `..data` symlink, whose target is another directory each time.
    """
    try:
        data = directory / CONFIGMAP_DATA
        root = data.resolve() if data.is_symlink() else directory
        entries = [(path.name, path.stat()) for path in sorted(root.iterdir()) if is_policy_file(path)]
    except OSError as error:
        return ("unreadable", error.errno)
    return (str(root), tuple((name, s.st_mtime_ns, s.st_size, s.st_ino) for name, s in entries))
