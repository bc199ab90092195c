"""Workers that are started before anything is known of what they will serve: they load their modules while the
supervisor loads its own, reads the policies and looks for Redis. Nothing else happens in them until they are told their
settings, so a start that is refused has started nothing.

Loading is most of what a start takes; on two cores the two happen side by side. Little may be imported here.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from ext_proc.supervisor.spawning import start_process
from ext_proc.telemetry.environment import worker_environment


def worker_names(count: int) -> tuple[str, ...]:
    """`w0`, `w1`, …"""
    return tuple(f"w{index}" for index in range(count))


def worker_argv(name: str) -> tuple[str, ...]:
    """The command line of a worker."""
    return (sys.executable, "-P", "-m", "ext_proc.server", name)


def environment_of_workers(metrics_dir: Path) -> Mapping[str, str]:
    """A worker reads provider credentials from its environment, so it gets the whole of it."""
    return {**os.environ, **worker_environment(metrics_dir)}


class WarmWorkers:
    """The workers of one stack; whoever starts a service takes its process. Leaving the context ends those that nobody
    took.
    """

    def __init__(self, names: Sequence[str], metrics_dir: Path) -> None:
        self._names = names
        self._metrics_dir = metrics_dir
        self._waiting: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        environment = environment_of_workers(self._metrics_dir)
        for name in self._names:
            with contextlib.suppress(OSError):  # whoever wants it starts it, and says what is wrong
                # What it says before it knows its log is that it cannot be loaded, which is for whoever starts us.
                self._waiting[name] = start_process(worker_argv(name), environment, stderr=None, is_told=True)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._waiting.values():
            process.kill()
        while self._waiting:
            with self._waiting.popitem()[1]:  # closes its pipes and waits for it
                pass

    def take(self, name: str) -> subprocess.Popen[bytes] | None:
        """The process of that name, which waits to be told its settings; None where there is none, or no more."""
        return self._waiting.pop(name, None)
