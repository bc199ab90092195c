"""However a body is cut into chunks, a meter reads the same and shows the client the same."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_proc.dialects import registry
from tests.dialect_kit import CASES, CONTENT_TYPES, case_id, meter_for, read


@pytest.mark.parametrize("hide_usage", [False, True])
@pytest.mark.parametrize("path", CASES, ids=case_id)
def test_one_cut_at_every_byte_changes_nothing(path: Path, hide_usage: bool) -> None:
    """A body cut in two at any byte gives the reading and the client bytes of the whole."""
    body = path.read_bytes()
    whole = read(meter_for(path, hide_usage=hide_usage), [body], end_apart=False)
    for cut in range(1, len(body)):
        halves = [body[:cut], body[cut:]]

        assert read(meter_for(path, hide_usage=hide_usage), halves, end_apart=bool(cut % 2)) == whole, cut


@pytest.mark.parametrize("hide_usage", [False, True])
@pytest.mark.parametrize("path", CASES, ids=case_id)
def test_one_byte_at_a_time_changes_nothing(path: Path, hide_usage: bool) -> None:
    """A body fed byte by byte gives the reading and the client bytes of the whole."""
    body = path.read_bytes()
    chunks = [body[index : index + 1] for index in range(len(body))]

    assert read(meter_for(path, hide_usage=hide_usage), chunks) == read(
        meter_for(path, hide_usage=hide_usage), [body], end_apart=False
    )


@settings(max_examples=300, deadline=None)
@given(data=st.data(), hide_usage=st.booleans(), end_apart=st.booleans())
def test_random_chunkings_change_nothing(data: st.DataObject, hide_usage: bool, end_apart: bool) -> None:
    """Any chunking, empty chunks included, gives the reading and the client bytes of the whole."""
    path = data.draw(st.sampled_from(CASES))
    body = path.read_bytes()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=40)))
    bounds = [0, *cuts, len(body)]
    chunks = [body[start:stop] for start, stop in itertools.pairwise(bounds)]

    assert read(meter_for(path, hide_usage=hide_usage), chunks, end_apart=end_apart) == read(
        meter_for(path, hide_usage=hide_usage), [body], end_apart=False
    )


@pytest.mark.parametrize("path", CASES, ids=case_id)
def test_a_body_that_stops_anywhere_has_a_reading_that_only_grows(path: Path) -> None:
    """T30: after any number of bytes a reading can be taken, and the text that passed never shrinks."""
    body = path.read_bytes()
    meter = meter_for(path)
    seen = 0
    for index in range(len(body)):
        meter.feed(body[index : index + 1], end=False)
        now = meter.reading().output_bytes
        stopped = read(meter_for(path), [body[: index + 1]], end_apart=False)[1].output_bytes

        assert seen <= now == stopped
        seen = now


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(registry.dialect_names()),
    content_type=st.sampled_from(["", *CONTENT_TYPES.values()]),
    encoding=st.sampled_from(["", "gzip", "deflate", "br", "nonsense"]),
    chunks=st.lists(
        st.binary(max_size=200) | st.sampled_from([b'data: {"usage": {', b"\n\n", b'"usage":', b"[", b"}"])
    ),
    hide_usage=st.booleans(),
)
def test_a_meter_never_raises_and_loses_nothing(
    name: str, content_type: str, encoding: str, chunks: list[bytes], hide_usage: bool
) -> None:
    """On arbitrary bytes a meter neither raises nor withholds a byte that is not a usage chunk."""
    meter = registry.dialect(name).meter(content_type=content_type, content_encoding=encoding, hide_usage=hide_usage)

    shown, _ = read(meter, chunks)

    assert shown == b"".join(chunks)
