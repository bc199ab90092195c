"""kill -9 at everything that runs: nothing survives its supervisor, and whatever else dies comes back."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest
import redis

from tests.stack_fixture import RunningStack, StackFactory, running_stack

pytestmark = [pytest.mark.envoy, pytest.mark.crash]

POLICIES = {
    "budget.yaml": """
name: everything
type: gateway-budget-config
rules:
  - {id: all, when: {}, limit_to: 100, unit: cost_per_lifetime}
"""
}
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
WITHIN_SECONDS = 60.0


def post(stack: RunningStack) -> int:
    try:
        return httpx.post(f"{stack.listen}/v1/chat/completions", json=BODY, timeout=30).status_code
    except httpx.TransportError:
        return 0


def wait_until(stack: RunningStack, holds: Callable[[], bool]) -> None:
    """Ask again and again; pytest's own time limit ends a wait in vain."""
    while not holds():
        assert stack.process.poll() is None, stack.stderr()


def settled(stack: RunningStack) -> int:
    """Nano-dollars spent, once nothing is held and all of it is in Redis' file, which a busy disk can put off."""
    found: list[int] = []

    def quiet() -> bool:
        answer = httpx.get(f"{stack.admin}/v1/budgets", timeout=30)
        accounts = answer.json()["accounts"] if answer.status_code == 200 else []
        if accounts and all(account["held"] == 0 for account in accounts):
            found.append(sum(account["spent"] for account in accounts))
        return bool(found)

    def written() -> bool:
        return int(client.info("persistence")["aof_buffer_length"]) == 0

    wait_until(stack, quiet)
    with redis.Redis.from_url(stack.redis_url) as client:
        wait_until(stack, written)
    return found[0]


def component(stack: RunningStack, name: str) -> str:
    return str(httpx.get(f"{stack.admin}/readyz").json()["components"][name])


def kill_and_wait_for_the_next(stack: RunningStack, name: str) -> None:
    killed = stack.children[name]
    os.kill(killed, signal.SIGKILL)
    wait_until(stack, lambda: stack.children.get(name, killed) != killed)
    wait_until(stack, lambda: component(stack, name).startswith("up"))
    assert component(stack, name) == "up, restarted 1×"
    assert f"{name} was ended by SIGKILL" in stack.stderr()


@contextlib.contextmanager
def each_ends(children: Mapping[str, int]) -> Iterator[None]:
    """Every one of these processes ends because of what is done in the block."""
    pidfds = {name: os.pidfd_open(pid) for name, pid in children.items()}
    yield
    survivors = []
    for name, pidfd in pidfds.items():
        if not select.select([pidfd], [], [], WITHIN_SECONDS)[0]:
            survivors.append(name)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # a failing test leaves nothing behind either
        os.close(pidfd)
    assert not survivors


def test_a_killed_supervisor_takes_everything_with_it(tmp_path: Path) -> None:
    """kill -9 of the supervisor ends every child; the next stack on the directory removes its sockets and finds every
    charge.
    """
    with running_stack(tmp_path, POLICIES) as stack:
        sockets = stack.sockets
        assert post(stack) == 200
        before = settled(stack)
        assert before > 0
        with each_ends(stack.children):
            assert stack.stop(signal.SIGKILL) == -signal.SIGKILL
    assert sockets.exists(), "who is killed cannot clean up; the successor does"
    with running_stack(tmp_path, POLICIES) as successor:
        assert not sockets.exists()
        assert settled(successor) == before
        assert post(successor) == 200


def test_a_supervisor_killed_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    """Whenever the kill comes, each child that exists dies: the signal is set before a child becomes its program."""
    with running_stack(tmp_path, POLICIES) as stack:
        first = stack.children["w0"]
        os.kill(first, signal.SIGKILL)
        wait_until(stack, lambda: stack.children.get("w0", first) != first)  # the next one starts
        with each_ends(stack.children):
            stack.stop(signal.SIGKILL)
    with running_stack(tmp_path, POLICIES) as successor:
        assert post(successor) == 200


def test_a_killed_worker_comes_back_while_the_other_serves(stack: StackFactory) -> None:
    """One of two workers dies: requests go on being answered, and the worker is started again."""
    running = stack(POLICIES)
    for name in ("w0", "w1"):
        kill_and_wait_for_the_next(running, name)
        wait_until(running, lambda: post(running) == 200)
    assert settled(running) > 0


def test_a_killed_redis_comes_back_with_the_books(stack: StackFactory) -> None:
    """Redis dies: it is started again with everything that was spent, and traffic is admitted again."""
    running = stack(POLICIES)
    assert post(running) == 200
    before = settled(running)
    kill_and_wait_for_the_next(running, "redis")
    assert settled(running) == before
    wait_until(running, lambda: post(running) == 200)
    assert settled(running) > before


@pytest.mark.parametrize("name", ["envoy", "mock-provider"])
def test_what_listens_comes_back_where_it_was(stack: StackFactory, name: str) -> None:
    """Envoy and the mock provider are started again on the port that clients and Envoy know."""
    running = stack(POLICIES)
    kill_and_wait_for_the_next(running, name)
    wait_until(running, lambda: post(running) == 200)


def test_everything_at_once(stack: StackFactory) -> None:
    """All children die together: the stack heals and the books are those from before."""
    running = stack(POLICIES)
    assert post(running) == 200
    before = settled(running)
    children = running.children
    for pid in children.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(running, lambda: not set(children.values()) & set(running.children.values()))
    wait_until(running, lambda: httpx.get(f"{running.admin}/readyz").status_code == 200)
    wait_until(running, lambda: post(running) == 200)
    assert settled(running) > before
