"""The public prices as the supervisor follows them: it looks at the file, and the workers at the last good copy.

So a worker that is started while the file is broken, or a whole stack that is, serves with the last good prices.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ext_proc.pricing.catalogue import shipped
from ext_proc.pricing.catalogue_file import CatalogueWatch, Status
from ext_proc.pricing.errors import CatalogueError
from ext_proc.supervisor.errors import SupervisorError

POLL_SECONDS: Final = 1.0
_SECONDS_PER_DAY: Final = 86_400


class PriceWatch:
    """The catalogue that ships, or a file's. Raises SupervisorError where a file cannot be taken and none ever was."""

    def __init__(self, file: Path | None, last_good: Path) -> None:
        self._watch: CatalogueWatch | None = None
        self._looking = asyncio.Lock()
        if file is not None:
            try:
                self._watch = CatalogueWatch(file, last_good=last_good)
            except CatalogueError as error:
                raise SupervisorError(f"--catalogue {error}") from None

    @property
    def status(self) -> Status:
        """Of the catalogue in force."""
        if self._watch is not None:
            return self._watch.status
        catalogue = shipped()
        return Status(catalogue.version, catalogue.dated_us)

    def info(self) -> dict[str, str]:
        """For probes: which edition is in force, how old it is, and what is wrong with the file where it is not it."""
        status = self.status
        days = status.age_seconds(time.time_ns() // 1_000) // _SECONDS_PER_DAY
        found = {"catalogue": status.version, "age_days": str(days), "refused": str(status.refused)}
        return {**found, "error": status.problem} if status.problem else found

    def announce(self, say: Callable[[str], None]) -> None:
        """Tell at start of a file that could not be taken."""
        if self.status.problem:
            say(f"the catalogue {self.status.version} of the last run stays in force: {self.status.problem}")

    async def follow(self, say: Callable[[str], None]) -> None:
        """Look again and again, and tell of every change."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.look(say)

    async def look(self, say: Callable[[str], None], *, force: bool = False) -> None:
        """Look once, beside the event loop: the file may be on a slow mount."""
        if self._watch is None:
            return
        async with self._looking:
            refused = self._watch.status.refused
            if await asyncio.to_thread(self._watch.poll, force=force):
                say(f"the catalogue changed: {self.status.version} is in force")
            elif self._watch.status.refused > refused:
                say(f"the catalogue {self.status.version} stays in force: {self.status.problem}")
