"""The mock provider's pure parts: headers, counts, bodies, and the bytes that misbehaviour makes of them."""

from __future__ import annotations

import contextlib
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.mock_provider import anthropic_messages, openai_chat
from ext_proc.mock_provider.answer import Answer, answer_for
from ext_proc.mock_provider.anthropic_messages import AnthropicMessages
from ext_proc.mock_provider.behavior import Behavior, Reset, behavior_for
from ext_proc.mock_provider.counts import Counts, counts_for
from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.openai_chat import OpenAIChat
from ext_proc.mock_provider.shape import Call, Shape, output_text, text_pieces

SHAPES: tuple[Shape, ...] = (OpenAIChat(), AnthropicMessages())
DOCUMENT: dict[str, object] = {
    "model": "m",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "hello there"}],
}
# V1 and V2 of the golden vectors: what the providers report for these disjoint counts.
V1 = Counts(input=300, cache_read=600, cache_write=100, output=200, reasoning=150)
V2 = Counts(input=10, cache_write=200, cache_write_1h=300, cache_read=2000, output=90)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)


def call(behavior: Behavior | None = None, counts: Counts = V1, **document: object) -> Call:
    return Call({**DOCUMENT, **document}, counts, behavior or Behavior(), "0" * 24)


def body(answer: Answer) -> bytes:
    return b"".join(piece.data for piece in answer.pieces)


def events(raw: bytes) -> list[dict[str, object]]:
    """The JSON of every event of a stream, `[DONE]` left out."""
    lines = [line.removeprefix(b"data: ") for line in raw.splitlines() if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def test_openai_usage_includes_what_was_cached() -> None:
    """OpenAI's prompt_tokens holds cached and written tokens too, completion_tokens the reasoning (vector V1)."""
    usage = openai_chat.usage(V1)

    assert usage["prompt_tokens"] == 1000
    assert usage["completion_tokens"] == 200
    assert usage["total_tokens"] == 1200
    assert usage["prompt_tokens_details"] == {"cached_tokens": 600, "audio_tokens": 0, "cache_write_tokens": 100}
    assert usage["completion_tokens_details"] == {
        "reasoning_tokens": 150,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    }


def test_anthropic_usage_excludes_what_was_cached() -> None:
    """Anthropic's input_tokens is what was read uncached; writes are split by lifetime (vector V2)."""
    usage = anthropic_messages.usage(V2)

    assert usage["input_tokens"] == 10
    assert usage["cache_creation_input_tokens"] == 500
    assert usage["cache_creation"] == {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 300}
    assert usage["cache_read_input_tokens"] == 2000
    assert usage["output_tokens"] == 90


def test_openai_streams_usage_only_if_asked() -> None:
    """With include_usage every chunk has `usage: null` and one last chunk without choices has it; else none does."""
    asked = events(body(answer_for(SHAPES[0], call(stream=True, stream_options={"include_usage": True}))))
    unasked = events(body(answer_for(SHAPES[0], call(stream=True))))

    assert all(chunk["usage"] is None for chunk in asked[:-1])
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"] == openai_chat.usage(V1)
    assert all("usage" not in chunk for chunk in unasked)
    assert len(asked) == len(unasked) + 1


def test_anthropic_starts_with_a_placeholder_and_ends_with_the_count() -> None:
    """message_start has the input side and an output of 1; message_delta the cumulative output, without the split."""
    stream = events(body(answer_for(SHAPES[1], call(counts=V2, stream=True))))

    assert [one["type"] for one in stream[:3]] == ["message_start", "content_block_start", "ping"]
    assert [one["type"] for one in stream[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert stream[0]["message"]["usage"] == {**anthropic_messages.usage(V2), "output_tokens": 1}  # type: ignore[index]  # JSON
    assert stream[-2]["usage"] == {
        "input_tokens": 10,
        "cache_creation_input_tokens": 500,
        "cache_read_input_tokens": 2000,
        "output_tokens": 90,
    }


@given(tokens=st.integers(0, 300), pieces=st.integers(1, 50))
def test_pieces_join_to_the_text(tokens: int, pieces: int) -> None:
    """However it is cut, a streamed text is the plain one: six bytes a token, no piece empty, never more than asked."""
    cut = text_pieces(tokens, pieces)

    assert "".join(cut) == output_text(tokens)
    assert len(output_text(tokens)) == 6 * tokens
    assert all(cut)
    assert len(cut) <= pieces


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3, 10])
def test_a_stream_has_the_chunks_asked_for(shape: Shape, count: int) -> None:
    """`chunks` says how many pieces of text a stream has."""
    answer = answer_for(shape, call(Behavior(chunks=count), Counts(output=40), stream=True))

    assert sum(piece.text for piece in answer.pieces) == count


def test_several_choices_share_the_output() -> None:
    """With n choices every one has text, and together they have all the visible tokens, streamed or not."""
    plain = json.loads(body(answer_for(SHAPES[0], call(counts=Counts(output=10), n=3))))
    stream = events(body(answer_for(SHAPES[0], call(counts=Counts(output=10), n=3, stream=True))))

    texts = [choice["message"]["content"] for choice in plain["choices"]]
    streamed = ["", "", ""]
    for chunk in stream:
        for choice in chunk["choices"]:  # type: ignore[attr-defined]  # JSON
            streamed[choice["index"]] += choice["delta"].get("content", "")
    assert [len(text) for text in texts] == [18, 18, 24]
    assert streamed == texts


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_completion_tokens": 9, "n": 3}, 27),
        ({}, None),
    ],
)
def test_openai_output_limit(document: dict[str, object], expected: int | None) -> None:
    """The newer name wins, and n choices may each use the limit."""
    assert OpenAIChat().output_limit(document) == expected


def test_counts_come_from_the_body_without_a_header() -> None:
    """Input is the bytes of all text ÷ 4, output 16 tokens or the limit: the same for the same body."""
    assert counts_for(None, {"messages": [{"content": "x" * 400}]}, None) == Counts(input=100, output=16)
    assert counts_for(None, {"messages": [{"content": "é" * 4}]}, 5) == Counts(input=2, output=5)
    assert counts_for(None, {}, None) == Counts(input=1, output=16)


def test_counts_come_from_the_header() -> None:
    """Named counts are reported as given, even past the limit; `max` is the limit; the rest keeps its default."""
    given_counts = counts_for('{"input": 12, "output": 99, "cache_write_1h": 3}', DOCUMENT, 50)

    assert given_counts == Counts(input=12, output=99, cache_write_1h=3)
    assert counts_for('{"output": "max"}', DOCUMENT, 50).output == 50
    assert counts_for('{"output": "max"}', DOCUMENT, None).output == 16


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("nope", "not JSON"),
        ("[1]", "not an object"),
        ('{"inputs": 1}', "unknown count 'inputs'; known are input, output"),
        ('{"input": -1}', "input must be an integer from 0"),
        ('{"input": true}', "input must be an integer"),
        ('{"input": "max"}', "input must be an integer"),
        ('{"output": 1.5}', "output must be an integer"),
    ],
)
def test_a_bad_usage_header_names_key_and_cure(header: str, problem: str) -> None:
    """A test that misspells what it wants fails at once, with the reason."""
    with pytest.raises(MockRequestError, match="x-mock-usage: ") as caught:
        counts_for(header, {}, None)

    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("nope", "not JSON"),
        ("1", "not an object"),
        ('{"stat": 500}', "unknown key 'stat'; known are status, body"),
        ('{"status": 99}', "status must be an integer from 200 to 599"),
        ('{"chunks": 0}', "chunks must be an integer from 1"),
        ('{"gzip": 1}', "gzip must be true or false"),
        ('{"reset": "later"}', "reset must be one of before_body_read, before_headers, after_headers, after_chunks"),
        ('{"reset": []}', "reset must be one of"),
        ('{"reset": "after_chunks"}', "needs cut_after_chunks"),
        ('{"hold_open_until": ""}', "hold_open_until must be a text"),
        ('{"headers": {"a": 1}}', "headers must be an object"),
        ('{"headers": {"a": "b\\nc"}}', "headers must be an object"),
    ],
)
def test_a_bad_behavior_header_names_key_and_cure(header: str, problem: str) -> None:
    """The same for misbehaviour."""
    with pytest.raises(MockRequestError, match="x-mock-behavior: ") as caught:
        behavior_for(header)

    assert problem in str(caught.value)


def test_every_behavior_key_can_be_asked_for() -> None:
    """Each field of `Behavior` is read from the header under its own name."""
    asked = {
        "status": 503,
        "body": {"a": 1},
        "headers": {"x-a": "b"},
        "retry_after": 3,
        "first_byte_delay_ms": 1,
        "chunk_delay_ms": 2,
        "chunks": 9,
        "cut_after_chunks": 4,
        "error_event_after_chunks": 5,
        "no_usage": True,
        "reset": "after_chunks",
        "gzip": True,
        "crlf": True,
        "no_last_newline": True,
        "split_bytes": 6,
        "hold_open_until": "gate",
        "hold_after_chunks": 1,
        "model": "other",
        "service_tier": "flex",
        "tool_calls": 2,
        "like_mistral": True,
    }

    behavior = behavior_for(json.dumps(asked))
    assert {name: getattr(behavior, name) for name in asked} == asked
    assert set(asked) == set(Behavior.__slots__)
    assert behavior.reset is Reset.AFTER_CHUNKS


@given(text=st.text() | st.dictionaries(st.sampled_from(sorted(Behavior.__slots__)), JSON).map(json.dumps))
def test_header_fuzz(text: str) -> None:
    """Whatever stands in the headers, the answer is a value or the one error there is: anything else fails here."""
    for read in (behavior_for, lambda header: counts_for(header, {}, None)):
        with contextlib.suppress(MockRequestError):
            assert isinstance(read(text), Behavior | Counts)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_bytes_are_the_same_however_they_are_sent(shape: Shape, size: int) -> None:
    """Splitting, gzip and CR LF change the transport and never the content."""
    whole = body(answer_for(shape, call(stream=True)))
    split = answer_for(shape, call(Behavior(split_bytes=size), stream=True))
    zipped = answer_for(shape, call(Behavior(gzip=True, split_bytes=size), stream=True))
    crlf = body(answer_for(shape, call(Behavior(crlf=True), stream=True)))

    assert body(split) == whole
    assert max(len(piece.data) for piece in split.pieces) <= size
    assert sum(piece.text for piece in split.pieces) == 5
    assert zlib.decompress(body(zipped), wbits=31) == whole
    assert zipped.headers["content-encoding"] == "gzip"
    assert crlf.replace(b"\r\n", b"\n") == whole
    assert crlf.count(b"\r\n") == crlf.count(b"\n")


@pytest.mark.parametrize("shape", SHAPES)
def test_gzip_is_readable_event_by_event(shape: Shape) -> None:
    """A reader of a compressed stream can decompress each event when it has come."""
    plain = answer_for(shape, call(stream=True)).pieces
    unpacker = zlib.decompressobj(wbits=31)
    for expected, piece in zip(plain, answer_for(shape, call(Behavior(gzip=True), stream=True)).pieces, strict=True):
        assert unpacker.decompress(piece.data) == expected.data


@pytest.mark.parametrize("shape", SHAPES)
def test_a_missing_last_newline_is_all_that_is_missing(shape: Shape) -> None:
    """`no_last_newline` leaves out the empty line after the last event, no more."""
    whole = body(answer_for(shape, call(stream=True)))

    assert body(answer_for(shape, call(Behavior(no_last_newline=True), stream=True))) + b"\n\n" == whole


@pytest.mark.parametrize("shape", SHAPES)
def test_without_usage_nothing_says_usage(shape: Shape) -> None:
    """`no_usage` holds for plain and streamed answers, asked for or not."""
    quiet = Behavior(no_usage=True)
    options = {"include_usage": True}

    assert b"usage" not in body(answer_for(shape, call(quiet)))
    assert b"usage" not in body(answer_for(shape, call(quiet, stream=True, stream_options=options)))


@pytest.mark.parametrize("shape", SHAPES)
def test_an_error_event_follows_the_chunks(shape: Shape) -> None:
    """After so many pieces of text comes the provider's error event, and nothing more."""
    stream = events(body(answer_for(shape, call(Behavior(error_event_after_chunks=2), stream=True))))

    assert "error" in stream[-1]
    assert sum(b"delta" in json.dumps(one).encode() and b" " in json.dumps(one).encode() for one in stream) >= 2
    assert "usage" not in stream[-1]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_error_status_is_in_the_providers_shape(shape: Shape) -> None:
    """A status on command comes with the provider's error body, retry-after and extra headers, even for a stream."""
    behavior = Behavior(status=429, retry_after=7, headers={"X-Extra": "1"})
    answer = answer_for(shape, call(behavior, stream=True))

    error = json.loads(body(answer))["error"]
    assert answer.status == 429
    assert error["type"] == "rate_limit_error"
    assert "message" in error
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-extra"] == "1"
    assert answer.headers["content-type"] == "application/json"


def test_a_body_on_command_goes_out_as_given() -> None:
    """Text stays text, anything else becomes JSON, whatever the status."""
    assert body(answer_for(SHAPES[0], call(Behavior(body="<html>")))) == b"<html>"
    assert body(answer_for(SHAPES[0], call(Behavior(status=500, body={"usage": 1})))) == b'{"usage":1}'


def test_the_answer_can_name_another_model_and_tier() -> None:
    """What was served can differ from what was asked for."""
    behavior = Behavior(model="m-2026", service_tier="flex")
    openai = json.loads(body(answer_for(SHAPES[0], call(behavior))))
    anthropic = json.loads(body(answer_for(SHAPES[1], call(behavior))))

    assert (openai["model"], openai["service_tier"]) == ("m-2026", "flex")
    assert (anthropic["model"], anthropic["usage"]["service_tier"]) == ("m-2026", "flex")


@pytest.mark.parametrize(
    ("shape", "document", "problem"),
    [
        (SHAPES[0], {"messages": [1]}, "model"),
        (SHAPES[0], {"model": "m", "messages": []}, "messages"),
        (SHAPES[1], {"model": "m", "messages": [1]}, "max_tokens"),
        (SHAPES[1], {"model": "m", "max_tokens": 1}, "messages"),
        (SHAPES[1], {"max_tokens": 1, "messages": [1]}, "model"),
    ],
)
def test_what_a_provider_would_refuse_is_refused(shape: Shape, document: dict[str, object], problem: str) -> None:
    """A request that lacks what the provider requires is an error that names it."""
    with pytest.raises(MockRequestError, match=problem):
        shape.check(document)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stream", [True, False])
def test_the_answer_ends_for_length_at_the_limit(shape: Shape, stream: bool) -> None:
    """An answer that used its whole limit says so."""
    raw = body(answer_for(shape, call(counts=Counts(output=50), stream=stream)))
    below = body(answer_for(shape, call(counts=Counts(output=49), stream=stream)))

    reason = b'"length"' if shape is SHAPES[0] else b'"max_tokens"'
    assert reason in raw
    assert reason not in below
