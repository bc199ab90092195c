"""The stack under the soak: `tollgate up` as a user runs it, its processes, and what it says of itself."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.errors import BenchError
from bench.processes import first_line, free_port, running
from bench.soak.policies import accounts, documents

_READY = re.compile(r"tollgate ready listen=(\S+) admin=(\S+)")


@dataclass(frozen=True, slots=True)
class Options:
    """How the stack is started."""

    workers: int
    metering: str
    hold_lease_seconds: int


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that accepts traffic."""

    process: subprocess.Popen[str]
    listen: str
    admin: str
    directory: Path

    @property
    def children(self) -> dict[str, int]:
        """Name → pid of what runs now, the supervisor included."""
        record = json.loads((self.directory / "state" / "children.json").read_text())
        return {"supervisor": self.process.pid, **{name: int(one["pid"]) for name, one in record["children"].items()}}

    @property
    def redis_url(self) -> str:
        """The embedded Redis."""
        record = json.loads((self.directory / "state" / "children.json").read_text())
        return f"unix://{Path(record['sockets']) / 'redis.sock'}"

    def log(self, name: str) -> str:
        """What a child wrote."""
        return (self.directory / "state" / "logs" / f"{name}.log").read_text(errors="replace")


@contextlib.contextmanager
def stack(directory: Path, provider: str, options: Options) -> Iterator[Stack]:
    """For the length of a block; stopped in an orderly way at its end."""
    policies = directory / "policies"
    policies.mkdir()
    nowhere = f"http://127.0.0.1:{free_port()}"
    (policies / "soak.yaml").write_text(yaml.safe_dump_all(documents(nowhere)))
    command = [sys.executable, "-P", "-m", "ext_proc.cli", "up", "--policies", str(policies)]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state-dir", str(directory / "state")]
    command += ["--workers", str(options.workers), "--metering", options.metering]
    command += ["--hold-lease", str(options.hold_lease_seconds), "--drain", "10"]
    for account in accounts():
        command += ["--upstream", f"{account}={provider}"]
    with running(command, stdout=subprocess.PIPE, errors=directory / "stderr") as process:
        ready = _READY.match(first_line(process))
        if ready is None:
            raise BenchError(f"tollgate did not start: {(directory / 'stderr').read_text()[-2000:]}")
        yield Stack(process, ready[1], ready[2], directory)
