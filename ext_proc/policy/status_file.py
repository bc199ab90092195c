"""What a worker tells the supervisor of its policy set: one small file per worker in the state directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

_DIRECTORY = "workers"
_FILE = "policy.json"


@dataclass(frozen=True, slots=True)
class WorkerPolicy:
    """The policy set in force in one worker process, and what is wrong with the files where they are not it."""

    worker: str
    pid: int
    version: str
    loaded: int  # sets put in force since it started, the first included
    refused: int  # sets that did not load since then
    errors: tuple[str, ...] = ()
    catalogue: str = ""  # the version of the public prices in force


def write_status(state_dir: Path, status: WorkerPolicy) -> None:
    """Write it whole: a reader sees the old file or the new one. Raises OSError."""
    directory = state_dir / _DIRECTORY / status.worker
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory / f"{_FILE}.new"
    fresh.write_text(json.dumps(asdict(status), ensure_ascii=False), "utf-8")
    fresh.replace(directory / _FILE)


def read_statuses(state_dir: Path, pids: Mapping[str, int]) -> tuple[WorkerPolicy, ...]:
    """What the running workers (name → process id) have told, by name. What an earlier process of a name told is left
    out, as is a file that cannot be read.
    """
    found = []
    for name, pid in sorted(pids.items()):
        try:
            told = json.loads((state_dir / _DIRECTORY / name / _FILE).read_text("utf-8"))
            status = WorkerPolicy(**{**told, "errors": tuple(told["errors"])})
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if status.pid == pid:
            found.append(status)
    return tuple(found)
