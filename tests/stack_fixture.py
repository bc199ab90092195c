"""The whole stack as a user starts it: `tollgate up` in a process of its own, on free ports, in a directory of its own.

A test takes the fixture `stack` and calls it, or opens `running_stack(...)` itself (in a module-scoped fixture, say).
Leaving a stack that the test did not end itself stops it as Ctrl-C does, and checks that it was still running, ends
with status 0 and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.canary import ENVIRONMENT, leaks, written

READY_SECONDS = 90.0  # generous: two cores may run several stacks at once
STOP_SECONDS = 60.0

METERING = "TOLLGATE_TEST_METERING"
"""Names the way of metering of every stack that does not choose one itself: `./dev test --metering …` sets it."""

TRANSIENT = {"lock", "children.json", "children.new", "metrics"}
"""What is in a state directory while a stack runs and must be gone after an orderly stop."""

_READY = re.compile(r"^tollgate ready listen=(https?://\S+) admin=(http://\S+)$")
_MOCK = re.compile(r"^mock-provider ready (http://\S+)$", re.MULTILINE)


@dataclass
class RunningStack:
    """A stack that accepts traffic. `errors` is the file of its stderr."""

    process: subprocess.Popen[str]
    listen: str
    admin: str
    state_dir: Path
    errors: Path
    children_at_start: Mapping[str, int] = field(default_factory=dict)
    ended_by_test: bool = False

    @property
    def children(self) -> dict[str, int]:
        """Name → pid of every child that runs now: redis, mock-provider, w0, w1, envoy."""
        record = json.loads((self.state_dir / "children.json").read_text())
        return {name: int(child["pid"]) for name, child in record["children"].items()}

    @property
    def worker_pids(self) -> dict[str, int]:
        """Name → pid of the sidecar's workers."""
        return {name: pid for name, pid in self.children.items() if re.fullmatch(r"w\d+", name)}

    @property
    def sockets(self) -> Path:
        """The short directory of the stack's Unix sockets."""
        return Path(json.loads((self.state_dir / "children.json").read_text())["sockets"])

    @property
    def redis_url(self) -> str:
        """The embedded Redis."""
        return f"unix://{self.sockets / 'redis.sock'}"

    @property
    def mock_url(self) -> str:
        """The built-in mock provider."""
        return str(_MOCK.findall((self.state_dir / "logs" / "mock-provider.log").read_text())[-1])

    def log(self, name: str) -> str:
        """What a child wrote."""
        return (self.state_dir / "logs" / f"{name}.log").read_text(errors="replace")

    def stderr(self) -> str:
        """What the stack told people."""
        return self.errors.read_text()

    def send(self, number: signal.Signals) -> None:
        """Ask it to end; who does so waits for the end with `wait` or `stop`."""
        self.ended_by_test = True
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait until it has ended; the exit status."""
        return self.process.wait(STOP_SECONDS)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to end and wait until it has; the exit status."""
        self.send(number)
        return self.wait()


StackFactory = Callable[..., RunningStack]
"""`stack(policies, *options, environment=None, state_dir=None)`."""


@contextlib.contextmanager
def running_stack(
    directory: Path,
    policies: Mapping[str, str] | Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
    state_dir: Path | None = None,
) -> Iterator[RunningStack]:
    """Start `tollgate up` below `directory`. `policies`: file name → content, or the directory of a policy set."""
    stack = start_stack(directory, policies, *options, environment=environment, state_dir=state_dir)
    sockets = stack.sockets
    try:
        yield stack
    finally:
        ended_by_test = stack.ended_by_test
        shown = {} if ended_by_test or stack.process.poll() is not None else shown_by(stack)
        if not ended_by_test:
            stack.send(signal.SIGINT)
        try:
            status = stack.wait()
        except subprocess.TimeoutExpired:
            stack.process.kill()
            stack.process.wait()
            pytest.fail(f"the stack did not stop:\n{stack.stderr()}")
        finally:
            if stack.process.stdout is not None:
                stack.process.stdout.close()
    if not ended_by_test:
        assert status == 0, f"the stack ended with status {status}:\n{stack.stderr()}"
        assert_nothing_left(stack.children_at_start, sockets)
    assert leaks({**shown, **written(stack.state_dir, stack.errors)}) == [], "the stack wrote a secret"


def shown_by(stack: RunningStack) -> dict[str, bytes]:
    """What a running stack shows of itself: Envoy's configuration and counters, its own metrics, its command lines."""
    places = {
        f"command line of {name}": Path(f"/proc/{pid}/cmdline").read_bytes()
        for name, pid in stack.children.items()
        if is_running(pid)
    }
    with contextlib.suppress(httpx.HTTPError):  # a test may have killed who would answer
        places["metrics"] = httpx.get(f"{stack.admin}/metrics", timeout=READY_SECONDS).content
        transport = httpx.HTTPTransport(uds=str(stack.sockets / "envoy-admin.sock"))
        with httpx.Client(transport=transport, base_url="http://envoy", timeout=READY_SECONDS) as envoy:
            places |= {page: envoy.get(f"/{page}").content for page in ("config_dump?include_eds", "stats")}
    return places


def start_stack(
    directory: Path,
    policies: Mapping[str, str] | Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
    state_dir: Path | None = None,
) -> RunningStack:
    """Start `tollgate up` and wait until it accepts traffic; who calls this ends it."""
    directory.mkdir(parents=True, exist_ok=True)
    if not isinstance(policies, Path):
        written = directory / "policies"
        written.mkdir(exist_ok=True)
        for name, content in policies.items():
            (written / name).write_text(content)
        policies = written
    state_dir = state_dir or directory / "state"
    errors = directory / "stderr"
    if "--metering" not in options and (way := os.environ.get(METERING)):
        options = (*options, "--metering", way)
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "ext_proc.cli", "up", "--policies", str(policies)),
                *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state-dir", str(state_dir), *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**plain_environment(), **ENVIRONMENT, **(environment or {})},
            cwd=directory,
        )
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], READY_SECONDS)[0]:
        process.kill()
        process.wait()
        pytest.fail(f"the stack was not ready after {READY_SECONDS:g} seconds:\n{errors.read_text()}")
    line = process.stdout.readline()
    match = _READY.match(line.rstrip("\n"))
    if match is None:
        status = process.wait(STOP_SECONDS) if not line else "none yet"
        process.stdout.close()
        pytest.fail(f"the stack did not start (exit status {status}), it printed {line!r} and:\n{errors.read_text()}")
    stack = RunningStack(process, match[1], match[2], state_dir, errors)
    stack.children_at_start = stack.children
    return stack


def plain_environment() -> dict[str, str]:
    """The environment without provider credentials: whatever the machine has, tests talk to the mock provider."""
    return {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_TOKEN"))}


def is_running(pid: int) -> bool:
    """Whether the process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def assert_nothing_left(children: Mapping[str, int], sockets: Path | None) -> None:
    """No process and no socket of a stack that has ended."""
    assert not {name: pid for name, pid in children.items() if is_running(pid)}
    assert sockets is None or not sockets.exists()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[StackFactory]:
    """Starts stacks; each is stopped at the end of the test."""
    with contextlib.ExitStack() as started:
        count = 0

        def start(
            policies: Mapping[str, str] | Path,
            *options: str,
            environment: Mapping[str, str] | None = None,
            state_dir: Path | None = None,
        ) -> RunningStack:
            nonlocal count
            count += 1
            return started.enter_context(
                running_stack(
                    tmp_path / f"stack{count}", policies, *options, environment=environment, state_dir=state_dir
                )
            )

        yield start


@pytest.fixture(scope="module", params=["stream", "native"])
def metering(request: pytest.FixtureRequest) -> str:
    """Both ways of metering: what is true of money is true in both."""
    way: str = request.param
    return way
