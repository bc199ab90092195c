"""A stack in its event loop, from the command line's point of view."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine

from ext_proc.cli.errors import CommandError
from ext_proc.supervisor.console import Console


def run_to_the_end(start: Callable[[Console], Coroutine[None, None, str | None]]) -> int:
    """Run a stack until it ends; 0, or raises CommandError with why it failed."""
    failure = asyncio.run(start(Console(sys.stderr)))
    if failure is not None:
        raise CommandError(failure)
    return 0
