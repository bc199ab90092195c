"""The tag header (`x-tfy-metadata`): a JSON object of short texts, checked so that every complaint shows the cure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache

from ext_proc.identity.errors import MetadataError

MAX_TAGS = 64
MAX_KEY_CHARS = 64
MAX_VALUE_CHARS = 128
MAX_HEADER_BYTES = 8_192
EXAMPLE = '{"cost_center": "search", "repo": "ranker"}'

_MAX_SHOWN = 40
_LINES_KEPT = 1_024  # of at most 8 KiB each


def parse_tags(header: str, lines: Sequence[str]) -> dict[str, str]:
    """The tags of a request. `lines` are the values of every header line of that name; none means no tags.

    Raises MetadataError with one sentence on what is wrong and a correct header as the cure.
    """
    if not lines:
        return {}
    if len(lines) > 1:
        raise _error(header, f"is sent {len(lines)} times", "Send it once")
    return dict(_parsed(header, lines[0]))


@lru_cache(maxsize=_LINES_KEPT)
def _parsed(header: str, line: str) -> Mapping[str, str]:
    """A header line read. A machine sends the same one again and again."""
    try:
        raw = line.encode("utf-8", "surrogateescape")
        text = raw.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise _error(header, "is not valid UTF-8") from None
    if len(raw) > MAX_HEADER_BYTES:
        raise _error(header, f"is {len(raw)} bytes long, more than {MAX_HEADER_BYTES}", "Send fewer or shorter tags")
    pairs = _object(header, text)
    if len(pairs) > MAX_TAGS:
        raise _error(header, f"has {len(pairs)} tags, more than {MAX_TAGS}", "Send fewer tags")
    tags: dict[str, str] = {}
    for key, value in pairs:
        if key in tags:
            raise _error(header, f"names the tag {_shown(key)} twice")
        if not isinstance(value, str):
            raise _error(header, f"has the tag {_shown(key)} with {_json_kind(value)}, where only text is allowed")
        problem = tag_problem(key, value)
        if problem:
            raise _error(header, f"has the tag {_shown(key)} that {problem}")
        tags[key] = value
    return tags


def tag_problem(key: str, value: str) -> str | None:
    """Why a key and value are no tag, or None where they are."""
    if not key or len(key) > MAX_KEY_CHARS or not key.isprintable():
        return f"is not named with 1 to {MAX_KEY_CHARS} printable characters"
    if len(value) > MAX_VALUE_CHARS:
        return f"is {len(value)} characters long, more than {MAX_VALUE_CHARS}"
    if not value.isprintable():
        return "holds a character that cannot be printed"
    return None


class _Pairs(list[tuple[str, object]]):
    """A JSON object as it was written: duplicates included."""


def _object(header: str, text: str) -> _Pairs:
    if not text:
        raise _error(header, "is empty")
    try:
        document: object = json.loads(text, object_pairs_hook=_Pairs)
    except ValueError as error:
        raise _error(header, f"is not JSON ({_reason(error)})") from None
    except RecursionError:
        raise _error(header, "is nested too deeply") from None
    if not isinstance(document, _Pairs):
        raise _error(header, f"is {_json_kind(document)}, not a JSON object")
    return document


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[:1].lower()}{error.msg[1:]} at character {error.pos + 1}"
    return "a number in it is too long"


def _error(header: str, problem: str, cure: str = "Send a JSON object of text values") -> MetadataError:
    return MetadataError(f"The header {header} {problem}.", f"{cure}, for example {header}: {EXAMPLE}")


def _shown(text: str) -> str:
    short = text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
    return json.dumps(short, ensure_ascii=not short.isprintable())


def _json_kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if value is None:
        return "null"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, int | float):
        return "a number"
    return "an object" if isinstance(value, _Pairs) else "a list"
