"""The mock provider as a process: the official SDKs against it, and misbehaviour as a client sees it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

MESSAGES: list[dict[str, str]] = [{"role": "user", "content": "hello there"}]
CHAT: dict[str, object] = {"model": "gpt-4o", "messages": MESSAGES, "max_tokens": 50}


def start(listen: str) -> tuple[subprocess.Popen[str], str]:
    """A mock provider process and the URL it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ext_proc", "mock-provider", "--listen", listen], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    ready = process.stdout.readline()
    assert ready.startswith("mock-provider ready ")
    return process, ready.removeprefix("mock-provider ready ").strip()


def stop(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    return process.returncode


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    process, where = start("127.0.0.1:0")
    yield where
    assert stop(process) == 0


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as one:
        one.delete("/mock/requests")
        yield one


def usage(**counts: object) -> dict[str, str]:
    return {"x-mock-usage": json.dumps(counts)}


def behavior(**asked: object) -> dict[str, str]:
    return {"x-mock-behavior": json.dumps(asked)}


def requests(client: httpx.Client) -> list[dict[str, object]]:
    found: list[dict[str, object]] = client.get("/mock/requests").json()["requests"]
    return found


def test_openai_sdk_plain(url: str) -> None:
    """The openai SDK reads a completion with the usage that the header asked for."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k") as sdk:
        done = sdk.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "hi"}],
            extra_headers=usage(input=300, cache_read=600, cache_write=100, output=200, reasoning=150),
        )

    assert done.usage is not None
    assert done.usage.prompt_tokens_details is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (1000, 200)
    assert done.usage.prompt_tokens_details.cached_tokens == 600
    assert done.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("oddity", [{}, {"gzip": True}, {"crlf": True}, {"split_bytes": 3}, {"chunks": 1}])
def test_openai_sdk_stream(url: str, oddity: dict[str, object]) -> None:
    """The openai SDK reads the same stream however it is sent; usage comes last and only because it was asked for."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k") as sdk:
        stream = sdk.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={**usage(input=7, output=8), **behavior(**oddity)},
        )
        chunks = list(stream)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).split() == [
        "amber",
        "birch",
        "cedar",
        "delta",
        "ember",
        "fjord",
        "grove",
        "heath",
    ]
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 15


def test_anthropic_sdk_plain(url: str) -> None:
    """The anthropic SDK reads a message with the exclusive counts of its provider."""
    with anthropic.Anthropic(base_url=url, api_key="k") as sdk:
        message = sdk.messages.create(
            model="claude-sonnet-4-6",
            max_tokens=100,
            messages=[{"role": "user", "content": "hi"}],
            extra_headers=usage(input=10, cache_read=2000, cache_write=200, cache_write_1h=300, output=90),
        )

    assert (message.usage.input_tokens, message.usage.cache_creation_input_tokens) == (10, 500)
    assert (message.usage.cache_read_input_tokens, message.usage.output_tokens) == (2000, 90)
    assert message.stop_reason == "end_turn"


@pytest.mark.parametrize("oddity", [{}, {"gzip": True}, {"crlf": True}, {"split_bytes": 5}])
def test_anthropic_sdk_stream(url: str, oddity: dict[str, object]) -> None:
    """The anthropic SDK assembles the streamed message, usage included, however it is sent."""
    with (
        anthropic.Anthropic(base_url=url, api_key="k") as sdk,
        sdk.messages.stream(
            model="claude-sonnet-4-6",
            max_tokens=4,
            messages=[{"role": "user", "content": "hi"}],
            extra_headers={**usage(input=10, output="max"), **behavior(**oddity)},
        ) as stream,
    ):
        message = stream.get_final_message()

    assert message.content[0].type == "text"
    assert message.content[0].text == "amber birch cedar delta "
    assert (message.usage.input_tokens, message.usage.output_tokens) == (10, 4)
    assert message.stop_reason == "max_tokens"


def test_sdks_raise_their_own_errors(url: str) -> None:
    """Statuses on command reach the SDKs as the exceptions their users catch, with the provider's message."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as one, pytest.raises(openai.RateLimitError):
        one.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], extra_headers=behavior(status=429)
        )
    with (
        anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as two,
        pytest.raises(anthropic.InternalServerError, match="told to answer 529"),
    ):
        two.messages.create(
            model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}], extra_headers=behavior(status=529)
        )


def test_sdks_see_an_error_event(url: str) -> None:
    """An error in mid-stream is an exception of the SDK after the text that came before it."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k") as sdk:
        stream = sdk.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            extra_headers=behavior(error_event_after_chunks=2),
        )
        seen: list[str] = []
        with pytest.raises(openai.APIError, match="Overloaded"):
            seen.extend(chunk.choices[0].delta.content or "" for chunk in stream)


def test_sdks_list_models(url: str) -> None:
    """`/v1/models` answers each SDK in its provider's shape."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k") as one, anthropic.Anthropic(base_url=url, api_key="k") as two:
        assert "gpt-4o" in [model.id for model in one.models.list()]
        assert one.models.retrieve("gpt-4o").id == "gpt-4o"
        assert "claude-sonnet-4-6" in [model.id for model in two.models.list()]
        assert two.models.retrieve("claude-sonnet-4-6").type == "model"


def test_the_same_request_gives_the_same_answer(client: httpx.Client) -> None:
    """Only the running number in the id differs between two answers to one body."""
    first, second = (client.post("/v1/chat/completions", json=CHAT).json() for _ in range(2))

    assert first.pop("id") != second.pop("id")
    assert first == second


@pytest.mark.parametrize("where", ["before_body_read", "before_headers", "after_headers"])
def test_reset_on_command(client: httpx.Client, where: str) -> None:
    """The client sees the connection reset at the stage that was asked for, and the mock goes on serving."""
    # A client that was still sending learns of the reset by the failed send and then reads an end.
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        client.post("/v1/chat/completions", json=CHAT, headers=behavior(reset=where))

    assert requests(client)[0]["outcome"] == "cut"
    assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", [{}, {"reset": "after_chunks"}])
def test_cut_after_chunks(client: httpx.Client, stream: bool, how: dict[str, object]) -> None:
    """What was sent before the cut arrives, the rest does not, and the client can tell."""
    seen = b""

    def read() -> None:
        nonlocal seen
        with client.stream(
            "POST",
            "/v1/chat/completions",
            json={**CHAT, "stream": stream},
            headers={
                **behavior(cut_after_chunks=2, hold_after_chunks=2, hold_open_until=gate, **how),
                **usage(output=10),
            },
        ) as response:
            for part in response.iter_raw():
                seen += part
                if b"cedar" in seen:
                    httpx.post(f"{client.base_url}/mock/release/{gate}")

    gate = f"cut-{stream}-{len(how)}"
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        read()

    assert seen.count(b"amber") == 1
    assert b"heath" not in seen
    assert requests(client)[0]["outcome"] == "cut"


def test_a_gate_holds_the_answer_until_released(client: httpx.Client) -> None:
    """A held answer comes when its gate is opened, not before; tests can wait for it to be there."""
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=client.base_url, timeout=60) as second:
        future = pool.submit(second.post, "/v1/chat/completions", json=CHAT, headers=behavior(hold_open_until="one"))
        waiting = client.get("/mock/waiting/one").json()
        held = requests(client)[0]["outcome"]
        done_before = future.done()
        released = client.post("/mock/release/one").json()
        answer = future.result(timeout=60)

    assert waiting == {"waiting": {"one": 1}}
    assert held == "waiting"
    assert not done_before
    assert released == {"open": True, "waiting": 1}
    assert answer.status_code == 200
    assert requests(client)[0]["outcome"] == "answered"


def test_an_open_gate_stays_open_until_shut(client: httpx.Client) -> None:
    """Releasing before the request comes is remembered, so that no test can race; shutting holds again."""
    client.post("/mock/release/two")
    early = client.post("/v1/chat/completions", json=CHAT, headers=behavior(hold_open_until="two"))
    shut = client.delete("/mock/release/two").json()

    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=client.base_url, timeout=60) as second:
        late = pool.submit(second.post, "/v1/chat/completions", json=CHAT, headers=behavior(hold_open_until="two"))
        waiting = client.get("/mock/waiting/two").json()
        client.post("/mock/release/two")
        late.result(timeout=60)

    assert early.status_code == 200
    assert shut == {"open": False, "waiting": 0}
    assert waiting == {"waiting": {"two": 1}}


def test_a_client_that_leaves_is_noticed(client: httpx.Client) -> None:
    """The mock sees a client that goes away while its answer is held open in mid-stream."""
    with (
        httpx.Client(base_url=client.base_url, timeout=60) as second,
        second.stream(
            "POST",
            "/v1/chat/completions",
            json={**CHAT, "stream": True},
            headers=behavior(hold_after_chunks=1, hold_open_until="leave"),
        ) as response,
    ):
        body = response.iter_raw()  # closing the iterator would close the connection
        next(body)
        client.get("/mock/waiting/leave")
    while client.get("/mock/waiting").json()["waiting"]:
        pass  # each turn is a round trip; the loop ends when the mock has seen the close

    assert requests(client)[0]["outcome"] == "client_gone"


def test_requests_are_listed_with_headers_and_body(client: httpx.Client) -> None:
    """What a test wants to know of what reached the provider is there: path, headers, parsed body, size, digest."""
    client.post("/v1/chat/completions?x=1", json=CHAT, headers={"X-Seen": "yes"})
    client.post("/v1/unknown", content=b"text")
    first, second = requests(client)

    assert first["method"] == "POST"
    assert first["path"] == "/v1/chat/completions?x=1"
    assert first["headers"]["x-seen"] == "yes"  # type: ignore[index]  # JSON
    assert first["body"] == CHAT
    assert second["number"] == int(str(first["number"])) + 1
    client.delete("/mock/requests")
    assert requests(client) == []


def test_what_is_remembered_is_bounded(client: httpx.Client) -> None:
    """A large body is remembered by size and digest; of many requests the last thousand are."""
    large = {**CHAT, "messages": [{"role": "user", "content": "x" * 4_000_000}]}
    client.post("/v1/chat/completions", json=large)
    listed = requests(client)[0]
    for _ in range(1_005):
        client.get("/v1/models")

    assert listed["body"] is None
    assert int(str(listed["body_bytes"])) > 4_000_000
    assert len(str(listed["body_sha256"])) == 64
    assert len(requests(client)) == 1_000


@pytest.mark.parametrize(
    ("path", "content", "problem"),
    [
        ("/v1/chat/completions", b"{", "not JSON"),
        ("/v1/chat/completions", b"[]", "not a JSON object"),
        ("/v1/messages", b'{"model": "m"}', "max_tokens"),
    ],
)
def test_bad_requests_get_the_providers_400(client: httpx.Client, path: str, content: bytes, problem: str) -> None:
    """A body the provider would refuse gets its error shape and says what is wrong."""
    answer = client.post(path, content=content)

    assert answer.status_code == 400
    assert problem in answer.json()["error"]["message"]


def test_bad_control_headers_and_paths_say_the_cure(client: httpx.Client) -> None:
    """A misspelt command is a 400 that names it, an unknown page a 404."""
    misspelt = client.post("/v1/chat/completions", json=CHAT, headers=behavior(statsu=1))

    assert misspelt.status_code == 400
    assert "unknown key 'statsu'" in misspelt.json()["error"]["message"]
    assert client.get("/mock/nothing").status_code == 404
    assert client.get("/v1/nothing").json()["error"]["message"] == "Invalid URL (GET /v1/nothing)"
    assert client.get("/healthz").json() == {"ok": True}


def test_it_listens_on_a_unix_socket_and_leaves_nothing(tmp_path: Path) -> None:
    """A Unix socket serves the same, and is gone after SIGTERM even while an answer is held open."""
    path = tmp_path / "mock.sock"
    process, where = start(f"unix:{path}")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://mock", timeout=60) as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
        held = ThreadPoolExecutor(1).submit(
            client.post, "/v1/chat/completions", json=CHAT, headers=behavior(hold_open_until="never")
        )
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://mock", timeout=60) as second:
            second.get("/mock/waiting/never")
        code = stop(process)
        failure = held.exception(timeout=60)

    assert where == f"unix:{path}"
    assert answer.status_code == 200
    assert code == 0
    assert isinstance(failure, httpx.HTTPError)
    assert not path.exists()


def test_a_port_in_use_is_one_clear_line(url: str) -> None:
    """A second process on the same port says so in one line and exits with 1."""
    done = subprocess.run(
        [sys.executable, "-m", "ext_proc", "mock-provider", "--listen", url.removeprefix("http://")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("tollgate: cannot listen on 127.0.0.1:")
    assert done.stderr.count("\n") == 1


def test_large_headers_are_read(client: httpx.Client) -> None:
    """Metadata headers of many kilobytes do not stop the mock."""
    answer = client.post("/v1/chat/completions", json=CHAT, headers={"x-long": "y" * 30_000})

    assert answer.status_code == 200


def test_clients_that_vanish_do_not_stop_it(url: str, client: httpx.Client) -> None:
    """Half a request and a close, a hundred times, leaves it serving."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    for _ in range(100):
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")

    assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
