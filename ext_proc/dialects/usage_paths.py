"""Which JSON path of a response feeds which count: one table per dialect, read by two parsers.

Our meters follow the tables in Python; the configuration of Envoy's native filters is generated from the same ones
(`json_to_metadata` and `sse_to_metadata` take exactly such paths). A count is what the provider reports, under a name
of ours; the dialect's `usage_from_counts` turns the counts into the disjoint normal form, whoever read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

COUNT_MAX = 1 << 40
"""A count beyond this is a broken provider, not usage: it is treated as absent."""


@dataclass(frozen=True, slots=True)
class CountPath:
    """The integer at `path` of a response document (or of one event of a stream) is the count `count`.

    An element `key=value` stands for the first entry of an array whose `key` is `value`.
    """

    count: str
    path: tuple[str, ...]

    @property
    def is_native(self) -> bool:
        """Whether Envoy's filters can follow the path: they know objects only."""
        return not any("=" in element for element in self.path)


@dataclass(frozen=True, slots=True)
class UsageTable:
    """What is read from a response. All counts are cumulative: a later value overwrites, nothing is ever added.

    Where several paths feed one count, the one that stands later in the table wins within one document.
    """

    root: str  # the key of the object that holds the counts: what a fragment is searched for
    counts: tuple[CountPath, ...]
    served_model: tuple[tuple[str, ...], ...] = (("model",),)
    service_tier: tuple[tuple[str, ...], ...] = ()
    geo: tuple[tuple[str, ...], ...] = ()

    by_place: tuple[tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]], ...] = field(init=False)
    """The same counts by the place of the object that holds them, the root key included: (place, (count, rest) …)."""

    is_native: bool = field(init=False)
    """Whether Envoy's filters can follow every path."""

    def __post_init__(self) -> None:
        places: dict[tuple[str, ...], list[tuple[str, tuple[str, ...]]]] = {}
        for entry in self.counts:
            cut = entry.path.index(self.root) + 1 if self.root in entry.path[:-1] else len(entry.path) - 1
            places.setdefault(entry.path[:cut], []).append((entry.count, entry.path[cut:]))
        object.__setattr__(self, "is_native", all(entry.is_native for entry in self.counts))
        object.__setattr__(self, "by_place", tuple((place, tuple(entries)) for place, entries in places.items()))

    @property
    def texts(self) -> tuple[tuple[str, ...], ...]:
        """Where what is not a count stands: model, service tier, place."""
        return (*self.served_model, *self.service_tier, *self.geo)

    def prefixes(self) -> tuple[tuple[str, ...], ...]:
        """The distinct places where the usage object may stand, the root key included."""
        return tuple(place for place, _ in self.by_place if place and place[-1] == self.root)


def native_key(path: tuple[str, ...]) -> str:
    """The metadata key of what Envoy's filters found at a path. It is the path: what count it is, the dialect knows."""
    return ".".join(path)


def native_document(reported: Mapping[str, object]) -> dict[str, object]:
    """The part of an answer that Envoy's filters found, by `native_key`, as the document it stood in.

    They give a number or a text as it is, and the object of a streamed event as JSON text.
    """
    document: dict[str, object] = {}
    for key, value in reported.items():
        *above, last = key.split(".")
        place = document
        for name in above:
            inner = place.setdefault(name, {})
            if not isinstance(inner, dict):
                break
            place = inner
        else:
            place[last] = _object(value)
    return document


def _object(value: object) -> object:
    if not isinstance(value, str) or not value.startswith("{"):
        return value
    try:
        return orjson.loads(value)
    except ValueError:
        return value


def paths(count_paths: Mapping[str, str], *, below: str) -> tuple[CountPath, ...]:
    """Count paths from dotted text, all below one dotted prefix ("" for none)."""
    prefix = tuple(below.split(".")) if below else ()
    return tuple(CountPath(count, (*prefix, *dotted.split("."))) for count, dotted in count_paths.items())


def dig(document: object, path: tuple[str, ...]) -> object:
    """The value at a path, None where there is none."""
    for key in path:
        if isinstance(document, dict):
            document = document.get(key)
        elif isinstance(document, list):
            field, _, wanted = key.partition("=")
            document = next((item for item in document if isinstance(item, dict) and item.get(field) == wanted), None)
        else:
            return None
    return document


def as_count(value: object) -> int | None:
    """A reported number as a count. Some servers write 12.0; anything that is not a plausible count is absent."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and 0 <= value <= COUNT_MAX:
        return value
    return None
