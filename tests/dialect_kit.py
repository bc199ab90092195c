"""The corpus of provider bodies: finding it, feeding it, and what was computed by hand beside each body.

They are written by hand in the providers' shapes, from their published types and documents; none was captured.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from ext_proc.dialects import registry
from ext_proc.dialects.interface import Meter, Reading
from ext_proc.pricing.usage import Rates

CORPUS = Path(__file__).parent / "corpus"

CONTENT_TYPES = {
    ".json": "application/json",
    ".sse": "text/event-stream; charset=utf-8",
    ".bin": "application/vnd.amazon.eventstream",
    ".mp3": "audio/mpeg",
}

CASES = sorted(
    path for name in registry.dialect_names() for path in (CORPUS / name).glob("*") if path.suffix in CONTENT_TYPES
)


def case_id(path: Path) -> str:
    """`dialect/case` as a test's name."""
    return f"{path.parent.name}/{path.stem}"


def expected(path: Path) -> dict[str, Any]:
    """The expectations written beside a body."""
    document = yaml.safe_load(path.with_suffix(".yaml").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def rates_of(expectation: dict[str, Any]) -> Rates:
    """Rates are written in nano-dollars per unit, fractions allowed."""
    return Rates(**{name: int(Decimal(str(value)) * 1000) for name, value in expectation["rates"].items()})


def meter_for(path: Path, *, encoding: str = "", hide_usage: bool = False) -> Meter:
    """A fresh meter for one body."""
    return registry.dialect(path.parent.name).meter(
        content_type=CONTENT_TYPES[path.suffix], content_encoding=encoding, hide_usage=hide_usage
    )


def read(meter: Meter, chunks: list[bytes], *, end_apart: bool = True) -> tuple[bytes, Reading]:
    """Feed chunks; what the client sees, and the reading. The end comes with the last chunk or alone."""
    last = len(chunks) - 1
    shown = [meter.feed(chunk, end=not end_apart and index == last) for index, chunk in enumerate(chunks)]
    if end_apart:
        shown.append(meter.feed(b"", end=True))
    return b"".join(shown), meter.reading()
