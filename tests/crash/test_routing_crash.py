"""kill -9 of the worker that makes a second attempt: its caller is answered, and each hold is resolved once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import running_redis
from tests.e2e_kit import GPT_4O_MINI, POLICIES, Gateway, cost, eventually
from tests.routing_kit import ROUTED_USAGE, behaving, chain, served
from tests.stack_fixture import RunningStack, running_stack

pytestmark = [pytest.mark.envoy, pytest.mark.crash]

SECOND_HOLD = re.compile(rb"[0-9a-f]{28}\.2\b")
BEFORE_HOLD, AFTER_HOLD = "before its hold", "after its hold"
LEASE_SECONDS = 8  # longer than a surviving worker takes to settle from the end record, on a busy machine too
LIMIT = 1_000
SLOW = "slow-target"
FAILS, SERVES = "openai-main/gpt-4o", "openai-main/gpt-4o-mini"


class KillingProxy:
    """Stands before Redis on a Unix socket, and so knows who asks: once armed, it kills who asks for a second hold.

    `BEFORE_HOLD`: Redis never sees the question. `AFTER_HOLD`: Redis has answered it, and nobody hears the answer.
    """

    def __init__(self, port: int) -> None:
        self.armed: str | None = None
        self._askers: dict[bytes, int] = {}  # second hold → who asked for it: whoever names it later resolves it
        self._doomed: int | None = None
        self._port = port

    @property
    def asker(self) -> int:
        """The process that asked for the latest second hold."""
        return next(reversed(self._askers.values()))

    @contextlib.contextmanager
    def serving(self, path: Path) -> Iterator[str]:
        """The URL to reach Redis by, for the length of a block."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_unix_server(self._serve, path), loop).result(30)
        try:
            yield f"unix://{path}"
        finally:
            asyncio.run_coroutine_threadsafe(_ended(server), loop).result(30)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(30)
            loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid: int = struct.unpack("3i", credentials)[0]
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._port)
        answers = asyncio.ensure_future(self._answers(redis_reader, writer, pid))
        try:
            while data := await reader.read(65_536):
                new = [hold for hold in SECOND_HOLD.findall(data) if hold not in self._askers]
                self._askers |= dict.fromkeys(new, pid)
                if new and self.armed == BEFORE_HOLD:
                    return self._kill(pid)
                if new and self.armed == AFTER_HOLD:
                    self._doomed = pid
                redis_writer.write(data)
        except (OSError, asyncio.CancelledError):
            return None
        finally:
            answers.cancel()
            redis_writer.transport.abort()
            writer.transport.abort()
        return None

    async def _answers(self, redis_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int) -> None:
        while data := await redis_reader.read(65_536):
            if self._doomed == pid:
                return self._kill(pid)
            writer.write(data)
        return None

    def _kill(self, pid: int) -> None:
        self.armed = self._doomed = None
        os.kill(pid, signal.SIGKILL)


async def _ended(server: asyncio.Server) -> None:
    server.close()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def policies() -> dict[str, str]:
    """Chains whose first target fails; one goes on to a target that waits at a gate."""
    fails = behaving(status=500)  # each target for two tests only: one that has failed twice goes to the end
    rules = [
        chain("chain", {"target": FAILS, **fails}, {"target": SERVES}),
        chain("slow", {"target": "openai-main/gpt-4.1", **fails}, {"target": SERVES, **behaving(hold_open_until=SLOW)}),
    ]
    routing = {"name": "routing", "type": "gateway-load-balancing-config", "rules": rules}
    return {**POLICIES, "routing.yaml": yaml.safe_dump(routing)}


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningStack, KillingProxy]]:
    """One stack for the module, whose workers reach Redis through the proxy."""
    with running_redis() as redis, tempfile.TemporaryDirectory(prefix="tg-proxy-") as directory:
        proxy = KillingProxy(redis.port)
        options = ("--workers", "2", "--hold-lease", str(LEASE_SECONDS))
        with (
            proxy.serving(Path(directory) / "redis.sock") as url,
            running_stack(tmp_path_factory.mktemp("crash"), policies(), "--redis", url, *options) as stack,
        ):
            yield stack, proxy


@pytest.fixture
def gateway(proxied: tuple[RunningStack, KillingProxy], request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A client whose cost center is the test's name, once both workers are up."""
    wait_for_workers(proxied[0])
    gateway = Gateway(proxied[0], request.node.name)
    yield gateway
    gateway.close()


def wait_for_workers(stack: RunningStack) -> None:
    """Until every worker is up, again."""

    def look() -> bool | None:
        components = httpx.get(f"{stack.admin}/readyz", timeout=30).json()["components"]
        return True if all(str(components[name]).startswith("up") for name in ("w0", "w1")) else None

    eventually(look, "both workers up")


@contextlib.contextmanager
def one_worker_is_killed(stack: RunningStack, proxy: KillingProxy) -> Iterator[None]:
    """In the block who asked for the second hold is killed. The other worker and Envoy run on, traffic goes on."""
    before = stack.children
    yield
    killed = proxy.asker
    others = {name: pid for name, pid in before.items() if pid != killed}
    assert len(others) == len(before) - 1, "who asked was a worker"
    assert others.items() <= stack.children.items()
    eventually(lambda: True if stack.children.keys() == before.keys() else None, "the worker started again")


def books(gateway: Gateway, count: int) -> dict[str, dict[str, Any]]:
    """Attempt → journal entry, once there are so many and nothing is held: each hold once, and all that is spent."""
    entries = gateway.resolved(count)
    found = {entry["hold_id"].rpartition(".")[2]: entry for entry in entries}
    assert len(found) == len(entries) == count
    assert gateway.account("per-cost-center")["spent"] == sum(entry["charge_nanodollars"] for entry in entries)
    return found


def test_killed_before_the_second_hold(proxied: tuple[RunningStack, KillingProxy], gateway: Gateway) -> None:
    """The first attempt failed, the second was never held: a clean error, nothing charged, traffic goes on."""
    stack, proxy = proxied
    proxy.armed = BEFORE_HOLD
    with one_worker_is_killed(stack, proxy):
        answer = gateway.chat(model="chain", user=gateway.cost_center, max_tokens=LIMIT, usage=ROUTED_USAGE)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "admission_unavailable")
    entry = books(gateway, 1)["1"]
    assert (entry["served_model"], entry["basis"], entry["charge_nanodollars"]) == (FAILS, "released", 0)
    assert len(gateway.received(1)) == 1
    assert eventually(lambda: gateway.chat().status_code == HTTPStatus.OK or None, "traffic")


def test_killed_after_the_second_hold(proxied: tuple[RunningStack, KillingProxy], gateway: Gateway) -> None:
    """Nobody knows of the second hold but Redis: a clean error, and when its lease ends the hold is charged in full."""
    stack, proxy = proxied
    proxy.armed = AFTER_HOLD
    with one_worker_is_killed(stack, proxy):
        answer = gateway.chat(model="chain", user=gateway.cost_center, max_tokens=LIMIT, usage=ROUTED_USAGE)
        held = gateway.account("per-cost-center")["held"]

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "admission_unavailable")
    attempts = books(gateway, 2)
    assert (attempts["1"]["basis"], attempts["1"]["status"], attempts["1"]["charge_nanodollars"]) == (
        "released",
        500,
        0,
    )
    assert (attempts["2"]["basis"], attempts["2"]["charge_nanodollars"]) == ("expired", held)
    assert held > cost(GPT_4O_MINI, output=LIMIT)
    assert len(gateway.received(1)) == 1
    assert eventually(lambda: gateway.chat().status_code == HTTPStatus.OK or None, "traffic")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_killed_while_the_provider_answers(
    proxied: tuple[RunningStack, KillingProxy], gateway: Gateway, stream: bool
) -> None:
    """The second attempt is with its provider: the answer arrives whole, and each attempt is charged exactly."""
    stack, proxy = proxied
    with ThreadPoolExecutor(1) as pool, slow_gate(gateway), one_worker_is_killed(stack, proxy):
        pending = pool.submit(gateway.chat, model="slow", max_tokens=LIMIT, usage=ROUTED_USAGE, stream=stream)
        gateway.mock.get(f"/mock/waiting/{SLOW}").raise_for_status()
        killed = proxy.asker
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: True if killed not in stack.children.values() else None, "the worker's end noticed")
        wait_for_workers(stack)  # so that the meter of this answer does not meet the dead one
        gateway.release(SLOW)
        answer = pending.result()

    assert served(answer) == SERVES
    attempts = books(gateway, 2)
    assert (attempts["1"]["basis"], attempts["1"]["status"], attempts["1"]["charge_nanodollars"]) == (
        "released",
        500,
        0,
    )
    assert attempts["2"]["basis"] == "reported"
    assert attempts["2"]["charge_nanodollars"] == cost(GPT_4O_MINI, input_uncached=100, output=50)


@contextlib.contextmanager
def slow_gate(gateway: Gateway) -> Iterator[None]:
    """The gate of the slow target is shut now, and open at the end, come what may."""
    gateway.mock.delete(f"/mock/release/{SLOW}").raise_for_status()
    try:
        yield
    finally:
        gateway.release(SLOW)
