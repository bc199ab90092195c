"""A mock provider of a test's own, in a process of its own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def running_mock(*options: str) -> Iterator[str]:
    """Start `tollgate mock-provider` on a free port; its URL. It is stopped, and has ended well, afterwards."""
    command = [sys.executable, "-m", "ext_proc", "mock-provider", "--listen", "127.0.0.1:0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("mock-provider ready ")
        try:
            yield ready.removeprefix("mock-provider ready ").strip()
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
