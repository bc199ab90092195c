"""Every provider API of the mock, read by the meter of its dialect: what was to be reported is what is read."""

from __future__ import annotations

import json

import pytest

from ext_proc.dialects import registry
from ext_proc.dialects.interface import Reading
from ext_proc.mock_provider.answer import answer_for
from ext_proc.mock_provider.behavior import Behavior
from ext_proc.mock_provider.counts import Counts, counts_for
from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.server import SHAPES, _place
from ext_proc.mock_provider.shape import Call, Shape, output_text
from ext_proc.pricing.usage import Usage

MESSAGES = [{"role": "user", "content": "hello"}]
FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": {}}}
REQUESTS: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {"model": "m", "messages": MESSAGES, "tools": [FUNCTION]},
    "/v1/messages": {
        "model": "m",
        "max_tokens": 900,
        "messages": MESSAGES,
        "tools": [{"name": "weather"}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    },
    "/v1/responses": {"model": "m", "input": "hello", "tools": [{"type": "function", "name": "weather"}]},
    "/v1/completions": {"model": "m", "prompt": "hello"},
    "/v1beta/models/m:generateContent": {
        "contents": [{"parts": [{"text": "hello"}]}],
        "tools": [{"functionDeclarations": [{"name": "weather"}]}],
        "generationConfig": {"thinkingConfig": {"includeThoughts": True}},
    },
    "/model/m/converse": {
        "messages": MESSAGES,
        "toolConfig": {"tools": [{"toolSpec": {"name": "weather"}}]},
        "additionalModelRequestFields": {"thinking": {"type": "enabled"}},
    },
    "/v2/chat": {"model": "m", "messages": MESSAGES, "tools": [FUNCTION]},
}
STREAMED_AT = {
    "/v1beta/models/m:generateContent": [
        "/v1beta/models/m:streamGenerateContent?alt=sse",
        "/v1beta/models/m:streamGenerateContent",
    ],
    "/model/m/converse": ["/model/m/converse-stream"],
}
ENDING_ANYWAY = (":streamGenerateContent", "/v2/chat")
"""An array is closed after an error too, and Cohere's error is a kind of end."""
PLAIN = list(REQUESTS)
STREAMED = [(path, at) for path in REQUESTS for at in STREAMED_AT.get(path, [path])]

REPORTED: dict[str, tuple[Counts, Usage]] = {
    "/v1/chat/completions": (
        Counts(input=300, cache_read=600, cache_write=100, output=200, reasoning=150),
        Usage(input_uncached=300, cache_read=600, cache_write_5m=100, output=200, reasoning=150, requests=1),
    ),
    "/v1/messages": (
        Counts(input=10, cache_read=2000, cache_write=200, cache_write_1h=300, output=90, reasoning=40, searches=2),
        Usage(
            input_uncached=10,
            cache_read=2000,
            cache_write_5m=200,
            cache_write_1h=300,
            output=90,
            searches=2,
            requests=1,
        ),
    ),
    "/v1/responses": (
        Counts(input=300, cache_read=600, output=200, reasoning=150, searches=2),
        Usage(input_uncached=300, cache_read=600, output=200, reasoning=150, searches=2, requests=1),
    ),
    "/v1/completions": (Counts(input=30, output=20), Usage(input_uncached=30, output=20, requests=1)),
    "/v1beta/models/m:generateContent": (
        Counts(input=200, cache_read=1000, audio_in=50, output=380, reasoning=300),
        Usage(input_uncached=200, cache_read=1000, audio_in=50, output=380, reasoning=300, requests=1),
    ),
    "/model/m/converse": (
        Counts(input=368, cache_read=7, cache_write=10536, cache_write_1h=20, output=19, reasoning=3),
        Usage(input_uncached=368, cache_read=7, cache_write_5m=10536, cache_write_1h=20, output=19, requests=1),
    ),
    "/v2/chat": (
        Counts(input=30, output=20, searches=1),
        Usage(input_uncached=30, output=20, searches=1, requests=1),
    ),
}


def raw_and_reading(path: str, at: str, behavior: Behavior, *, stream: bool) -> tuple[bytes, Reading]:
    """The answer's bytes, and what the dialect's meter makes of them in pieces of seven bytes."""
    place, endpoint = _place(at), registry.resolve("POST", at)
    assert place is not None
    assert endpoint is not None
    document = {**REQUESTS[path], **place[1]}
    document.setdefault("stream", stream)
    document["stream_options"] = {"include_usage": True}
    place[0].check(document)
    answer = answer_for(place[0], Call(document, REPORTED[path][0], behavior, "0" * 24))
    raw = b"".join(piece.data for piece in answer.pieces)
    meter = endpoint.dialect.meter(content_type=answer.headers["content-type"], content_encoding="", hide_usage=False)
    for start in range(0, len(raw), 7):
        meter.feed(raw[start : start + 7], end=start + 7 >= len(raw))
    return raw, meter.reading()


@pytest.mark.parametrize("path", PLAIN)
def test_a_plain_answer_reports_the_counts(path: str) -> None:
    """The mock's usage, in the provider's own arithmetic, comes back as the disjoint counts it was made of."""
    _, reading = raw_and_reading(path, path, Behavior(), stream=False)

    assert reading.usage == REPORTED[path][1]
    assert reading.output_known
    assert reading.finished


@pytest.mark.parametrize(("path", "at"), STREAMED)
def test_a_streamed_answer_reports_the_same(path: str, at: str) -> None:
    """Streaming changes neither the counts nor the text that passes."""
    raw, reading = raw_and_reading(path, at, Behavior(), stream=True)

    assert raw
    assert reading.usage == REPORTED[path][1]
    assert reading.output_known
    assert reading.finished


@pytest.mark.parametrize("path", [path for path in PLAIN if path != "/v1/completions"])
def test_tools_are_called_as_often_as_asked(path: str) -> None:
    """`tool_calls` makes the answer call the declared tool so often, streamed or not, with the counts unchanged."""
    at = STREAMED_AT.get(path, [path])[0]
    plain, plain_reading = raw_and_reading(path, path, Behavior(tool_calls=2), stream=False)
    streamed, streamed_reading = raw_and_reading(path, at, Behavior(tool_calls=2), stream=True)

    assert plain.count(b'"weather"') - json.dumps(json.loads(plain).get("tools", "")).count('"weather"') == 2
    assert streamed.count(b'"weather"') >= 2
    assert plain_reading.usage == streamed_reading.usage == REPORTED[path][1]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1beta/models/m:generateContent", "/model/m/converse"])
def test_thoughts_are_shown_where_the_request_asks(path: str) -> None:
    """A request that asks for thinking gets its text, in a block of its own, and the answer's text beside it."""
    counts = REPORTED[path][0]
    raw, _ = raw_and_reading(path, path, Behavior(), stream=False)

    assert f'"{output_text(counts.reasoning)}"'.encode() in raw
    assert f'"{output_text(counts.output - counts.reasoning)}"'.encode() in raw


@pytest.mark.parametrize(("path", "at"), [pair for pair in STREAMED if not pair[1].endswith(ENDING_ANYWAY)])
def test_a_stream_without_its_end_is_not_finished(path: str, at: str) -> None:
    """After the provider's error in mid-stream, a meter knows the text that passed and that more was to come."""
    _, reading = raw_and_reading(path, at, Behavior(error_event_after_chunks=2), stream=True)

    assert reading.output_bytes > 0
    assert not reading.finished


def test_embeddings_come_as_numbers_or_base64() -> None:
    """One vector per text, of the dimensions asked for."""
    place = _place("/v1/embeddings")
    assert place is not None
    shape = place[0]
    document = {"model": "m", "input": ["a", "b"], "dimensions": 3}
    plain = shape.plain(Call(document, Counts(input=5), Behavior(), "0" * 24))
    packed = shape.plain(Call({**document, "encoding_format": "base64"}, Counts(input=5), Behavior(), "0" * 24))

    assert [len(one["embedding"]) for one in plain["data"]] == [3, 3]  # type: ignore[attr-defined]  # JSON
    assert [len(one["embedding"]) for one in packed["data"]] == [16, 16]  # type: ignore[attr-defined]  # JSON
    assert plain["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert counts_for('{"output": "max"}', document, shape.output_limit(document)).output == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_every_api_names_what_a_request_lacks(shape: Shape) -> None:
    """An empty request is an error that the provider's own answer can be made of."""
    with pytest.raises(MockRequestError):
        shape.check({})
    assert shape.error(429, "slow down")
