"""Child processes: started so that they die with the supervisor, watched, and their output kept in bounded files.

Each child leads a session of its own, so that a Ctrl-C in the terminal reaches the supervisor alone, which then stops
the children in order; and each asks the kernel for SIGKILL when its parent dies (see `launch.py`), so that even a
killed supervisor leaves none behind. The kernel sends that signal when the *thread* that forked ends: children are
therefore started from the main thread only.

stderr goes straight into the log file, opened for appending. stdout is read by the supervisor, which looks for the
line that says the child is ready, and appended to the same file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

from ext_proc.supervisor.spawning import ProcessSpec, open_log, start_process, tell

_LOG_BYTES_MAX = 8 << 20  # a log is at most twice that on disk: the file and its predecessor
_LINE_BYTES_MAX = 4096  # a readiness line is shorter; longer lines only pass through
_QUOTED_LINES = 12
_QUOTED_BYTES = 1 << 14


class ChildProcess:
    """One running child. Waited for through a pidfd, so that this process alone reaps it, without a thread."""

    def __init__(self, spec: ProcessSpec, process: subprocess.Popen[bytes], log_start: int) -> None:
        self.spec = spec
        self._log_start = log_start
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._ready: asyncio.Future[re.Match[str]] = self._loop.create_future()
        self._unfinished_line = b""
        assert process.stdout is not None
        self._stdout = process.stdout.fileno()
        os.set_blocking(self._stdout, False)
        self._loop.add_reader(self._stdout, self._read_stdout)
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._reap)

    @classmethod
    def spawn(cls, spec: ProcessSpec, started: subprocess.Popen[bytes] | None = None) -> ChildProcess:
        """Start the child, or take over one that was started as the spec says and waits to be told.

        Raises OSError where even the interpreter cannot be started.
        """
        with open_log(spec.log) as log:
            log_start = os.fstat(log).st_size
            process = started or start_process(spec.argv, spec.environment, stderr=log, is_told=spec.told is not None)
        if spec.told is not None:
            tell(process, spec.told)
        return cls(spec, process, log_start)

    @property
    def pid(self) -> int:
        """The process id, also after the end."""
        return self._process.pid

    async def exited(self) -> int:
        """Wait for the end; the exit status, negative for the signal that ended it."""
        return await asyncio.shield(self._exited)

    async def ready_line(self) -> re.Match[str]:
        """Wait for the line of `spec.ready_line`; for ever where it never comes."""
        assert self.spec.ready_line is not None
        return await asyncio.shield(self._ready)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a child that is gone already is fine."""
        if not self._exited.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def obituary(self) -> str:
        """Wait for the end; how it came, for people, with what the child said last."""
        status = await self.exited()
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        tail = log_tail(self.spec.log, self._log_start)
        said = f"the end of {self.spec.log}:\n{tail}" if tail else f"it wrote nothing to {self.spec.log}"
        return f"{self.spec.name} {how}; {said}"

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._read_stdout()  # its last words; a grandchild may keep the pipe open, so its end is not waited for
        self._close_stdout()
        status = self._process.wait()
        os.close(self._pidfd)
        self._exited.set_result(status)

    def _read_stdout(self) -> None:
        if self._stdout < 0:
            return
        try:
            while chunk := os.read(self._stdout, 1 << 16):
                with open_log(self.spec.log) as log:
                    os.write(log, chunk)
                self._look_for_ready_line(chunk)
        except BlockingIOError:
            return
        self._close_stdout()

    def _close_stdout(self) -> None:
        if self._stdout >= 0:
            self._loop.remove_reader(self._stdout)
            self._stdout = -1
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _look_for_ready_line(self, chunk: bytes) -> None:
        if self.spec.ready_line is None or self._ready.done():
            return
        *lines, unfinished = (self._unfinished_line + chunk).split(b"\n")
        self._unfinished_line = unfinished[-_LINE_BYTES_MAX:]
        for line in lines:
            if match := self.spec.ready_line.search(line.decode(errors="replace")):
                self._ready.set_result(match)
                return


def log_tail(log: Path, since: int = 0) -> str:
    """The last lines of a log from an offset on, indented; '' where there is nothing."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _QUOTED_BYTES, since if since <= size else 0))  # it may have been cut meanwhile
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(f"  {line}" for line in lines[-_QUOTED_LINES:])


def bound_log(log: Path, bytes_max: int = _LOG_BYTES_MAX) -> bool:
    """Move a log that has grown too long to `<name>.1`; whether it did.

    The children keep the file open, so it is copied and cut to nothing; because it is open for appending they go on at
    its new end. Lines written between copy and cut are lost: the price of not reading every log through a pipe.
    """
    try:
        if log.stat().st_size <= bytes_max:
            return False
    except FileNotFoundError:
        return False
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    os.truncate(log, 0)
    return True
