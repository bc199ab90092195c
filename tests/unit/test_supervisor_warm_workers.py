"""Workers that are started before it is known what they will serve, and what starting one loads."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ext_proc.supervisor.processes import ChildProcess
from ext_proc.supervisor.spawning import ProcessSpec, start_process
from ext_proc.supervisor.warm_workers import WarmWorkers, worker_argv, worker_names

ECHO = "import sys; text = sys.stdin.read(); print('told', text[:5], len(text), flush=True)"


def children() -> set[int]:
    """The processes this one has started."""
    return set(map(int, Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()))


def loaded_by(*modules: str) -> set[str]:
    """The top-level packages that importing these modules loads, in a process of its own."""
    code = f"import sys, {', '.join(modules)}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_workers_that_nobody_takes_are_gone(tmp_path: Path) -> None:
    """A start that is refused leaves no process: not one of those that had begun to load."""
    before = children()
    with WarmWorkers(worker_names(2), tmp_path) as warm:
        started = children() - before
        taken = warm.take("w0")
        assert taken is not None
        assert warm.take("w0") is None
        assert len(started) == 2
    assert children() & started == {taken.pid}
    with taken:
        taken.kill()


def test_a_worker_that_is_told_nothing_ends_quietly(tmp_path: Path) -> None:
    """Without settings it has served nobody, written nothing, and has nothing to complain about."""
    done = subprocess.run(worker_argv("w0"), input=b"", cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_started_process_is_taken_over_and_told(tmp_path: Path) -> None:
    """A child that was started before is told what one that is started now is told, and says so in the same log."""
    argv = (sys.executable, "-c", ECHO)
    log = tmp_path / "child.log"

    async def said_by(child: ChildProcess) -> str:
        async with asyncio.timeout(30):
            said = (await child.ready_line())[1]
            assert await child.exited() == 0
            return said

    async def scenario() -> None:
        for text in ("first", "x" * 200_000):  # the second is more than a pipe holds
            spec = ProcessSpec("child", argv, log, ready_line=re.compile(r"^told (.*)"), told=text.encode())
            started = start_process(argv, spec.environment, stderr=None, is_told=True)
            for child in (ChildProcess.spawn(spec, started), ChildProcess.spawn(spec)):
                assert await said_by(child) == f"{text[:5]} {len(text)}"

    asyncio.run(scenario())
    assert log.read_text().count("told ") == 4


@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        pytest.param(
            ("ext_proc.cli", "ext_proc.cli.serve", "ext_proc.cli.up"),
            {"asyncio", "grpc", "redis", "aiohttp", "prometheus_client", "yaml", "re2", "orjson"},
            id="before the workers are started",
        ),
        pytest.param(
            ("ext_proc.cli.running", "ext_proc.supervisor.sidecar"),
            {"envoy_data_plane", "betterproto2", "grpclib", "google", "uvloop", "genai_prices", "pydantic", "aiohttp"},
            id="the supervisor of `tollgate serve` until the workers are told",
        ),
        pytest.param(
            ("ext_proc.server.worker",),
            {"aiohttp", "genai_prices", "pydantic", "envoy_data_plane"},
            id="a worker",
        ),
        pytest.param(
            ("ext_proc.cli.check",),
            {"grpc", "redis", "aiohttp", "genai_prices", "pydantic", "google", "prometheus_client"},
            id="`tollgate check`",
        ),
    ],
)
def test_a_start_loads_only_what_it_needs(modules: tuple[str, ...], unneeded: set[str]) -> None:
    """A start waits mostly for modules to load; each of these would cost it tens or hundreds of milliseconds."""
    assert loaded_by(*modules) & unneeded == set()
