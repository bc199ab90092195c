"""`tollgate up` as a user runs it: what it prints, what it keeps, how it stops, and what it leaves behind."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from ext_proc.supervisor.policies import shipped_policies
from tests.stack_fixture import TRANSIENT, RunningStack, StackFactory, assert_nothing_left, running_stack, start_stack

pytestmark = pytest.mark.envoy

BUDGET = {
    "budget.yaml": """
name: everything
type: gateway-budget-config
rules:
  - {id: all, when: {}, limit_to: 100, unit: cost_per_lifetime}
"""
}
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}


def post(stack: RunningStack, **headers: str) -> httpx.Response:
    return httpx.post(f"{stack.listen}/v1/chat/completions", json=BODY, headers=headers, timeout=30)


def spent(stack: RunningStack) -> int:
    """Nano-dollars of the one budget, once nothing is held."""
    while True:
        (account,) = httpx.get(f"{stack.admin}/v1/budgets").json()["accounts"]
        if account["held"] == 0:
            return int(account["spent"])


@contextlib.contextmanager
def held_stream(stack: RunningStack) -> Iterator[Iterator[str]]:
    """A stream that waits in mid-answer until `release` lets it go on."""
    behavior = '{"hold_after_chunks": 2, "hold_open_until": "gate", "chunks": 6}'
    body: dict[str, Any] = {**BODY, "stream": True}
    with (
        httpx.Client(timeout=60) as client,
        client.stream(
            "POST", f"{stack.listen}/v1/chat/completions", json=body, headers={"x-mock-behavior": behavior}
        ) as answer,
    ):
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines).startswith("data:")
        httpx.get(f"{stack.mock_url}/mock/waiting/gate", timeout=60)
        yield lines


def release(mock_url: str) -> None:
    httpx.post(f"{mock_url}/mock/release/gate", timeout=30)


def refuses_connections(url: str) -> bool:
    try:
        socket.create_connection((urlsplit(url).hostname or "", urlsplit(url).port or 0)).close()
    except ConnectionError:  # refused; or reset, where it was waiting when the listener closed
        return True
    return False


def test_one_line_on_stdout_and_an_orderly_end(tmp_path: Path) -> None:
    """stdout holds the ready line and nothing else, Ctrl-C ends with status 0, and no process, socket, lock or
    temporary file is left.
    """
    with running_stack(tmp_path, BUDGET) as stack:
        sockets = stack.sockets
        assert {"redis", "mock-provider", "w0", "w1", "envoy"} <= stack.children.keys()
        assert post(stack).status_code == 200
        assert stack.stop(signal.SIGINT) == 0
        assert stack.process.stdout is not None
        assert stack.process.stdout.read() == ""
    assert_nothing_left(stack.children_at_start, sockets)
    assert refuses_connections(stack.listen)
    assert refuses_connections(stack.admin)
    assert not TRANSIENT & {path.name for path in stack.state_dir.iterdir()}
    assert "Traceback" not in stack.stderr() + "".join(stack.log(name) for name in stack.children_at_start)


def test_the_three_requests_end_as_they_are_told(tmp_path: Path, metering: str) -> None:
    """The curl lines that greet a newcomer, run by a shell as they stand: one passes, one gets 400, the last empties
    the demo budget and gets the 429.
    """
    with running_stack(tmp_path, shipped_policies(), "--metering", metering) as stack:
        told = re.split(r"^# ", stack.stderr(), flags=re.MULTILINE)[1:]
        statuses = []
        for comment_and_line in told:
            line = comment_and_line.splitlines()[1]
            done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
            statuses.append(re.findall(r"^\d{3}$", done.stdout, flags=re.MULTILINE))
        assert statuses == [["200"], ["400"], ["200", "429"]]
        assert "budget_exceeded" in done.stdout


def test_who_answers_is_said(stack: StackFactory) -> None:
    """The notice on stderr names every account the mock provider answers for, and how to reach the real one."""
    running = stack(BUDGET, environment={"GEMINI_API_KEY": "unused"})
    (notice,) = [line for line in running.stderr().splitlines() if "mock provider" in line]
    assert notice == (
        "tollgate: the built-in mock provider answers for anthropic-main, openai-main: "
        "set ANTHROPIC_API_KEY or OPENAI_API_KEY for the real one"
    )


def test_what_was_spent_is_kept_across_restarts(tmp_path: Path) -> None:
    """A second stack on the same state directory goes on where the first one stopped."""
    with running_stack(tmp_path, BUDGET) as first:
        post(first)
        before = spent(first)
        assert before > 0
    with running_stack(tmp_path, BUDGET) as second:
        assert spent(second) == before


def test_probes_follow_the_stack(stack: StackFactory) -> None:
    """While traffic is accepted /readyz says so and names each child; metrics of the workers are served."""
    running = stack(BUDGET)
    post(running)
    ready = httpx.get(f"{running.admin}/readyz")
    assert ready.status_code == 200
    assert ready.json()["components"] == {"accepting": True} | dict.fromkeys(running.children, "up")
    assert httpx.get(f"{running.admin}/healthz").status_code == 200
    assert "tollgate_ledger_up 1" in httpx.get(f"{running.admin}/metrics").text


def test_an_upstream_gets_the_requests_of_its_account(stack: StackFactory) -> None:
    """--upstream ACCOUNT=URL sends that account elsewhere, here to the mock provider of another stack; no mock of its
    own answers for it.
    """
    other = stack(BUDGET)
    running = stack(BUDGET, "--upstream", f"openai-main={other.mock_url}")
    assert post(running).status_code == 200
    recorded = httpx.get(f"{other.mock_url}/mock/requests").json()
    assert "/v1/chat/completions" in str(recorded)


def test_with_every_account_served_there_is_no_mock(stack: StackFactory) -> None:
    """The mock provider runs only where somebody needs it."""
    keys = {"OPENAI_API_KEY": "unused", "ANTHROPIC_API_KEY": "unused", "GEMINI_API_KEY": "unused"}
    running = stack(BUDGET, environment=keys)
    assert "mock-provider" not in running.children
    assert "mock provider" not in running.stderr()


def test_a_redis_by_url_is_used_and_left_running(stack: StackFactory, redis_url: str) -> None:
    """--redis URL keeps the books there; the stack neither starts nor stops a Redis."""
    running = stack(BUDGET, "--redis", redis_url)
    assert "redis" not in running.children
    post(running)
    assert spent(running) > 0
    assert running.stop() == 0
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() > 0


def test_a_live_stream_finishes_and_is_charged_when_the_stack_stops(tmp_path: Path) -> None:
    """SIGTERM refuses new connections at once, yet the answer in flight arrives whole and is charged before the end."""
    with running_stack(tmp_path, BUDGET) as stack:
        with held_stream(stack) as lines:
            stack.send(signal.SIGTERM)
            while not refuses_connections(stack.listen):
                assert stack.process.poll() is None
            release(stack.mock_url)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert stack.wait() == 0
    with running_stack(tmp_path, BUDGET) as after:
        (entry,) = httpx.get(f"{after.admin}/v1/journal").json()["entries"]
        assert (entry["basis"], entry["ended"]) == ("reported", "complete")


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    """Whoever asks twice wants the end now: a stream that would keep the drain waiting is cut, and still nothing is
    left behind.
    """
    with running_stack(tmp_path, BUDGET) as stack, held_stream(stack) as lines:
        sockets = stack.sockets
        stack.send(signal.SIGINT)
        while not refuses_connections(stack.listen):
            assert stack.process.poll() is None
        assert stack.stop(signal.SIGINT) == 0
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
    assert_nothing_left(stack.children_at_start, sockets)


def test_port_and_state_directory_of_a_running_stack_are_refused(stack: StackFactory, tmp_path: Path) -> None:
    """A second stack on the same address or directory is told so and changes nothing for the first."""
    running = stack(BUDGET)
    address = running.listen.removeprefix("http://")
    for options, said in (
        (("--listen", address), rf"--listen {address}: Address already in use"),
        (("--admin", address), rf"--admin {address}: Address already in use"),
        (("--state-dir", str(running.state_dir)), r"in use by another stack"),
    ):
        with pytest.raises(pytest.fail.Exception, match=said):
            start_stack(tmp_path / "second", BUDGET, *options)
    assert post(running).status_code == 200
