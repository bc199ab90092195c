"""Become another program that dies with its parent: `python -I -S launch.py <parent pid> <program> [argument]…`.

The parent-death signal must be set in the child, between fork and exec. Doing so in `preexec_fn` would run Python code
in a forked copy of a process with threads, where any lock may be held for ever; so this file is executed instead, as a
fresh single-threaded interpreter that sets the signal and then becomes the program (the signal survives `execve`).
It runs without site-packages and imports nothing of the project, to cost milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_EXIT_PARENT_GONE = 125
_EXIT_CANNOT_EXECUTE = 126


def main(arguments: list[str]) -> int:
    """Returns only where the program could not be executed."""
    parent_pid, *argv = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.stderr.write(f"cannot set the parent-death signal: {os.strerror(ctypes.get_errno())}\n")
        return _EXIT_CANNOT_EXECUTE
    if os.getppid() != int(parent_pid):  # it died before the signal was set: nobody would send it
        return _EXIT_PARENT_GONE
    try:
        os.execv(argv[0], argv)  # noqa: S606 - the program is one the supervisor chose, and no shell is wanted
    except OSError as error:
        sys.stderr.write(f"cannot execute {argv[0]}: {error.strerror}\n")
    return _EXIT_CANNOT_EXECUTE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
