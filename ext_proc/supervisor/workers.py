"""The sidecar's worker processes and the built-in mock provider, as services."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from ext_proc.server.settings import WorkerSettings
from ext_proc.supervisor.lifecycle import ServiceLimits
from ext_proc.supervisor.processes import ChildProcess
from ext_proc.supervisor.spawning import ProcessSpec
from ext_proc.supervisor.warm_workers import environment_of_workers, worker_argv

_SETTLE_SECONDS = 10.0  # what a worker may take beyond the drain: health notice, last settles, closing


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
        """It is told its settings on stdin: they hold the URL of Redis, password included, and anybody may read a
        command line.
        """
        settings = self._settings()
        assert settings.name == self.name
        if settings.listen.startswith("unix:"):
            Path(settings.listen.removeprefix("unix:")).unlink(missing_ok=True)  # of a worker that was killed
        return ProcessSpec(
            self.name,
            worker_argv(self.name),
            self._log,
            environment=environment_of_workers(Path(settings.metrics_dir)),
            ready_line=re.compile(rf"^worker {re.escape(self.name)} ready\b"),
            told=settings.to_json().encode(),
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
