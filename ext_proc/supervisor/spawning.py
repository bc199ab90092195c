"""How a child process is started: the part of `processes.py` that needs no event loop, and so loads quickly.

stdin is empty, or a pipe where the child is told something. stderr goes straight into the log file, opened for
appending.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("launch.py")

# What a child needs of the environment that is not its own business to know more of: no credential is in here.
_PLAIN_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")


def plain_environment() -> dict[str, str]:
    """The environment for children that must not see provider credentials; Envoy gets AWS ones besides."""
    return {name: os.environ[name] for name in _PLAIN_ENVIRONMENT if name in os.environ}


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """How one child is started. `argv[0]` is an absolute path; `ready_line` is searched in each line of its stdout;
    `told` is what it reads from its stdin, to the end.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=plain_environment)
    ready_line: re.Pattern[str] | None = None
    told: bytes | None = None


def start_process(
    argv: tuple[str, ...], environment: Mapping[str, str], *, stderr: int | None, is_told: bool
) -> subprocess.Popen[bytes]:
    """Start it; it dies with this process. `stderr` None: ours. Raises OSError where even the interpreter cannot be
    started.
    """
    assert threading.current_thread() is threading.main_thread(), "the parent-death signal follows the thread"
    return subprocess.Popen(  # noqa: S603 - what the stack is made of, and no shell
        [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *argv],
        stdin=subprocess.PIPE if is_told else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=dict(environment),
        start_new_session=True,
    )


def tell(process: subprocess.Popen[bytes], told: bytes) -> None:
    """Write all that the child reads from its stdin. One that ended before is found dead by whoever watches it.

    More than the pipe holds (64 KiB) waits for the child to read, which it does as soon as its modules are loaded.
    """
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(told)


@contextlib.contextmanager
def open_log(log: Path) -> Iterator[int]:
    """An append-only descriptor of a file that the owner alone may read: logs quote paths and models of requests."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
