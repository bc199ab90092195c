"""What is read from a response: the shape of a dialect's responses as data, and the tally of what was found.

Most bytes of a stream are only searched with compiled patterns. JSON escapes every quote inside a string, so an
unescaped `"usage": {` is always structure, never text that a model wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from json import JSONDecoder

import orjson

from ext_proc.dialects.buffer import BoundedBuffer
from ext_proc.dialects.ending import Ending
from ext_proc.dialects.interface import Part, Reading
from ext_proc.dialects.usage_paths import UsageTable, as_count, dig
from ext_proc.pricing.usage import Usage, sum_tokens

_CANDIDATES = 8  # how many usage objects of a fragment are tried, from the last
_MODEL = re.compile(rb'"model(?:Version)?"\s*:\s*"([^"\\]+)"')
_OBJECT = JSONDecoder()

_HIGH_SURROGATE = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_CUT_ESCAPE = re.compile(rb"(?:" + _HIGH_SURROGATE + rb")?(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z")


def text_keys(*keys: str) -> tuple[bytes, ...]:
    """Keys whose string values are generated text, as they stand in raw JSON."""
    return tuple(f'"{key}"'.encode() for key in keys)


_TEXT_VALUE = re.compile(rb'\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)(?:"|\\?\Z)')
"""What follows a text key: a string, escapes left as they are; one cut off by the end counts too."""


@dataclass(frozen=True, slots=True)
class Needle:
    """A pattern that is looked for only where a literal part of it is: most blocks end with that."""

    literal: bytes
    pattern: re.Pattern[bytes]

    def is_in(self, block: bytes) -> bool:
        """Whether the pattern is in the block."""
        return self.literal in block and self.pattern.search(block) is not None


NEVER = Needle(b"\0", re.compile(rb"(?!)"))
"""Matches nothing: for responses without an end of their own."""


def object_at(key: str) -> Needle:
    """An object at this key in raw JSON."""
    quoted = f'"{key}"'.encode()
    return Needle(quoted, re.compile(re.escape(quoted) + rb"\s*:\s*\{"))


@dataclass(frozen=True, slots=True)
class ResponseShape:
    """What a dialect's responses look like, as data."""

    table: UsageTable
    usage_from_counts: Callable[[Mapping[str, int]], Usage]
    output_count: str | None  # the count without which the output is not known; None: there is no output
    text: tuple[bytes, ...]  # `text_keys` of generated text
    terminal: Needle  # the dialect's own end of stream, in raw bytes
    watched: Needle  # a block without it cannot hold usage
    usage_only: Callable[[Mapping[str, object]], bool] = lambda _: False  # an event that holds nothing but usage
    body_text: tuple[bytes, ...] | None = None  # `text` for a plain body, where it differs from a stream's
    more_counts: Callable[[Mapping[str, object]], Mapping[str, int]] = lambda _: {}  # what no path can say
    parts: Callable[[Mapping[str, object]], tuple[Part, ...]] = lambda _: ()  # inferences that are billed one by one
    media: Mapping[str, int] = field(
        default_factory=dict
    )  # bytes per token of recordings, by type, the usual one first
    ending: Ending | None = None  # how its streams are ended before they are over; None: they cannot be


class Tally:
    """What was read so far."""

    __slots__ = ("_counts", "_parts", "_shape", "finished", "geo", "output_bytes", "served_model", "service_tier")

    def __init__(self, shape: ResponseShape) -> None:
        self._shape = shape
        self._counts: dict[str, int] = {}
        self.output_bytes = 0
        self.finished = False
        self.served_model: str | None = None
        self.service_tier: str | None = None
        self.geo: str | None = None
        self._parts: tuple[Part, ...] = ()

    @property
    def has_counts(self) -> bool:
        """Whether the provider reported any."""
        return bool(self._counts)

    def take(self, document: Mapping[str, object]) -> None:
        """Overwrite with what this document reports."""
        table = self._shape.table
        for prefix, entries in table.by_place:
            place = dig(document, prefix)
            if not isinstance(place, dict):
                continue
            for name, path in entries:
                value = place.get(path[0])
                if value is not None and (count := as_count(dig(value, path[1:]))) is not None:
                    self._counts[name] = count
        self._counts.update(self._shape.more_counts(document))
        self.served_model = _text_at(document, table.served_model) or self.served_model
        self.service_tier = _text_at(document, table.service_tier) or self.service_tier
        self.geo = _text_at(document, table.geo) or self.geo
        self._parts = self._shape.parts(document) or self._parts

    def take_fragment(self, buffer: BoundedBuffer) -> None:
        """Read the usage out of the ends of something too large to keep whole."""
        shape = self._shape
        model = _MODEL.search(buffer.head())
        if model and self.served_model is None:
            self.served_model = model.group(1).decode("utf-8", "replace")
        for end in (buffer.tail(), buffer.head()):
            usage = _last_object(shape.watched.pattern, end)
            if usage is not None:
                for prefix in shape.table.prefixes():
                    self.take(_nest(prefix, usage))
                return

    def count_text(self, block: bytes, *, body: bool = False) -> int:
        """The bytes of generated text in raw JSON; `body` says that it is a plain answer, not a stream."""
        shape, total = self._shape, 0
        for key in (shape.body_text or shape.text) if body else shape.text:
            at = block.find(key)
            while at >= 0:
                after = at + len(key)
                if match := _TEXT_VALUE.match(block, after):
                    text = match[1]
                    total += len(text) if b"\\" not in text else _unescaped_bytes(text)
                    after = match.end()
                at = block.find(key, after)
        return total

    def reading(self, *, more_output_bytes: int = 0) -> Reading:
        """The tally as the rest of Tollgate reads it."""
        wanted = self._shape.output_count
        usage = self._shape.usage_from_counts(self._counts) if self._counts else None
        parts = self._parts
        if usage is not None and parts:
            summed = sum_tokens(usage, [part.usage for part in parts])
            if summed.output >= usage.output:
                usage = summed
            else:
                parts = ()  # the totals have moved on since the parts were told
        return Reading(
            usage=usage,
            output_known=bool(self._counts) if wanted is None else wanted in self._counts,
            output_bytes=self.output_bytes + more_output_bytes,
            finished=self.finished,
            served_model=self.served_model,
            service_tier=self.service_tier,
            geo=self.geo,
            parts=parts,
        )


def decoded(data: bytes) -> dict[str, object] | None:
    """An object in JSON, None for anything else."""
    found = decoded_all(data)
    return found[0] if found and len(found) == 1 else None


def decoded_all(data: bytes) -> list[dict[str, object]] | None:
    """An object in JSON, or an array of them (a stream may come as one); None for anything else."""
    try:
        document = orjson.loads(data)
    except ValueError:
        return None
    documents = document if isinstance(document, list) else [document]
    return documents if documents and all(isinstance(item, dict) for item in documents) else None


def _text_at(document: object, places: tuple[tuple[str, ...], ...]) -> str | None:
    for path in places:
        value = dig(document, path)
        if isinstance(value, str) and value:
            return value
    return None


def _last_object(pattern: re.Pattern[bytes], data: bytes) -> dict[str, object] | None:
    """The last object that follows the pattern and is whole."""
    for match in list(pattern.finditer(data))[: -_CANDIDATES - 1 : -1]:
        text = data[match.end() - 1 :].decode("utf-8", "replace")
        try:
            found, _ = _OBJECT.raw_decode(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    return None


def _nest(path: tuple[str, ...], value: dict[str, object]) -> dict[str, object]:
    for key in reversed(path):
        value = {key: value}
    return value


def _unescaped_bytes(text: bytes) -> int:
    """The UTF-8 bytes of a JSON string's inside, also where a cut left half an escape or character at its end."""
    try:
        decoded = orjson.loads(b'"' + text + b'"')
    except ValueError:
        whole = _CUT_ESCAPE.sub(b"", text).decode("utf-8", "ignore").encode()
        try:
            decoded = orjson.loads(b'"' + whole + b'"')
        except ValueError:
            return len(text)
    return len(decoded.encode()) if isinstance(decoded, str) else len(text)
