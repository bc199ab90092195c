"""What every provider API module offers to the HTTP edge and, as an oracle, to tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import orjson

from ext_proc.mock_provider.behavior import Behavior
from ext_proc.mock_provider.counts import Counts

CREATED = 1_767_225_600
"""Every answer claims to be made at 2026-01-01T00:00:00Z: the same request gives the same bytes."""

_WORDS = ("amber ", "birch ", "cedar ", "delta ", "ember ", "fjord ", "grove ", "heath ")
_TEXT_TOKENS_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read. `id` is 24 hex digits that differ from call to call.

    What an API says in its path (the model, whether to stream) stands in the document, where others have it.
    """

    document: Mapping[str, object]
    counts: Counts
    behavior: Behavior
    id: str

    @property
    def model(self) -> str:
        """The model the answer names."""
        return self.behavior.model or str(self.document["model"])

    @property
    def visible_tokens(self) -> int:
        """The output tokens that are no reasoning: what text is made for."""
        return max(0, self.counts.output - self.counts.reasoning)


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One server-sent event. `text` marks the pieces of generated text: what `*_after_chunks` counts.

    `framed`: the data is what goes over the wire, in a stream that is not one of server-sent events.
    """

    data: bytes
    name: str | None = None
    text: bool = False
    framed: bool = False

    def encode(self, newline: bytes = b"\n") -> bytes:
        """As it goes over the wire, with the empty line that ends it."""
        if self.framed:
            return self.data
        head = b"" if self.name is None else b"event: " + self.name.encode() + newline
        return head + b"data: " + self.data + newline + newline


class Shape(Protocol):
    """One provider API."""

    @property
    def path(self) -> re.Pattern[str]:
        """Where requests are posted, query string included: to be matched as a whole.

        The groups `model` and `stream` are what the path says of them; such a path names its model always.
        """
        ...

    def check(self, document: Mapping[str, object]) -> None:
        """Raise `MockRequestError` where the provider would answer 400."""
        ...

    def output_limit(self, document: Mapping[str, object]) -> int | None:
        """All the output tokens the request allows."""
        ...

    def plain(self, call: Call) -> dict[str, object]:
        """The body of an answer that is not streamed."""
        ...

    def stream(self, call: Call) -> list[StreamEvent]:
        """The events of a streamed answer."""
        ...

    def error(self, status: int, message: str) -> dict[str, object]:
        """The provider's error body."""
        ...

    def error_event(self, call: Call, message: str) -> StreamEvent:
        """The provider's error inside a stream."""
        ...

    def stream_type(self, call: Call) -> str:
        """The content type of a streamed answer."""
        ...

    def headers(self, call_id: str) -> dict[str, str]:
        """Response headers the provider always sends."""
        ...


SSE = "text/event-stream; charset=utf-8"


def exactly(path: str) -> re.Pattern[str]:
    """A path that says nothing of model or streaming, with or without a query string."""
    return re.compile(re.escape(path) + r"(?:\?.*)?")


def event(document: Mapping[str, object], *, name: str | None = None, text: bool = False) -> StreamEvent:
    """A server-sent event with a JSON object as data."""
    return StreamEvent(orjson.dumps(document), name, text)


@lru_cache(maxsize=256)
def output_text(tokens: int) -> str:
    """The text of so many output tokens: one six-letter word each, the same for every call."""
    count = min(tokens, _TEXT_TOKENS_MAX)
    repeats = count // len(_WORDS) + 1
    return "".join((_WORDS * repeats)[:count])


@lru_cache(maxsize=256)
def text_pieces(tokens: int, pieces: int) -> tuple[str, ...]:
    """`output_text(tokens)` in so many pieces, or one per token where there are fewer; none is empty."""
    text = output_text(tokens)
    pieces = min(pieces, max(1, tokens))
    bounds = [len(text) * piece // pieces for piece in range(pieces + 1)]
    return tuple(text[start:end] for start, end in pairwise(bounds) if end > start)
