"""How many tokens an answer reports: as the `x-mock-usage` header says, else derived from the body.

Counts are disjoint, like `pricing.usage.Usage`: `input` is what was read uncached, `cache_read` and the `cache_write`s
come on top; `reasoning` alone is a part of another count, `output`. Each provider module adds them up the way its
provider does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

from ext_proc.mock_provider.errors import MockRequestError

HEADER = "x-mock-usage"
MAX = "max"

DEFAULT_OUTPUT_TOKENS = 16
_BYTES_PER_TOKEN = 4
_COUNT_MAX = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Counts:
    """Token counts of one answer."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0  # at the five-minute rate, where the provider tells them apart
    cache_write_1h: int = 0
    reasoning: int = 0  # part of output
    audio_in: int = 0
    audio_out: int = 0
    image_in: int = 0
    image_out: int = 0
    audio_ms: int = 0  # the length of a recording, where it is billed by that
    searches: int = 0


_NAMES = tuple(field.name for field in fields(Counts))


def counts_for(header: str | None, document: Mapping[str, object], output_limit: int | None) -> Counts:
    """The counts of one answer. `output_limit` is all the output the request allows, None where it sets no limit.

    Without a header: input = the bytes of all text in the body ÷ 4, output = 16 tokens or the limit if that is less. In
    the header `"output": "max"` means the limit; other counts are reported as given, even past the limit, so that a
    provider that breaks its promise can be played. Raises `MockRequestError` naming the key at fault.
    """
    limit = DEFAULT_OUTPUT_TOKENS if output_limit is None else output_limit
    counts = {} if header is None else _asked(header, limit)
    if "input" not in counts:
        counts["input"] = max(1, text_bytes(document) // _BYTES_PER_TOKEN)
    counts.setdefault("output", min(DEFAULT_OUTPUT_TOKENS, limit))
    return Counts(**counts)


def text_bytes(value: object) -> int:
    """UTF-8 bytes of every text inside a JSON value; keys do not count."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return sum(text_bytes(inner) for inner in value.values())
    if isinstance(value, list):
        return sum(text_bytes(inner) for inner in value)
    return 0


def _asked(header: str, limit: int) -> dict[str, int]:
    try:
        given = json.loads(header)
    except ValueError as error:
        raise MockRequestError(f'{HEADER}: not JSON ({error}); write {{"input": 10, "output": 5}}') from error
    if not isinstance(given, dict):
        raise MockRequestError(f'{HEADER}: not an object; write {{"input": 10, "output": 5}}')
    counts: dict[str, int] = {}
    for name, count in given.items():
        if name not in _NAMES:
            raise MockRequestError(f"{HEADER}: unknown count {name!r}; known are {', '.join(_NAMES)}")
        if name == "output" and count == MAX:
            counts[name] = limit
        elif isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _COUNT_MAX:
            raise MockRequestError(f"{HEADER}: {name} must be an integer from 0 to {_COUNT_MAX}, not {count!r}")
        else:
            counts[name] = count
    return counts
