"""Envoy's own parsers, configured from the dialects' tables, read what our meters read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ext_proc.dialects import registry
from ext_proc.dialects.interface import Reading
from ext_proc.server import messages
from ext_proc.server.settings import Metering
from tests.dialect_kit import CASES, CONTENT_TYPES, case_id, meter_for, read
from tests.envoy_kit import Stack

pytestmark = pytest.mark.envoy

NOT_NATIVE = {
    "anthropic-messages/plain-compaction",  # inferences listed in an array: what asks for them goes through meter
    "openai-responses/plain-search",  # searches are counted in an array: a request with that tool goes through meter
    "openai-responses/stream-crlf-no-last-newline",  # Envoy drops an event that nothing ends: settled at an estimate
}
READABLE = [path for path in CASES if registry.dialect(path.parent.name).is_native and case_id(path) not in NOT_NATIVE]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One stack for all tests, with native metering."""
    with Stack(metering=Metering.NATIVE) as running:
        yield running


def native_reading(stack: Stack, hold_id: str, dialect: str) -> Reading:
    """What the end record says of an answer."""
    record = messages.end_record(stack.observed.end_of(hold_id).entry)
    return registry.dialect(dialect).native_reading(record.reported)


@pytest.mark.parametrize("path", READABLE, ids=case_id)
def test_envoy_reads_a_recorded_body_as_our_meter_does(stack: Stack, path: Path) -> None:
    """The end record of every recorded body tells the usage, model and tier that meter reads, and the body is whole."""
    body = path.read_bytes()
    script = {
        "meter": "native",
        "provider": "body",
        "body": body.decode("latin-1"),
        "response_headers": {"content-type": CONTENT_TYPES[path.suffix]},
    }
    answer = stack.post(case_id(path), script={"id": case_id(path), **script})

    _, metered = read(meter_for(path), [body])
    assert answer.content == body
    assert native_reading(stack, case_id(path), path.parent.name) == replace(metered, finished=False, output_bytes=0)


@pytest.mark.parametrize("encoding", ["gzip", "br"])
@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
def test_a_compressed_answer_passes_meter_as_it_is(stack: Stack, encoding: str, content_type: str) -> None:
    """What a provider has compressed unasked, meter reads in either way of metering, and the end record says that it
    does; the client gets the provider's bytes.
    """
    hold_id = f"{encoding}-{content_type}"
    body = "not inflated by anybody on the way" * 100
    headers = {"content-type": content_type, "content-encoding": encoding}
    script = {"meter": "native", "provider": "body", "body": body, "response_headers": headers}
    with stack.stream(hold_id, script=script) as answer:
        assert b"".join(answer.iter_raw()) == body.encode()

    assert messages.end_record(stack.observed.end_of(hold_id).entry).encoded
    assert {"meter response_headers", "meter response_body"} <= set(stack.observed.steps_of(hold_id))


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
def test_a_plain_answer_passes_no_python(stack: Stack, content_type: str) -> None:
    """Nothing of it is sent to a worker but its end record."""
    hold_id = f"plain-{content_type}"
    script = {"meter": "native", "provider": "body", "body": "{}", "response_headers": {"content-type": content_type}}
    stack.post(hold_id, script=script)

    assert not messages.end_record(stack.observed.end_of(hold_id).entry).encoded
    assert stack.observed.steps_of(hold_id) == ["admit request_headers", "admit request_body"]


def test_a_refusal_of_ours_passes_no_meter(stack: Stack) -> None:
    """What admit itself answers is not sent to meter, though no route had been chosen by then."""
    refused = stack.post("refused", script={"admit": "refuse"})

    stack.observed.end_of("refused")
    assert refused.status_code == 429
    assert not [step for step in stack.observed.steps_of("refused") if step.startswith("meter")]


@pytest.mark.parametrize("size", [2 << 20, 31 << 20])
def test_a_large_answer_is_read_and_reaches_the_client_whole(stack: Stack, size: int) -> None:
    """Envoy keeps up to 32 MiB of an answer to read it, though a connection's own buffer is a thirty-second of that."""
    headers = {"content-type": "application/json"}
    script = {"meter": "native", "provider": "large", "bytes": size, "response_headers": headers}
    answer = stack.post(f"large-{size}", script=script)

    reading = native_reading(stack, f"large-{size}", "openai-chat")
    assert answer.status_code == 200
    assert len(answer.content) > size
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (3, 4)


def test_an_answer_on_the_meters_route_is_never_kept_back(stack: Stack) -> None:
    """Where meter reads, Envoy's parser does not: an answer of any size passes."""
    headers = {"content-type": "application/json"}
    script = {"meter": "stream", "provider": "large", "bytes": 40 << 20, "response_headers": headers}
    answer = stack.post("past-the-limit", script=script)

    assert answer.status_code == 200
    assert len(answer.content) > 40 << 20
    assert messages.end_record(stack.observed.end_of("past-the-limit").entry).reported == {}
