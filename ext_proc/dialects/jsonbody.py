"""Request bodies: parsed once, strictly, and re-serialised without loss.

Whatever we read must be what the provider will read. So a key that appears twice is refused (parsers differ on which
one counts: a budget could be checked against one model and the request served by another), and so is everything that
JSON does not have (NaN, Infinity) or that we could not write back as it came.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import NoReturn

import orjson

from ext_proc.dialects.errors import DialectError

BODY = "(body)"
"""The field name of an error that concerns the body as a whole."""

MAX_DEPTH = 128
"""How deep a body may nest. orjson writes 254 levels; no provider's schema comes near half of that."""

Document = dict[str, object]


def parse(body: bytes) -> Document:
    """The body as an object. Raises `DialectError` naming what is wrong and what would be right."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DialectError(BODY, f"is not UTF-8 at byte {error.start}; send the JSON encoded as UTF-8") from None
    try:
        document = _DECODER.decode(text)
    except _DuplicateKeyError as error:
        raise DialectError(error.key, "appears twice in one object; keep one, so that all readers agree") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise DialectError(BODY, f"is not JSON: {error.msg} at {where}; send one JSON object") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # numbers that are none, and integers of thousands of digits
        raise DialectError(BODY, f"holds a number that cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise DialectError(BODY, f"is {kind(document)}; send one JSON object")
    _check_depth(body, document)
    return document


def dump(document: Mapping[str, object]) -> bytes:
    """The document as compact UTF-8 JSON, equal in meaning to what was parsed.

    orjson knows neither integers beyond 64 bits nor lone surrogates; both may stand in a request (a schema's bounds, a
    truncated text), and the standard library writes them faithfully.
    """
    try:
        return orjson.dumps(document)
    except TypeError:
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")


def utf8_bytes(text: str) -> int:
    """The length of a text in UTF-8. Lone surrogates count as the three bytes they would take."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def kind(value: object) -> str:
    """What a JSON value is, in words for an error message."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def required_text(document: Mapping[str, object], field: str, example: str) -> str:
    """A field that must be a string with something in it."""
    value = document.get(field)
    if isinstance(value, str) and value.strip():
        return value
    if field not in document:
        raise DialectError(field, f"is missing; name it, for example {example!r}")
    what = "an empty string" if isinstance(value, str) else kind(value)
    raise DialectError(field, f"is {what}; it must be a string such as {example!r}")


def required_items(document: Mapping[str, object], field: str) -> list[object]:
    """A field that must be an array with something in it."""
    value = document.get(field)
    if isinstance(value, list) and value:
        return value
    if field not in document:
        raise DialectError(field, "is missing; send an array with at least one element")
    what = "an empty array" if isinstance(value, list) else kind(value)
    raise DialectError(field, f"is {what}; send an array with at least one element")


def optional_items(document: Mapping[str, object], field: str) -> list[object]:
    """A field that may be absent, null or an array."""
    value = document.get(field)
    if value is None:
        return []
    if isinstance(value, list):
        return value
    raise DialectError(field, f"is {kind(value)}; it must be an array or absent")


def optional_object(document: Mapping[str, object], field: str) -> Mapping[str, object]:
    """A field that may be absent, null or an object."""
    value = document.get(field)
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise DialectError(field, f"is {kind(value)}; it must be an object or absent")


def optional_flag(document: Mapping[str, object], field: str, *, within: str = "") -> bool:
    """A field that may be absent, null, true or false."""
    value = document.get(field)
    if value is None:
        return False
    if isinstance(value, bool):
        return value
    raise DialectError(within + field, f"is {kind(value)}; it must be true or false")


def optional_count(document: Mapping[str, object], field: str, *, within: str = "", least: int = 1) -> int | None:
    """A field that may be absent, null or an integer ≥ `least`. Anything else would leave a cost unbounded."""
    value = document.get(field)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        if value >= least:
            return value
        raise DialectError(within + field, f"is {value}; it must be an integer of at least {least}")
    raise DialectError(within + field, f"is {kind(value)}; it must be an integer of at least {least}")


def optional_text(document: Mapping[str, object], field: str) -> str | None:
    """A field that may be absent, null or a string."""
    value = document.get(field)
    if value is None or isinstance(value, str):
        return value
    raise DialectError(field, f"is {kind(value)}; it must be a string or absent")


class _DuplicateKeyError(ValueError):
    """One object holds one key twice."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _object(pairs: list[tuple[str, object]]) -> Document:
    document = dict(pairs)
    if len(document) != len(pairs):
        seen: set[str] = set()
        raise _DuplicateKeyError(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]  # `set.add` returns None on purpose: it notes the key
    return document


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond a double")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)


def _check_depth(body: bytes, document: Document) -> None:
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return  # not even if every bracket nested: the usual case, two memchr passes
    level: list[object] = [document]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)  # type: ignore[attr-defined]  # a level holds dicts and lists only
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> DialectError:
    return DialectError(BODY, f"nests deeper than {MAX_DEPTH} levels; flatten it")
