"""Real child processes: they die with their parent, say when they are ready, and are quoted when they end."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from ext_proc.supervisor.processes import ChildProcess, bound_log, log_tail
from ext_proc.supervisor.spawning import ProcessSpec, plain_environment

LAUNCHER = Path(sys.modules[ChildProcess.__module__].__file__ or "").with_name("launch.py")

# What each child runs after its setup: it ends when its standard input does, which here is at once, so it waits itself.
WAIT = "import signal; signal.pause()"


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(bounded())


def spec(tmp_path: Path, code: str, ready: str | None = None) -> ProcessSpec:
    return ProcessSpec(
        "child",
        (sys.executable, "-u", "-c", code),
        tmp_path / "child.log",
        ready_line=None if ready is None else re.compile(ready),
    )


def test_a_child_says_when_it_is_ready_and_what_it_said_last(tmp_path: Path) -> None:
    """The readiness line is found wherever chunks break it, and both streams end in one log that is quoted."""
    code = (
        "import os; os.write(2, b'on stderr\\n'); os.write(1, b'x' * 9000 + b'\\nchild re');"
        "os.write(1, b'ady http://h\\nmore\\n'); " + WAIT
    )

    async def scenario() -> None:
        child = ChildProcess.spawn(spec(tmp_path, code, r"^child ready (\S+)"))
        assert (await child.ready_line())[1] == "http://h"
        child.signal(signal.SIGTERM)
        assert await child.exited() == -signal.SIGTERM
        said = await child.obituary()
        assert said.startswith("child was ended by SIGTERM; the end of ")
        assert "  more" in said
        assert "on stderr" in said

    run(scenario)


def test_an_obituary_quotes_this_life_only(tmp_path: Path) -> None:
    """Last words of an earlier child in the same log are not taken for this one's."""

    async def scenario() -> None:
        (tmp_path / "child.log").write_text("words of an earlier life\n")
        silent = ChildProcess.spawn(spec(tmp_path, "raise SystemExit(3)"))
        assert await silent.obituary() == f"child exited with status 3; it wrote nothing to {tmp_path}/child.log"

    run(scenario)


def test_a_grandchild_that_keeps_the_pipe_does_not_keep_us_waiting(tmp_path: Path) -> None:
    """The end of a child is its own end: what it started may still hold its output open."""
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {WAIT!r}]); print(p.pid)"

    async def scenario() -> None:
        child = ChildProcess.spawn(spec(tmp_path, code))
        assert await child.exited() == 0
        os.kill(int((tmp_path / "child.log").read_text()), signal.SIGKILL)

    run(scenario)


def test_a_program_that_cannot_be_executed_says_so(tmp_path: Path) -> None:
    """The log names the program and the reason."""

    async def scenario() -> None:
        child = ChildProcess.spawn(ProcessSpec("child", ("/nonexistent/redis-server",), tmp_path / "child.log"))
        assert "cannot execute /nonexistent/redis-server: No such file or directory" in await child.obituary()

    run(scenario)


def test_a_signal_to_a_child_that_is_gone_is_fine(tmp_path: Path) -> None:
    """Signalling races with ending; losing that race is no error and reaches no other process."""

    async def scenario() -> None:
        child = ChildProcess.spawn(spec(tmp_path, ""))
        await child.exited()
        child.signal(signal.SIGKILL)

    run(scenario)


def test_a_child_leads_its_own_session(tmp_path: Path) -> None:
    """Ctrl-C in the terminal reaches the supervisor alone."""

    async def scenario() -> None:
        child = ChildProcess.spawn(spec(tmp_path, WAIT))
        assert os.getsid(child.pid) == child.pid
        child.signal(signal.SIGKILL)
        await child.exited()

    run(scenario)


def test_a_child_dies_with_its_parent() -> None:
    """A parent that is killed, and so cannot stop anybody, takes its children with it."""
    parent_code = (
        "import subprocess, sys, os\n"
        f"child = subprocess.Popen([sys.executable, '-I', '-S', {str(LAUNCHER)!r}, str(os.getpid()),"
        f" sys.executable, '-c', {'import signal; print(0, flush=True); signal.pause()'!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n" + WAIT
    )
    with subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            parent.wait()
            assert select.select([pidfd], [], [], 10)[0], "the child outlived its parent"
        finally:
            os.close(pidfd)


def test_a_child_whose_parent_is_gone_already_never_starts() -> None:
    """The launcher does not start a program that nobody would ever stop."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(LAUNCHER), "1", sys.executable, "-c", "print('started')"],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (125, b"")


def test_plain_environment_has_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis, Envoy and the mock provider are not given provider keys or tokens."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("TOLLGATE_ADMIN_TOKEN", "secret")
    assert "secret" not in "".join(plain_environment().values())
    assert "PATH" in plain_environment()


def test_a_log_is_bounded_while_its_writer_goes_on(tmp_path: Path) -> None:
    """A log that grew too long moves aside, and who has it open for appending goes on at its new beginning."""
    log = tmp_path / "child.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 3)
        assert not bound_log(log, bytes_max=12)
        writer.write(b"old\n")
        assert bound_log(log, bytes_max=12)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "child.log.1").read_bytes() == b"old\n" * 4
    assert log_tail(log, since=1000) == "  new"
    assert log_tail(tmp_path / "none.log") == ""
    assert not bound_log(tmp_path / "none.log")
