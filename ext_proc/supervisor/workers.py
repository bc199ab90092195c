"""The sidecar's worker processes and the built-in mock provider, as services."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from ext_proc.server.settings import SETTINGS_VARIABLE, WorkerSettings
from ext_proc.supervisor.lifecycle import ServiceLimits
from ext_proc.supervisor.processes import ChildProcess, ProcessSpec
from ext_proc.telemetry.metrics import worker_environment

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_WORKERS_MIN = 2  # so that one can die and the other goes on
_WORKERS_MAX = 16
_SETTLE_SECONDS = 10.0  # what a worker may take beyond the drain: health notice, last settles, closing


def usable_cores() -> int:
    """The cores this process may use: its affinity, and the quota of its control group, at least 1."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_MAX.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or the quota is `max`
        return cores


def default_workers(cores: int) -> int:
    """One per core, within reason."""
    return min(max(cores, _WORKERS_MIN), _WORKERS_MAX)


def is_worker(service: str) -> bool:
    """Whether a service of this name is a worker: `w0`, `w1`, …"""
    return re.fullmatch(r"w\d+", service) is not None


class Worker:
    """One worker of the sidecar. `settings` is asked at each start."""

    def __init__(self, name: str, settings: Callable[[], WorkerSettings], log: Path, *, drain_seconds: float) -> None:
        self.name = name
        self.limits = ServiceLimits(start_seconds=60.0, stop_seconds=drain_seconds + _SETTLE_SECONDS)
        self._settings = settings
        self._log = log

    def spec(self) -> ProcessSpec:
        """A worker reads provider credentials from its environment, so it gets the whole of it. Its settings are there
        too: they hold the URL of Redis, password included, and anybody may read a command line.
        """
        settings = self._settings()
        assert settings.name == self.name
        if settings.listen.startswith("unix:"):
            Path(settings.listen.removeprefix("unix:")).unlink(missing_ok=True)  # of a worker that was killed
        return ProcessSpec(
            self.name,
            (sys.executable, "-P", "-m", "ext_proc.server", self.name),
            self._log,
            environment={
                **os.environ,
                **worker_environment(Path(settings.metrics_dir)),
                SETTINGS_VARIABLE: settings.to_json(),
            },
            ready_line=re.compile(rf"^worker {re.escape(self.name)} ready\b"),
        )

    async def ready(self, child: ChildProcess) -> None:
        """Its line on stdout."""
        await child.ready_line()

    async def quiesce(self) -> None:
        """Nothing: on SIGTERM it drains and settles."""


class MockProvider:
    """The built-in provider, for accounts nobody else serves. Keeps the port it first got."""

    name = "mock-provider"
    limits = ServiceLimits()

    def __init__(self, log: Path) -> None:
        self.url: str | None = None  # known once it is up
        self._log = log

    def spec(self) -> ProcessSpec:
        """It prints where it listens."""
        listen = "127.0.0.1:0" if self.url is None else self.url.removeprefix("http://")
        return ProcessSpec(
            self.name,
            (sys.executable, "-P", "-m", "ext_proc.cli", "mock-provider", "--listen", listen),
            self._log,
            ready_line=re.compile(r"^mock-provider ready (http://\S+)"),
        )

    async def ready(self, child: ChildProcess) -> None:
        """Its line on stdout, which names the port."""
        self.url = (await child.ready_line())[1].rstrip("/")

    async def quiesce(self) -> None:
        """Nothing: who still streams is a client of Envoy, which has drained."""
