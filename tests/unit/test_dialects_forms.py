"""Requests that are forms, and those whose answers are no text: read, bounded, rewritten, refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ext_proc.dialects import multipart, registry
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import Endpoint, RequestFacts, Rewrite
from ext_proc.pricing.usage import Usage

TYPE = "multipart/form-data; boundary=xyz"
IMAGES, EDITS = "/v1/images/generations", "/v1/images/edits"
TRANSCRIPTIONS, SPEECH = "/v1/audio/transcriptions", "/v1/audio/speech"


def form(*parts: tuple[str, str | bytes] | tuple[str, str | bytes, str]) -> bytes:
    """A form as clients write it; a third element is a file name."""
    written = b""
    for name, content, *file in parts:
        named = f'; filename="{file[0]}"\r\nContent-Type: audio/mpeg' if file else ""
        data = content.encode() if isinstance(content, str) else content
        written += f'--xyz\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + data + b"\r\n"
    return written + b"--xyz--\r\n"


def endpoint(path: str) -> Endpoint:
    found = registry.resolve("POST", path)
    assert found is not None
    return found


def read(path: str, body: bytes | dict[str, Any], content_type: str | None = TYPE) -> RequestFacts:
    if isinstance(body, dict):
        body, content_type = json.dumps(body).encode(), "application/json"
    return endpoint(path).dialect.read_request(body, path=path, content_type=content_type)


RECORDING = form(("model", "gpt-4o-transcribe"), ("stream", "true"), ("file", b"\xff\r\n--xy\x00" * 6_000, "a.mp3"))


def test_a_form_is_read_where_it_stands() -> None:
    """Model, flags and the size of the file are read; a file may hold almost a boundary."""
    facts = read(TRANSCRIPTIONS, RECORDING)

    assert (facts.model, facts.stream) == ("gpt-4o-transcribe", True)
    assert facts.units == Usage(audio_ms=6_000 * 8 * 1_000 // 4_000)
    assert facts.overhead_tokens == 8 + 12_000 * 1_000 // 60_000
    assert read(TRANSCRIPTIONS, RECORDING, None) == facts


def test_another_model_is_written_into_the_form_and_nothing_else() -> None:
    """A swap changes the bytes of the model; without one the body goes on as it came."""
    dialect = endpoint(TRANSCRIPTIONS).dialect
    facts = read(TRANSCRIPTIONS, RECORDING)

    assert dialect.rewrite(facts, Rewrite(model="whisper-1")) == RECORDING.replace(b"gpt-4o-transcribe", b"whisper-1")
    assert dialect.rewrite(facts, Rewrite(model="gpt-4o-transcribe")) is None
    assert dialect.rewrite(facts, Rewrite(output_limit=1)) is None


def test_a_wav_file_tells_its_length() -> None:
    """Sixteen kilobytes at 32,000 bytes a second are half a second, not four; an odd header is not believed."""
    header = b"RIFF\0\0\0\0WAVEfmt " + bytes(12)
    honest = header + (32_000).to_bytes(4, "little") + bytes(15_968)
    silly = header + (2**32 - 1).to_bytes(4, "little") + bytes(15_968)
    still = header + bytes(4) + bytes(15_968)

    def length_ms(content: bytes) -> int:
        return read(TRANSCRIPTIONS, form(("model", "m"), ("file", content, "a.wav"))).units.audio_ms

    assert (length_ms(honest), length_ms(still), length_ms(silly)) == (500, 4_000, 4_000)


@pytest.mark.parametrize(
    ("body", "content_type", "field"),
    [
        (RECORDING, "multipart/form-data", "content-type"),
        (RECORDING, "multipart/form-data; boundary=xyz; boundary=abc", "content-type"),
        (RECORDING, "multipart/form-data; boundary=abc", "(form)"),
        (RECORDING, "application/json", "(body)"),
        (b"--abc\r\n\r\n" + RECORDING, TYPE, "(form)"),
        (RECORDING + b"--abc", TYPE, "(form)"),
        (RECORDING[:-10], TYPE, "(form)"),
        (form(("model", "m"), ("model", "n"), ("file", b"x", "a")), TYPE, "model"),
        (form(("model", "m"), ("file", b"x", "a"), ("file", b"y", "b")), TYPE, "file"),
        (form(("model", "m", "model.txt"), ("file", b"x", "a")), TYPE, "model"),
        (form(("model", "m"), ("model", "n", "model.txt"), ("file", b"x", "a")), TYPE, "model"),
        (form(("model", b"\xff"), ("file", b"x", "a")), TYPE, "model"),
        (form(("model", "m")), TYPE, "file"),
        (form(("file", b"x", "a")), TYPE, "model"),
        (form(("model[]", "m"), ("file", b"x", "a")), TYPE, "model"),
        (form(("model", "m"), ("prompt", "x" * (multipart.FIELD_BYTES_MAX + 1)), ("file", b"x", "a")), TYPE, "prompt"),
        (form(*[(f"f{index}", "") for index in range(multipart.PARTS_MAX + 1)]), TYPE, "(form)"),
        (RECORDING.replace(b"\r\n\r\ngpt", b"\r\nContent-Transfer-Encoding: base64\r\n\r\ngpt"), TYPE, "(form)"),
        (RECORDING.replace(b'name="model"', b"name=model"), TYPE, "(form)"),
        (RECORDING.replace(b'name="model"', b'name="mo\\"del"'), TYPE, "(form)"),
        (RECORDING.replace(b'name="stream"', b'name="x"; name="stream"'), TYPE, "(form)"),
        (form(("model", "m"), ("stream", "maybe"), ("file", b"x", "a")), TYPE, "stream"),
    ],
)
def test_a_form_that_two_readers_could_take_differently_is_refused(body: bytes, content_type: str, field: str) -> None:
    """T19: the model that is charged is the model that the provider reads, or the request is refused by name."""
    with pytest.raises(DialectError) as caught:
        read(TRANSCRIPTIONS, body, content_type)

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        ({"quality": "low", "size": "1024x1024"}, 273),
        ({"quality": "high", "size": "1536x1024"}, 6_242),
        ({}, 6_242),
        ({"quality": "medium", "size": "auto"}, 1_586),
        ({"quality": "low", "size": "1024x1024", "partial_images": 3}, 573),
        ({"quality": "low", "size": "1024x1024", "output_format": "gif", "frame_count": 4}, 1_091),
    ],
)
def test_a_picture_is_held_by_its_size_and_quality(more: dict[str, Any], tokens: int) -> None:
    """What OpenAI publishes for each size and quality is held, the dearest where the request leaves the choice."""
    facts = read(IMAGES, {"model": "gpt-image-2", "prompt": "A quay.", "n": 3, **more})

    assert (facts.output_limit, facts.choices, facts.units) == (tokens, 3, Usage(images=3))
    assert facts.estimated == {"output", "image_out"}


def test_pictures_that_are_sent_count_as_content_outside_the_text() -> None:
    """Each picture of an edit is held for, more where it is to be kept faithfully; JSON and form count alike."""
    parts = (("model", "m"), ("prompt", "p"), ("n", "2"), ("input_fidelity", "high"))
    facts = read(EDITS, form(*parts, ("image[]", b"a", "a.png"), ("image[]", b"b", "b.png"), ("mask", b"c", "c.png")))
    linked = read(EDITS, {"model": "m", "prompt": "p", "images": [{"image_url": "https://example.com/a.png"}]})

    assert (facts.external_inputs, facts.choices, facts.overhead_tokens) == (3, 2, 8 + 3 * 6_240)
    assert linked.external_inputs == 1


@pytest.mark.parametrize(
    "more", [{"output_format": "svg"}, {"svg": {"model": "gpt-5"}}, {"n": 0}, {"n": "2"}, {"prompt": 1}]
)
def test_a_picture_that_cannot_be_metered_is_refused(more: dict[str, Any]) -> None:
    """An SVG is drawn by a second model, and a number that is none bounds nothing."""
    with pytest.raises(DialectError):
        read(IMAGES, {"model": "gpt-image-2", "prompt": "A quay.", **more})


@pytest.mark.parametrize(
    ("more", "tokens"), [({}, 12), ({"speed": 4}, 12), ({"speed": 0.5}, 24), ({"speed": 0.01}, 48)]
)
def test_speech_is_held_by_its_characters(more: dict[str, Any], tokens: int) -> None:
    """Characters are counted as the provider counts them, and slow speech takes longer."""
    facts = read(SPEECH, {"model": "tts-1", "voice": "alloy", "input": "Grüezi", **more})

    assert facts.units == Usage(characters=6)
    assert facts.output_limit == tokens
    assert facts.prompt_bytes == 7
