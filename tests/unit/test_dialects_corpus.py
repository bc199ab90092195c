"""Every body of the corpus gives the usage and the cost that were computed by hand beside it."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest

from ext_proc.dialects import registry
from ext_proc.dialects.interface import Part, Reading
from ext_proc.pricing.price import Price, Tier
from ext_proc.pricing.usage import Usage
from tests.dialect_kit import CASES, CONTENT_TYPES, case_id, expected, meter_for, rates_of, read


@pytest.mark.parametrize("path", CASES, ids=case_id)
def test_the_reading_of_a_body_is_as_computed_by_hand(path: Path) -> None:
    """Usage, served model, tier, output bytes and the end of every body are exactly as written beside it."""
    want = expected(path)

    _, reading = read(meter_for(path), [path.read_bytes()])

    assert reading == Reading(
        usage=None if want["usage"] is None else Usage(**want["usage"]),
        output_known=want.get("output_known", True),
        output_bytes=want["output_bytes"],
        finished=want.get("finished", True),
        served_model=want.get("served_model"),
        service_tier=want.get("service_tier"),
        geo=want.get("geo"),
        parts=tuple(Part(Usage(**part["usage"]), part.get("model")) for part in want.get("parts", ())),
    )


@pytest.mark.parametrize("path", [path for path in CASES if expected(path)["usage"]], ids=case_id)
def test_the_charge_of_a_body_is_as_computed_by_hand(path: Path) -> None:
    """The charge of every body is exact to the nano-dollar."""
    want = expected(path)

    _, reading = read(meter_for(path), [path.read_bytes()])

    assert reading.usage is not None
    price = Price((Tier(0, rates_of(want)),), "by hand").served_in(reading.geo)
    parts = [part.usage for part in reading.parts]
    assert price.charge_nanodollars(reading.usage, parts) == want["cost_nanodollars"]


@pytest.mark.parametrize("path", CASES, ids=case_id)
def test_a_meter_that_hides_nothing_returns_the_very_bytes_it_was_given(path: Path) -> None:
    """Without `hide_usage` a client's chunks are the provider's chunk objects themselves."""
    body = path.read_bytes()

    assert meter_for(path).feed(body, end=True) is body


@pytest.mark.parametrize("path", CASES, ids=case_id)
def test_hiding_takes_out_the_usage_chunk_and_nothing_else(path: Path) -> None:
    """T33: with `hide_usage` exactly the event that holds nothing but usage is missing, and the reading is the same."""
    body = path.read_bytes()
    mark = expected(path).get("hides", "").encode()

    shown, reading = read(meter_for(path, hide_usage=True), [body])

    if mark:
        start = max(body.rfind(end, 0, body.index(mark)) + len(end) for end in (b"\n\n", b"\r\r", b"\r\n\r\n"))
        stop = start + len(body) - len(shown)
        assert mark in body[start:stop]
        assert b"data:" not in body[start + 5 : stop]
        assert shown == body[:start] + body[stop:]
    else:
        assert shown == body
    assert reading == read(meter_for(path), [body])[1]


@pytest.mark.parametrize("path", CASES, ids=case_id)
def test_compressed_bodies_are_read_and_passed_unchanged(path: Path) -> None:
    """gzip (several members), zlib and raw deflate bodies give the same reading, and pass byte for byte in pieces."""
    body = path.read_bytes()
    plain = read(meter_for(path), [body])[1]
    raw = zlib.compressobj(wbits=-15)
    for encoding, data in (
        ("gzip", gzip.compress(body[:100]) + gzip.compress(body[100:])),
        ("deflate", zlib.compress(body)),
        ("deflate", raw.compress(body) + raw.flush()),
    ):
        pieces = [data[index : index + 7] for index in range(0, len(data), 7)]

        shown, reading = read(meter_for(path, encoding=encoding, hide_usage=True), pieces)

        assert shown == data
        assert reading == plain


@pytest.mark.parametrize("path", [path for path in CASES if path.suffix != ".bin"], ids=case_id)
def test_a_missing_content_type_is_made_up_for_by_looking(path: Path) -> None:
    """A body whose content type says nothing gives the same reading (the binary event stream always says)."""
    assert path.suffix in CONTENT_TYPES
    meter = registry.dialect(path.parent.name).meter(content_type="", content_encoding="", hide_usage=False)
    meter.feed(path.read_bytes(), end=True)

    assert meter.reading() == read(meter_for(path), [path.read_bytes()])[1]


@pytest.mark.parametrize("name", registry.dialect_names())
def test_every_response_shape_has_a_corpus(name: str) -> None:
    """No dialect is without bodies, its own or those of a dialect whose responses are the same."""
    covered = {path.parent.name for path in CASES}

    assert any(registry.dialect(other).usage_table is registry.dialect(name).usage_table for other in covered)
