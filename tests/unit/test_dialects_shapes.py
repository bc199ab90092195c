"""Paths, errors and bounds: what a dialect shows of itself."""

from __future__ import annotations

import gzip
import json
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic
import openai
import pytest

from ext_proc.dialects import error_body, registry
from ext_proc.dialects.buffer import END_BYTES, WHOLE_MAX_BYTES
from ext_proc.dialects.meter import HOLD_MAX_BYTES
from ext_proc.pricing.usage import Usage
from ext_proc.refusal import Refusal, RefusalType

DETAIL = "Cost center 'search' has exhausted its weekly $500 AI budget."


def refusal(status: HTTPStatus = HTTPStatus.TOO_MANY_REQUESTS) -> Refusal:
    """A budget refusal."""
    return Refusal(
        type=RefusalType.BUDGET_EXCEEDED,
        status=status,
        message=DETAIL,
        mitigation="Ask for more.",
        context={"rule": "search-team-weekly", "also_exceeded": []},
    )


@contextmanager
def answering(status: int, body: dict[str, object]) -> Iterator[str]:
    """A real HTTP server that gives every POST this answer; its URL."""
    data = json.dumps(body).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("path", "dialect", "upstream"),
    [
        ("/v1/chat/completions", "openai-chat", "/v1/chat/completions"),
        ("/v1/chat/completions?a=b?c", "openai-chat", "/v1/chat/completions?a=b?c"),
        ("/v1/messages?beta=true", "anthropic-messages", "/v1/messages?beta=true"),
        ("/api/llm/v1/messages", "anthropic-messages", "/v1/messages"),
        ("/api/llm/chat/completions", "openai-chat", "/v1/chat/completions"),
        ("/api/inference/openai/chat/completions", "openai-chat", "/v1/chat/completions"),
        ("/api/llm/api/inference/openai/v1/chat/completions", "openai-chat", "/v1/chat/completions"),
    ],
)
def test_known_paths_resolve_below_every_base_path(path: str, dialect: str, upstream: str) -> None:
    """A base path is taken off, the query string stays."""
    endpoint = registry.resolve("POST", path)

    assert endpoint is not None
    assert (endpoint.dialect.name, endpoint.upstream_path) == (dialect, upstream)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/v1/chat%2Fcompletions"),
        ("POST", "/v1/files"),
        ("POST", "/api/llm"),
        ("POST", "/api/llmv1/messages"),
        ("POST", "/chat/completions"),
        ("POST", "/"),
    ],
)
def test_anything_else_is_not_understood(method: str, path: str) -> None:
    """T19: a path that only looks like a metered one is no way around the meter."""
    assert registry.resolve(method, path) is None


def test_unknown_paths_are_answered_in_the_likely_dialect() -> None:
    """An Anthropic client that mistypes a path still gets an error its SDK can show."""
    assert registry.dialect_for_path("/v1/messages/batches?x=1").name == "anthropic-messages"
    assert registry.dialect_for_path("/v1/files?next=/messages").name == "openai-chat"


def test_the_openai_sdk_shows_the_detail() -> None:
    """The official SDK raises its RateLimitError with our detail and code."""
    with answering(429, registry.dialect("openai-chat").error_body(refusal())) as url:
        client = openai.OpenAI(api_key="k", base_url=url + "/v1", max_retries=0)
        with client, pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])

    assert DETAIL in str(caught.value)
    assert caught.value.code == "budget_exceeded"


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (HTTPStatus.BAD_REQUEST, "invalid_request_error", anthropic.BadRequestError),
        (HTTPStatus.UNAUTHORIZED, "authentication_error", anthropic.AuthenticationError),
        (HTTPStatus.FORBIDDEN, "permission_error", anthropic.PermissionDeniedError),
        (HTTPStatus.NOT_FOUND, "not_found_error", anthropic.NotFoundError),
        (HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error", anthropic.RateLimitError),
        (HTTPStatus.SERVICE_UNAVAILABLE, "overloaded_error", anthropic.APIStatusError),
        (HTTPStatus.INTERNAL_SERVER_ERROR, "api_error", anthropic.InternalServerError),
    ],
)
def test_the_anthropic_sdk_shows_the_detail(
    status: HTTPStatus, kind: str, error: type[anthropic.APIStatusError]
) -> None:
    """The official SDK raises the exception of the status, with our detail in it."""
    body = registry.dialect("anthropic-messages").error_body(refusal(status))
    with answering(status, body) as url:
        client = anthropic.Anthropic(api_key="k", base_url=url, max_retries=0)
        with client, pytest.raises(error) as caught:
            client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}])

    assert DETAIL in str(caught.value)
    assert body["type"] == "error"
    assert body["error"] == {"type": kind, "message": DETAIL, "code": "budget_exceeded"}


@pytest.mark.parametrize("name", registry.dialect_names())
def test_every_refusal_has_the_same_extra_fields(name: str) -> None:
    """detail, context and mitigation stand beside `error` in every dialect, and in the flat form."""
    for body in (registry.dialect(name).error_body(refusal()), error_body.flat(refusal())):
        assert (body["detail"], body["mitigation"]) == (DETAIL, "Ask for more.")
        assert body["context"] == {"rule": "search-team-weekly", "also_exceeded": []}

    assert error_body.flat(refusal())["error"] == "Budget Exceeded"


USAGE = b'"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}'


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("chunk_bytes", [1000, 70_000, 64 << 20])
def test_a_body_beyond_the_buffer_still_gives_its_usage(content_type: str, chunk_bytes: int) -> None:
    """Of a body or event too large to keep, model and usage are found in its ends, and every byte passes."""
    filler = b"y" * (WHOLE_MAX_BYTES + 3 * END_BYTES)
    document = b'{"model":"m","choices":[{"message":{"content":"' + filler + b'"}}],' + USAGE + b"}"
    sse = content_type == "text/event-stream"
    body = b"data: " + document + b"\n\ndata: [DONE]\n\n" if sse else document
    for hide_usage in (False, True):
        meter = registry.dialect("openai-chat").meter(
            content_type=content_type, content_encoding="", hide_usage=hide_usage
        )

        shown = b"".join(
            meter.feed(body[at : at + chunk_bytes], end=False) for at in range(0, len(body), chunk_bytes)
        ) + meter.feed(b"", end=True)

        reading = meter.reading()
        assert reading.usage == Usage(input_uncached=7, output=3, requests=1)
        assert (reading.served_model, reading.finished) == ("m", True)
        assert shown == body


def test_hiding_never_holds_back_much() -> None:
    """An event that grows past the bound is given out as it comes."""
    meter = registry.dialect("openai-chat").meter(
        content_type="text/event-stream", content_encoding="", hide_usage=True
    )
    sent = shown = 0
    for _ in range(100):
        chunk = b"z" * 10_000
        sent += len(chunk)
        shown += len(meter.feed(chunk, end=False))

        assert sent - shown <= HOLD_MAX_BYTES + len(chunk)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br"])
def test_an_encoding_that_cannot_be_read_is_still_counted(encoding: str) -> None:
    """Never unmetered: the bytes that passed stand for the text, and nothing is claimed about the end."""
    meter = registry.dialect("openai-chat").meter(
        content_type="application/json", content_encoding=encoding, hide_usage=True
    )
    meter.feed(b"x" * 500, end=True)

    reading = meter.reading()
    assert (reading.usage, reading.output_bytes, reading.finished) == (None, 500, False)


def test_a_bomb_is_read_in_bounded_steps() -> None:
    """A megabyte of gzip that inflates to a gigabyte is read without keeping the gigabyte."""
    bomb = gzip.compress(b"\0" * (256 << 20), compresslevel=9)
    meter = registry.dialect("openai-chat").meter(
        content_type="application/json", content_encoding="gzip", hide_usage=False
    )
    tracemalloc.start()
    meter.feed(bomb, end=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 6 * WHOLE_MAX_BYTES
    assert meter.reading().usage is None
