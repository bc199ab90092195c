"""One answer as bytes in pieces: pure. What remains for the HTTP edge is when to send them and whether to."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import orjson

from ext_proc.mock_provider.behavior import Behavior, Reset
from ext_proc.mock_provider.openai_audio import RECORDING_TYPE, OpenAISpeech
from ext_proc.mock_provider.shape import Call, Shape, StreamEvent

_GZIP = 16 + zlib.MAX_WBITS
_ERROR_STATUS_MIN = 400


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that go out together. `text`: a piece of generated text, what `*_after_chunks` counts."""

    data: bytes
    text: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and body. `length` is the content-length, None for a body in chunked encoding."""

    status: int
    headers: dict[str, str]
    pieces: Sequence[Piece]
    length: int | None = None
    behavior: Behavior = field(default_factory=Behavior)


def answer_for(shape: Shape, call: Call) -> Answer:
    """What the provider answers to this call."""
    behavior = call.behavior
    if behavior.status >= _ERROR_STATUS_MIN or behavior.body is not None:
        message = f"The mock provider was told to answer {behavior.status}."
        body = shape.error(behavior.status, message) if behavior.body is None else behavior.body
        return _plain(shape, call, _body_bytes(body))
    if isinstance(shape, OpenAISpeech):
        return _plain(shape, call, shape.recording(call), RECORDING_TYPE)
    if call.document.get("stream") is True:
        return _streamed(shape, call)
    return _plain(shape, call, orjson.dumps(shape.plain(call)))


def refusal(shape: Shape, status: int, message: str, call_id: str) -> Answer:
    """The provider's error answer to a request it cannot accept."""
    body = orjson.dumps(shape.error(status, message))
    headers = {"content-type": "application/json", **shape.headers(call_id)}
    return Answer(status, headers, [Piece(body)], length=len(body))


def json_answer(document: object, status: int = 200) -> Answer:
    """An answer of the mock's own pages."""
    body = orjson.dumps(document)
    return Answer(status, {"content-type": "application/json"}, [Piece(body)], length=len(body))


def _body_bytes(body: object) -> bytes:
    return body.encode("utf-8", "replace") if isinstance(body, str) else orjson.dumps(body)


def _plain(shape: Shape, call: Call, body: bytes, content_type: str = "application/json") -> Answer:
    behavior = call.behavior
    headers = _headers(shape, call, content_type)
    if behavior.gzip:
        body = zlib.compress(body, wbits=_GZIP)
    parts = behavior.chunks if _is_paced(behavior) else 1
    bounds = [len(body) * part // parts for part in range(parts + 1)]
    pieces = [Piece(body[start:end], text=True) for start, end in pairwise(bounds)]
    return Answer(behavior.status, headers, _split(pieces, behavior.split_bytes), len(body), behavior)


def _streamed(shape: Shape, call: Call) -> Answer:
    behavior = call.behavior
    events = shape.stream(call)
    if behavior.error_event_after_chunks is not None:
        events = [*_until_text(events, behavior.error_event_after_chunks), shape.error_event(call, "Overloaded")]
    newline = b"\r\n" if behavior.crlf else b"\n"
    pieces = [Piece(event.encode(newline), event.text) for event in events]
    if behavior.no_last_newline and not events[-1].framed:
        pieces[-1] = replace(pieces[-1], data=pieces[-1].data.rstrip(b"\r\n"))
    if behavior.gzip:
        pieces = list(_gzipped(pieces))
    headers = _headers(shape, call, shape.stream_type(call)) | {"cache-control": "no-cache"}
    return Answer(behavior.status, headers, _split(pieces, behavior.split_bytes), behavior=behavior)


def _is_paced(behavior: Behavior) -> bool:
    """Whether a plain body has to come in several pieces for the behaviour to be possible."""
    return (
        behavior.chunk_delay_ms > 0
        or behavior.cut_after_chunks is not None
        or behavior.hold_after_chunks is not None
        or behavior.reset is Reset.AFTER_CHUNKS
    )


def _headers(shape: Shape, call: Call, content_type: str) -> dict[str, str]:
    headers = {"content-type": content_type, **shape.headers(call.id)}
    if call.behavior.gzip:
        headers["content-encoding"] = "gzip"
    if call.behavior.retry_after is not None:
        headers["retry-after"] = str(call.behavior.retry_after)
    return headers | {name.lower(): value for name, value in call.behavior.headers.items()}


def _until_text(events: Sequence[StreamEvent], texts: int) -> Iterable[StreamEvent]:
    """The events up to and including so many pieces of text."""
    for event in events:
        if event.text:
            if texts == 0:
                return
            texts -= 1
        yield event


def _gzipped(pieces: Sequence[Piece]) -> Iterable[Piece]:
    """Each piece flushed, so that a reader can decompress what has arrived."""
    packer = zlib.compressobj(wbits=_GZIP)
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        data = packer.compress(piece.data) + packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
        yield replace(piece, data=data)


def _split(pieces: Sequence[Piece], size: int | None) -> Sequence[Piece]:
    """The same bytes in writes of at most `size`; only the last write of a piece counts as its text."""
    if size is None:
        return pieces
    return [
        Piece(piece.data[start : start + size], piece.text and start + size >= len(piece.data))
        for piece in pieces
        for start in range(0, len(piece.data), size)
    ]
