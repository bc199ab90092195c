"""What goes wrong on command: the `x-mock-behavior` header, read into one frozen value."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ext_proc.mock_provider.errors import MockRequestError

HEADER = "x-mock-behavior"

_DELAY_MAX_MS = 3_600_000
_COUNT_MAX = 100_000


class Reset(StrEnum):
    """Where the connection is reset (RST, not an orderly close)."""

    BEFORE_BODY_READ = "before_body_read"  # the request's head came; its body is not read
    BEFORE_HEADERS = "before_headers"  # the whole request was read
    AFTER_HEADERS = "after_headers"  # status and headers went out, no body
    AFTER_CHUNKS = "after_chunks"  # like `cut_after_chunks`, by reset


@dataclass(frozen=True, slots=True)
class Behavior:
    """How an answer is given. The default is a provider at its best."""

    status: int = 200
    body: object = None  # instead of the provider's own body: text as it is, anything else as JSON
    headers: Mapping[str, str] = field(default_factory=dict)  # added to the answer
    retry_after: int | None = None  # seconds; the `retry-after` header
    first_byte_delay_ms: int = 0
    chunk_delay_ms: int = 0
    chunks: int = 5  # pieces of text of a streamed answer; a plain body with delays or cuts comes in as many
    cut_after_chunks: int | None = None  # the connection is closed after so many pieces of text
    error_event_after_chunks: int | None = None  # the provider's own error event, then a clean end
    no_usage: bool = False
    reset: Reset | None = None
    gzip: bool = False
    crlf: bool = False  # event lines end in CR LF
    no_last_newline: bool = False  # the last event is not followed by its empty line
    split_bytes: int | None = None  # the body comes in writes of so many bytes
    hold_open_until: str | None = None  # waits for POST /mock/release/<name>
    hold_after_chunks: int | None = None  # where it waits: after so many pieces of text; before the headers if absent
    model: str | None = None  # the model the answer names, if not the requested one
    service_tier: str | None = None
    tool_calls: int = 0  # how many tools the answer calls: those the request declares, in turn
    like_mistral: bool = False  # a chat stream has usage on its last chunk, asked for or not, and whole tool calls


@dataclass(frozen=True, slots=True)
class _Rule:
    """What one key may hold."""

    holds: Callable[[object], bool]
    expected: str


def _integer(low: int, high: int) -> _Rule:
    return _Rule(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
        f"an integer from {low} to {high}",
    )


def _is_header(pair: tuple[object, object]) -> bool:
    name, value = pair
    return (
        isinstance(name, str)
        and isinstance(value, str)
        and re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) is not None
        and re.fullmatch(r"[\t\x20-\x7e]*", value) is not None
    )


_FLAG = _Rule(lambda value: isinstance(value, bool), "true or false")
_TEXT = _Rule(lambda value: isinstance(value, str) and value != "", "a text")

_RULES: dict[str, _Rule] = {
    "status": _integer(200, 599),
    "body": _Rule(lambda _: True, "anything"),
    "headers": _Rule(
        lambda value: isinstance(value, dict) and all(map(_is_header, value.items())),
        "an object of header names and texts",
    ),
    "retry_after": _integer(0, _DELAY_MAX_MS),
    "first_byte_delay_ms": _integer(0, _DELAY_MAX_MS),
    "chunk_delay_ms": _integer(0, _DELAY_MAX_MS),
    "chunks": _integer(1, _COUNT_MAX),
    "cut_after_chunks": _integer(0, _COUNT_MAX),
    "error_event_after_chunks": _integer(0, _COUNT_MAX),
    "no_usage": _FLAG,
    "reset": _Rule(lambda value: isinstance(value, str) and value in set(Reset), "one of " + ", ".join(Reset)),
    "gzip": _FLAG,
    "crlf": _FLAG,
    "no_last_newline": _FLAG,
    "split_bytes": _integer(1, _COUNT_MAX),
    "hold_open_until": _TEXT,
    "hold_after_chunks": _integer(0, _COUNT_MAX),
    "model": _TEXT,
    "service_tier": _TEXT,
    "tool_calls": _integer(0, 128),
    "like_mistral": _FLAG,
}
_DEFAULT = Behavior()


def behavior_for(header: str | None) -> Behavior:
    """Read the header. Raises `MockRequestError` naming the key at fault and what would be right."""
    if header is None:
        return _DEFAULT
    try:
        given = json.loads(header)
    except ValueError as error:
        raise MockRequestError(f'{HEADER}: not JSON ({error}); write {{"status": 500}}') from error
    if not isinstance(given, dict):
        raise MockRequestError(f'{HEADER}: not an object; write {{"status": 500}}')
    for name, value in given.items():
        rule = _RULES.get(name)
        if rule is None:
            raise MockRequestError(f"{HEADER}: unknown key {name!r}; known are {', '.join(_RULES)}")
        if not rule.holds(value):
            raise MockRequestError(f"{HEADER}: {name} must be {rule.expected}, not {value!r}")
    behavior = replace(_DEFAULT, **given)
    if behavior.reset is not None:
        behavior = replace(behavior, reset=Reset(behavior.reset))
    if behavior.reset is Reset.AFTER_CHUNKS and behavior.cut_after_chunks is None:
        raise MockRequestError(f"{HEADER}: reset after_chunks needs cut_after_chunks, to say after how many")
    return behavior
