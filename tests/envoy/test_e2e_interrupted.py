"""Requests that do not end well: each is charged for what it used, once, and nothing stays held."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e_kit import GPT_4O_MINI, POLICIES, Gateway, chat_body, cost, eventually
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

LIMIT = 4_000
HELD_OUTPUT = GPT_4O_MINI["output"] * LIMIT


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, metering: str) -> Iterator[RunningStack]:
    """One stack for the module, with the default hold lease of two minutes: nothing here may wait for expiry."""
    with running_stack(
        tmp_path_factory.mktemp("interrupted"), POLICIES, "--workers", "2", "--metering", metering
    ) as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A client whose cost center is the test's name."""
    gateway = Gateway(running, request.node.name.replace("[", "-").strip("]"))
    yield gateway
    gateway.close()


def settled(gateway: Gateway) -> dict[str, Any]:
    """The one entry, and the balance that must agree with it."""
    (entry,) = gateway.resolved()
    assert gateway.account("per-cost-center")["spent"] == entry["charge_nanodollars"]
    return entry


def test_a_client_that_leaves_in_mid_stream_is_charged_for_what_passed(gateway: Gateway) -> None:
    """Never 0, never the whole hold, and long before the lease ends (T29, T30)."""
    behavior = {"chunks": 40, "hold_open_until": gateway.cost_center, "hold_after_chunks": 20}
    with gateway.http.stream(
        "POST",
        "/v1/chat/completions",
        json=chat_body(stream=True, max_tokens=LIMIT),
        headers=gateway.headers({"input": 10, "output": 400}, behavior),
    ) as answer:
        lines = answer.iter_lines()
        seen = [line for line in (next(lines) for _ in range(20)) if line]
    assert seen

    entry = settled(gateway)
    gateway.release(gateway.cost_center)
    assert entry["basis"] == "estimated"
    assert entry["usage"]["output"] > 1
    assert 0 < entry["charge_nanodollars"] < HELD_OUTPUT


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_first_byte_is_charged_an_estimate(gateway: Gateway, stream: bool) -> None:
    """The request was sent upstream, so the provider is working on it: the estimate is not 0 (T28)."""
    body = chat_body(stream=stream, max_tokens=LIMIT, user=gateway.cost_center)
    headers = gateway.headers(behavior={"hold_open_until": gateway.cost_center})
    with ThreadPoolExecutor() as pool, httpx.Client(base_url=gateway.stack.listen, timeout=60) as leaving:
        pending = pool.submit(_post_until_closed, leaving, body, headers)
        gateway.received(1)
        _shut(leaving)
        pending.result()

    entry = settled(gateway)
    gateway.release(gateway.cost_center)
    assert entry["basis"] == "estimated"
    assert 0 < entry["charge_nanodollars"] < HELD_OUTPUT


@pytest.mark.parametrize(
    "behavior",
    [{"status": 500}, {"status": 503}, {"status": 429}, {"reset": "before_headers"}, {"reset": "after_headers"}],
    ids=lambda behavior: "-".join(str(value) for value in behavior.values()),
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_fails_before_any_output_costs_nothing(
    gateway: Gateway, behavior: dict[str, Any], stream: bool
) -> None:
    """A provider error and a reset before any output release the hold."""
    try:
        answer = gateway.chat(behavior=behavior, stream=stream)
        assert answer.status_code >= 429 or behavior == {"reset": "after_headers"}
    except httpx.RemoteProtocolError:
        assert behavior == {"reset": "after_headers"}

    entry = settled(gateway)
    assert entry["basis"] == "released"
    assert entry["charge_nanodollars"] == 0


def test_an_upstream_that_cuts_the_stream_is_charged_for_what_passed(gateway: Gateway) -> None:
    """A stream cut before its usage chunk settles at an estimate of what passed, not at 0 and not at the hold."""
    behavior = {"chunks": 40, "cut_after_chunks": 20, "hold_open_until": gateway.cost_center, "hold_after_chunks": 20}
    headers = gateway.headers({"input": 10, "output": 400}, behavior)
    body = chat_body(stream=True, max_tokens=LIMIT)
    with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        lines = answer.iter_lines()
        assert next(lines)
        gateway.release(gateway.cost_center)
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)

    entry = settled(gateway)
    assert entry["basis"] == "estimated"
    assert 0 < entry["charge_nanodollars"] < HELD_OUTPUT


@pytest.mark.parametrize("stream", [False, True])
def test_a_missing_usage_is_estimated(gateway: Gateway, stream: bool) -> None:
    """A 2xx without usage is charged by estimate: never 0, never one token (wso2 #2932)."""
    gateway.chat(behavior={"no_usage": True}, usage={"input": 10, "output": 200}, stream=stream)

    entry = settled(gateway)
    assert entry["basis"] == "estimated"
    assert entry["usage"]["output"] > 10


@pytest.mark.parametrize("behavior", [{"gzip": True}, {"crlf": True}, {"no_last_newline": True}, {"split_bytes": 3}])
@pytest.mark.parametrize("stream", [False, True])
def test_odd_framing_is_metered_exactly(gateway: Gateway, behavior: dict[str, Any], stream: bool) -> None:
    """Compression, CR LF, a missing last newline and tiny chunks change nothing about the charge."""
    gateway.chat(behavior=behavior, usage={"input": 100, "output": 50}, stream=stream)

    entry = settled(gateway)
    assert entry["basis"] == "reported"
    assert entry["charge_nanodollars"] == cost(GPT_4O_MINI, input_uncached=100, output=50)


@pytest.mark.parametrize("encoding", ["br", "zstd"])
def test_an_answer_that_cannot_be_read_is_charged_by_estimate(gateway: Gateway, encoding: str) -> None:
    """A provider that compresses unasked is never free: its bytes are estimated, and counted as missing usage."""
    body = b"x" * 4_000
    behavior = {"headers": {"content-encoding": encoding}, "body": body.decode()}
    with gateway.http.stream(
        "POST", "/v1/chat/completions", json=chat_body(), headers=gateway.headers(behavior=behavior)
    ) as answer:
        assert b"".join(answer.iter_raw()) == body

    (entry,) = gateway.resolved()
    assert entry["basis"] == "estimated"
    assert entry["usage"]["output"] == 1_000
    assert entry["charge_nanodollars"] > 1_000 * 600
    metrics = gateway.admin.get("/metrics").text
    assert 'tollgate_usage_missing_total{model="openai-main/gpt-4o-mini"}' in metrics


def test_killing_a_worker_leaves_answers_whole_and_the_books_balanced(running: RunningStack, gateway: Gateway) -> None:
    """kill -9 of a worker with streams in flight: every answer arrives whole, traffic goes on, nothing stays held."""
    streams = 8
    behavior = {"chunks": 20, "hold_open_until": gateway.cost_center, "hold_after_chunks": 10}
    usage = {"input": 100, "output": 50}
    with ThreadPoolExecutor(streams) as pool:
        body = {"stream": True, "user": gateway.cost_center}
        answers = [pool.submit(gateway.chat, usage=usage, behavior=behavior, **body) for _ in range(streams)]
        gateway.received(streams)
        os.kill(running.worker_pids["w0"], signal.SIGKILL)
        gateway.release(gateway.cost_center)
        bodies = [answer.result() for answer in answers]

    assert [answer.status_code for answer in bodies] == [200] * streams
    assert all(answer.text.rstrip().endswith("data: [DONE]") for answer in bodies)
    later = eventually(lambda: answer if (answer := gateway.chat(usage=usage)).status_code == 200 else None, "traffic")
    assert later.status_code == 200
    entries = gateway.resolved(streams + 1)
    assert len({entry["hold_id"] for entry in entries}) == len(entries)
    assert all(entry["charge_nanodollars"] > 0 for entry in entries)
    assert gateway.account("per-cost-center")["spent"] == sum(entry["charge_nanodollars"] for entry in entries)


def _post_until_closed(client: httpx.Client, body: dict[str, Any], headers: dict[str, str]) -> None:
    try:
        client.post("/v1/chat/completions", json=body, headers=headers)
    except httpx.HTTPError:
        return


def _shut(client: httpx.Client) -> None:
    """Hang up while a response is awaited: shut the socket under the client, as a killed process would."""
    pool: Any = client._transport._pool  # type: ignore[attr-defined]  # httpx has no public way to hang up
    for connection in pool.connections:
        stream = connection._connection._network_stream
        stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
