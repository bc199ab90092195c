"""Taking secrets out of what is logged: of texts, of JSON bodies whole or cut, of event streams. Pure, linear in size.

Nothing is cut before it was searched: what stands at the end of a piece that is not the whole is left out, far enough
that no beginning of a secret stays which its end would have told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

import orjson

from ext_proc.exchange.compact import compact
from ext_proc.policy.patterns import Pattern, compile_pattern
from ext_proc.policy.secret_shapes import GUARDED_NAME, WHOLE_SECRETS

REDACTED: Final = "[redacted]"

BEYOND_BYTES: Final = 1024
"""How much past the end of what is kept is searched: the 112 characters a secret is known by, each escaped."""

_TAIL_CHARS: Final = 128
_KNOWN_CHARS_MIN: Final = 8  # a shorter "secret" is a placeholder
_STREAM_PATHS_MAX: Final = 256

_LITERAL: Final = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_IS_NAME: Final = re.compile(r"\s*:")
_CUT_ESCAPE: Final = re.compile(r"\\u[0-9a-fA-F]{0,3}$")

_INDICES: Final = ("output_index", "content_index", "index")
_TEXT_NAMES: Final = frozenset(
    {
        *("content", "text", "delta", "message", "refusal", "name", "input"),
        *("thinking", "reasoning", "reasoning_content", "arguments", "partial_json", "transcript"),
    }
)
"""The fields by which the dialects' events write an answer; ids, models and signatures are none."""


class Redacted(NamedTuple):
    """What is written of a body, and whether that is all of it."""

    text: str
    whole: bool


class Redactor:
    """Takes out the shapes of secrets, `patterns` of the policy, and the secrets that are `known` by heart."""

    def __init__(self, patterns: tuple[Pattern, ...] = (), known: tuple[str, ...] = ()) -> None:
        self._patterns = patterns
        self._known = tuple(secret for secret in known if len(secret) >= _KNOWN_CHARS_MIN)

    def text(self, text: str, limit: int | None = None) -> str:
        """The text, up to `limit` of its characters. A secret that begins before the limit is taken out whole."""
        text = text.encode("utf-8", "replace").decode()  # lone surrogates: no pattern takes them
        end = len(text) if limit is None else limit
        kept: list[str] = []
        at = 0
        for start, stop in _merged([span for span in self._spans(text) if span[0] < end]):
            kept += (text[at:start], REDACTED)
            at = stop
        kept.append(text[at:end])
        return "".join(kept)

    def body(self, body: bytes, max_bytes: int, *, whole: bool) -> Redacted:
        """A body as it is written to the log, at most `max_bytes` of it. `whole` False: more of it came, or was to.

        It need not be JSON; where it is, its texts are searched as they read, not as they are escaped.
        """
        limit_bytes = min(max_bytes, len(body) if whole else max(0, len(body) - BEYOND_BYTES))
        text = body[: limit_bytes + BEYOND_BYTES].decode("utf-8", "replace")
        limit = len(body[:limit_bytes].decode("utf-8", "replace"))
        return Redacted(_bounded("".join(self._pieces(text, limit)), max_bytes), whole and len(body) <= max_bytes)

    def events(self, body: bytes, max_bytes: int, *, whole: bool) -> Redacted:
        """The texts that the events of a stream write, put together: where they stand in the events → the text."""
        kept: dict[str, str] = {}
        left, is_whole = max_bytes, whole
        for path, text in _written(body).items():
            limit = min(left, len(text) if whole else max(0, len(text) - _TAIL_CHARS))
            is_whole &= limit >= len(text)
            redacted = _bounded(self.text(text, limit), left)
            left -= len(redacted.encode())
            if redacted:
                kept[self.text(path)] = redacted
        return Redacted(compact(kept), is_whole)

    def _pieces(self, text: str, limit: int) -> Iterator[str]:
        """The texts of a JSON document and what stands between them, each redacted, up to a place in it."""
        at, is_secret = 0, False
        for match in _LITERAL.finditer(text):
            start, stop = match.span()
            yield self.text(text[at : max(at, start)], max(0, limit - at))
            if start >= limit:
                return
            at = stop
            is_name = _IS_NAME.match(text, stop) is not None
            literal = _decoded(match[0])
            kept = len(literal) if stop <= limit else len(_decoded(text[start:limit]))
            if is_secret and not is_name:
                yield compact(REDACTED)
            else:
                yield compact(self.text(literal, kept))
            is_secret = is_name and _secret_name().fullmatch(_searchable(literal)) is not None
        yield self.text(text[at:], max(0, limit - at))

    def _spans(self, text: str) -> list[tuple[int, int]]:
        patterns = (*_shapes(), *self._patterns) if _any_shape().search(text) is not None else self._patterns
        found = [match.span() for pattern in patterns for match in pattern.finditer(text)]
        for secret in self._known:
            at = text.find(secret)
            while at >= 0:
                found.append((at, at + len(secret)))
                at = text.find(secret, at + 1)
        return [span for span in found if span[0] < span[1]]


def _merged(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same places, none of which touch."""
    current: tuple[int, int] | None = None
    for start, stop in sorted(spans):
        if current is None or start > current[1]:
            if current is not None:
                yield current
            current = start, stop
        else:
            current = current[0], max(current[1], stop)
    if current is not None:
        yield current


def _searchable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _decoded(literal: str) -> str:
    """What a JSON text reads as; one that is cut off, as far as it goes."""
    inner = literal[1:-1] if len(literal) > 1 and literal.endswith('"') else literal[1:]
    for attempt in (inner, _CUT_ESCAPE.sub("", inner), inner.removesuffix("\\")):
        try:
            return str(json.loads(f'"{attempt}"', strict=False))
        except ValueError:
            continue
    return inner  # no JSON: it is searched as it stands


def _bounded(text: str, max_bytes: int) -> str:
    return text.encode()[:max_bytes].decode("utf-8", "ignore")


def _written(body: bytes) -> dict[str, str]:
    """Path → everything the events of a stream wrote there. Events that are no JSON, or not whole, say nothing."""
    parts: dict[str, list[str]] = {}
    for line in body.splitlines():
        if not line.startswith(b"data:"):
            continue
        try:
            event = orjson.loads(line[5:])
        except ValueError:
            continue
        for path, text in _texts(event):
            if path in parts or len(parts) < _STREAM_PATHS_MAX:
                parts.setdefault(path, []).append(text)
    return {path: "".join(texts) for path, texts in parts.items()}


def _texts(event: object) -> Iterator[tuple[str, str]]:
    """The texts of one event, without recursion. What several choices write at the same time stays apart."""
    waiting: list[tuple[str, str, object]] = [("", "", event)]
    while waiting:
        path, name, value = waiting.pop()
        if isinstance(value, str) and name in _TEXT_NAMES:
            yield path, value
        elif isinstance(value, dict):
            index = "".join(f"[{value[key]}]" for key in _INDICES if isinstance(value.get(key), int))
            prefix = f"{path}{index}." if path or index else ""
            waiting += [(f"{prefix}{key}", key, part) for key, part in value.items()]
        elif isinstance(value, list):
            waiting += [
                (
                    path if isinstance(part, dict) and isinstance(part.get("index"), int) else f"{path}[{place}]",
                    name,
                    part,
                )
                for place, part in enumerate(value)
            ]


@lru_cache(maxsize=1)
def _shapes() -> tuple[Pattern, ...]:
    return tuple(compile_pattern(shape) for shape in WHOLE_SECRETS)


@lru_cache(maxsize=1)
def _any_shape() -> Pattern:
    """Whether a text holds any of them: most hold none."""
    return compile_pattern("|".join(f"(?:{shape})" for shape in WHOLE_SECRETS))


@lru_cache(maxsize=1)
def _secret_name() -> Pattern:
    return compile_pattern(GUARDED_NAME)
