"""What the runner asks of everything it keeps running, and the polling that readiness is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from ext_proc.supervisor.lifecycle import ServiceLimits
from ext_proc.supervisor.processes import ChildProcess
from ext_proc.supervisor.spawning import ProcessSpec

_POLL_SECONDS = 0.02


class Service(Protocol):
    """One kind of child process."""

    @property
    def name(self) -> str:
        """Unique in its stack."""
        ...

    @property
    def limits(self) -> ServiceLimits:
        """How long it may take to start and to stop."""
        ...

    def spec(self) -> ProcessSpec:
        """How to start it; called before each start, so it may write its configuration first."""
        ...

    async def ready(self, child: ChildProcess) -> None:
        """Return when it serves. Raises ServiceFailedError where it never will; cancelled when it ends or must stop."""
        ...

    async def quiesce(self) -> None:
        """Whatever must happen before SIGTERM; returns when the signal may be sent."""
        ...


async def poll(check: Callable[[], Awaitable[bool]]) -> None:
    """Return when `check` first answers True. Unbounded: the caller's deadline ends it."""
    while not await check():  # noqa: ASYNC110 - another process is asked; no event of ours could be set
        await asyncio.sleep(_POLL_SECONDS)
