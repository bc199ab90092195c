"""The HTTP edge of the mock provider: reads requests, sends answers in pieces, waits, cuts and resets on command.

It is aiohttp's low-level server (no router, no middleware): this is the upstream of benchmarks too.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import lru_cache
from urllib.parse import unquote

import orjson
from aiohttp import web

from ext_proc.mock_provider.answer import Answer, answer_for, json_answer, refusal
from ext_proc.mock_provider.anthropic_messages import AnthropicMessages
from ext_proc.mock_provider.batches import Batches
from ext_proc.mock_provider.bedrock_converse import BedrockConverse
from ext_proc.mock_provider.behavior import HEADER as BEHAVIOR_HEADER
from ext_proc.mock_provider.behavior import Behavior, Reset, behavior_for
from ext_proc.mock_provider.cohere_chat import CohereChat
from ext_proc.mock_provider.cohere_rerank import CohereRerank
from ext_proc.mock_provider.counts import HEADER as USAGE_HEADER
from ext_proc.mock_provider.counts import counts_for
from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.form import read_form
from ext_proc.mock_provider.gemini import Gemini
from ext_proc.mock_provider.models import anthropic_model, models, openai_model
from ext_proc.mock_provider.openai_audio import OpenAISpeech, OpenAITranscriptions
from ext_proc.mock_provider.openai_chat import OpenAIChat
from ext_proc.mock_provider.openai_completions import OpenAICompletions
from ext_proc.mock_provider.openai_embeddings import OpenAIEmbeddings
from ext_proc.mock_provider.openai_images import OpenAIImageEdits, OpenAIImages
from ext_proc.mock_provider.openai_responses import OpenAIResponses
from ext_proc.mock_provider.recorder import Gates, Outcome, Received, Recorder
from ext_proc.mock_provider.shape import Call, Shape
from ext_proc.mock_provider.sigv4 import signature_problem

SHAPES: tuple[Shape, ...] = (
    OpenAIChat(),
    AnthropicMessages(),
    OpenAIResponses(),
    OpenAICompletions(),
    OpenAIEmbeddings(),
    OpenAIImages(),
    OpenAIImageEdits(),
    OpenAITranscriptions(),
    OpenAISpeech(),
    Gemini(),
    BedrockConverse(),
    CohereChat(),
    CohereRerank(),
)

_BODY_BYTES_MAX = 128 * 1024 * 1024
_HEADER_BYTES_MAX = 65_536
_SHUTDOWN_SECONDS = 0.1  # for answers under way; those held open at a gate would wait for ever (0 means no limit)
_RELEASE, _WAITING, _MODEL, _BATCHES = "/mock/release/", "/mock/waiting/", "/v1/models/", "/mock/batches/"


class _CutError(Exception):
    """The connection was closed on command: nothing more is to be sent."""


class MockProvider:
    """One listening mock provider. `handle` is the whole of it; `listening` binds it to a socket.

    `aws_secrets`: AWS key id → secret. With any, Bedrock answers only what one of them has signed, or a bearer key.
    """

    def __init__(self, aws_secrets: Mapping[str, str] | None = None) -> None:
        self.aws_secrets = aws_secrets or {}
        self.recorder = Recorder()
        self.gates = Gates()
        self.batches = Batches(_shape_at)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request."""
        if request.path.startswith("/mock/") or request.path == "/healthz":
            return await self._send_plainly(request, await self._control(request))
        received = self.recorder.add(request.method, request.path_qs, request.headers)
        try:
            response = await self._answer(request, received)
        except _CutError:
            received.outcome = Outcome.CUT
            return web.StreamResponse()
        except (asyncio.CancelledError, ConnectionError):
            received.outcome = Outcome.CLIENT_GONE
            raise
        received.outcome = Outcome.ANSWERED
        return response

    async def _answer(self, request: web.BaseRequest, received: Received) -> web.StreamResponse:
        place = _place(request.path_qs)
        if place is None:
            body = await _read_body(request)
            batch = self.batches.answer(request.method, request.path, request.headers, body)
            if batch is not None:
                received.keep_body(body)
            return await self._send_plainly(request, batch or _page(request))
        shape = place[0]
        behavior = Behavior()
        try:
            behavior = behavior_for(request.headers.get(BEHAVIOR_HEADER))
            if behavior.reset is Reset.BEFORE_BODY_READ:
                _reset(request)
            body = await _read_body(request)
            received.keep_body(body)
            if self.aws_secrets and isinstance(shape, BedrockConverse):
                problem = _aws_problem(request, body, self.aws_secrets)
                if problem is not None:
                    return await self._send_plainly(request, refusal(shape, 403, problem, f"{received.number:024x}"))
            call = _call(place, request, body, behavior, received.number)
        except MockRequestError as error:
            return await self._send_plainly(request, refusal(shape, 400, str(error), f"{received.number:024x}"))
        return await self._send(request, received, answer_for(shape, call))

    async def _send(self, request: web.BaseRequest, received: Received, answer: Answer) -> web.StreamResponse:
        """Send an answer the way its behaviour says."""
        behavior = answer.behavior
        if behavior.hold_after_chunks is None:
            await self._gate(received, behavior)
        await _pause(behavior.first_byte_delay_ms)
        if behavior.reset is Reset.BEFORE_HEADERS:
            _reset(request)
        response = await _start(request, answer)
        if behavior.reset is Reset.AFTER_HEADERS:
            await asyncio.sleep(0)  # the headers leave before the reset
            _reset(request)
        texts = 0
        await self._at_text(request, received, behavior, texts)
        for piece in answer.pieces:
            await response.write(piece.data)
            if piece.text:
                texts += 1
                await self._at_text(request, received, behavior, texts)
            if behavior.chunk_delay_ms:
                await _pause(behavior.chunk_delay_ms)
        await response.write_eof()
        return response

    async def _at_text(self, request: web.BaseRequest, received: Received, behavior: Behavior, texts: int) -> None:
        """What is to happen after so many pieces of text."""
        if behavior.hold_after_chunks == texts:
            await self._gate(received, behavior)
        if behavior.cut_after_chunks == texts:
            if behavior.reset is Reset.AFTER_CHUNKS:
                _reset(request)
            _close(request)

    async def _gate(self, received: Received, behavior: Behavior) -> None:
        if behavior.hold_open_until is not None:
            received.outcome = Outcome.WAITING
            await self.gates.named(behavior.hold_open_until).wait()
            received.outcome = Outcome.ANSWERING

    async def _send_plainly(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        response = await _start(request, answer)
        for piece in answer.pieces:
            await response.write(piece.data)
        await response.write_eof()
        return response

    async def _control(self, request: web.BaseRequest) -> Answer:
        """The pages tests drive the mock with."""
        method, path = request.method, request.path
        if (method, path) == ("GET", "/mock/requests"):
            return json_answer({"requests": [one.as_json() for one in self.recorder.received]})
        if (method, path) == ("DELETE", "/mock/requests"):
            self.recorder.received.clear()
            return json_answer({"requests": []})
        if (method, path) == ("GET", "/mock/waiting"):
            return json_answer({"waiting": self.gates.waiting()})
        if method == "GET" and path.startswith(_WAITING):
            await self.gates.named(path.removeprefix(_WAITING)).arrival()
            return json_answer({"waiting": self.gates.waiting()})
        if path.startswith(_RELEASE) and method in {"POST", "DELETE"}:
            gate = self.gates.named(path.removeprefix(_RELEASE))
            if method == "POST":
                gate.open()
            else:
                gate.shut()
            return json_answer({"open": method == "POST", "waiting": gate.waiting})
        if path.startswith(_BATCHES) and method == "POST":
            body = await _read_body(request)
            told = orjson.loads(body) if body else {}
            batch_id = path.removeprefix(_BATCHES).removesuffix("/end")
            return self.batches.end(batch_id, told.get("answered"), told.get("status", 200))
        if path == "/healthz":
            return json_answer({"ok": True})
        return json_answer({"error": f"no page {method} {path}; see docs/mock-provider.md"}, status=404)


@contextlib.asynccontextmanager
async def listening(listen: str, provider: MockProvider | None = None) -> AsyncIterator[str]:
    """Serve on `host:port` (port 0: any free one) or `unix:/path`; yields the URL to reach it by."""
    provider = provider or MockProvider()
    server = web.Server(
        _typed_handler(provider),
        handler_cancellation=True,
        access_log=None,
        max_line_size=_HEADER_BYTES_MAX,
        max_field_size=_HEADER_BYTES_MAX,
        # A reset or a client that leaves is what this server is for: not a line in the log each.
        logger=_quiet_logger(),
    )
    loop = asyncio.get_running_loop()
    if listen.startswith("unix:"):
        path = listen.removeprefix("unix:")
        listener = await loop.create_unix_server(server, path)
        url = listen
    else:
        host, _, port = listen.rpartition(":")
        listener = await loop.create_server(server, host.strip("[]") or "127.0.0.1", int(port), backlog=4096)
        url = _url(listener.sockets[0].getsockname())
    try:
        yield url
    finally:
        listener.close()
        await server.shutdown(_SHUTDOWN_SECONDS)
        if listen.startswith("unix:"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(listen.removeprefix("unix:"))  # noqa: PTH108  (one call; a Path adds nothing)


def _typed_handler(provider: MockProvider) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    return provider.handle


def _quiet_logger() -> logging.Logger:
    logger = logging.getLogger("tollgate.mock_provider.http")
    logger.setLevel(logging.CRITICAL)
    return logger


def _url(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    host, port = address[0], address[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _aws_problem(request: web.BaseRequest, body: bytes, secrets: Mapping[str, str]) -> str | None:
    headers = {name.lower(): value for name, value in request.headers.items()}
    if headers.get("authorization", "").startswith("Bearer "):
        return None
    return signature_problem(request.method, request.raw_path, headers, body, secrets)


def _page(request: web.BaseRequest) -> Answer:
    """What no provider API is: the model list, or the provider's 404."""
    anthropic = "anthropic-version" in request.headers
    if request.method == "GET" and request.path == "/v1/models":
        return json_answer(models(anthropic=anthropic))
    if request.method == "GET" and request.path.startswith(_MODEL):
        name = request.path.removeprefix(_MODEL)
        return json_answer(anthropic_model(name) if anthropic else openai_model(name))
    shape = SHAPES[1] if anthropic else SHAPES[0]
    return refusal(shape, 404, f"Invalid URL ({request.method} {request.path})", "0" * 24)


@lru_cache(maxsize=1024)
def _place(path: str) -> tuple[Shape, dict[str, object]] | None:
    """Who answers at a path, and what the path says: model, stream and query, where its API has them there."""
    for shape in SHAPES:
        match = shape.path.fullmatch(path)
        if match is None:
            continue
        said: dict[str, object] = dict(match.groupdict())
        if "model" in said:
            said |= {"model": unquote(str(said["model"])), "stream": bool(said["stream"])}
        return shape, said
    return None


def _shape_at(path: str) -> Shape:
    place = _place(path)
    if place is None:
        raise MockRequestError(f"nothing answers at {path}")
    return place[0]


def _call(
    place: tuple[Shape, dict[str, object]],
    request: web.BaseRequest,
    body: bytes,
    behavior: Behavior,
    number: int,
) -> Call:
    content_type = request.headers.get("content-type", "")
    document = read_form(content_type, body) if content_type.startswith("multipart/") else _json(body)
    shape, said = place
    document |= said
    shape.check(document)
    counts = counts_for(request.headers.get(USAGE_HEADER), document, shape.output_limit(document))
    digest = hashlib.blake2b(body, digest_size=8).hexdigest()
    return Call(document, counts, behavior, f"{digest}{number:08x}")


def _json(body: bytes) -> dict[str, object]:
    try:
        document = orjson.loads(body)
    except ValueError as error:
        raise MockRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise MockRequestError("the body is not a JSON object")
    return document


async def _read_body(request: web.BaseRequest) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _BODY_BYTES_MAX:
            raise MockRequestError(f"the body is larger than {_BODY_BYTES_MAX} bytes")
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _start(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    if answer.length is None:
        response.enable_chunked_encoding()
    else:
        response.content_length = answer.length
    await response.prepare(request)
    return response


async def _pause(milliseconds: int) -> None:
    if milliseconds:
        await asyncio.sleep(milliseconds / 1000)


def _close(request: web.BaseRequest) -> None:
    """End the connection in an orderly way, the answer unfinished."""
    if request.transport is not None:
        request.transport.close()
    raise _CutError


def _reset(request: web.BaseRequest) -> None:
    """End the connection with a TCP reset (on a Unix socket: at once)."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    raise _CutError
