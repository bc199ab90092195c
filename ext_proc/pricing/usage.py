"""The normal form of usage, the rates that price it, and the one product that joins them.

Every priced unit a provider reports lands in exactly one field of `Usage`, so cost is a dot product. The fields of
`Rates` carry the same names; a rate is integer pico-dollars (1e-12 USD) per unit, because 3 % of public rates do not
fall on the nano-dollar grid. A charge is rounded once, half up, to integer nano-dollars (1e-9 USD).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from operator import attrgetter, mul

PICODOLLARS_PER_NANODOLLAR = 1_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Disjoint counts of one attempt. `reasoning` is the one exception: it tells how much of `output` was reasoning."""

    input_uncached: int = 0
    cache_read: int = 0
    cache_read_audio: int = 0
    cache_read_image: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    audio_in: int = 0
    image_in: int = 0
    video_in: int = 0
    tool_prompt: int = 0
    output: int = 0
    reasoning: int = 0
    audio_out: int = 0
    image_out: int = 0
    video_out: int = 0
    searches: int = 0
    requests: int = 0
    served_ms: int = 0  # how long the request was served; known only where a price asks for it
    audio_ms: int = 0  # of recordings that were read, where they are billed by their length
    characters: int = 0  # of text that was spoken, where it is billed by that
    images: int = 0  # that were made, where they are billed one by one

    @property
    def input_tokens(self) -> int:
        """Everything the model read, cached or not: what an input-token budget counts."""
        return (
            self.input_uncached
            + self.cache_read
            + self.cache_read_audio
            + self.cache_read_image
            + self.cache_write_5m
            + self.cache_write_1h
            + self.audio_in
            + self.image_in
            + self.video_in
            + self.tool_prompt
        )

    @property
    def output_tokens(self) -> int:
        """Everything the model wrote, reasoning included: what an output-token budget counts."""
        return self.output + self.audio_out + self.image_out + self.video_out

    def counts(self) -> dict[str, int]:
        """The fields that are not zero, by name: the shape the journal keeps."""
        return {name: value for name, value in zip(USAGE_FIELDS, _EVERY_FIELD(self), strict=True) if value}


NO_USAGE = Usage()

USAGE_FIELDS: tuple[str, ...] = tuple(field.name for field in fields(Usage))

_EVERY_FIELD = attrgetter(*USAGE_FIELDS)
_SUMMED = attrgetter(*(name for name in USAGE_FIELDS if name != "reasoning"))  # which is part of `output`

UNITS = frozenset({"audio_ms", "characters", "images"})
"""What some models are billed by instead of tokens."""

NOT_TOKENS = UNITS | {"searches", "requests", "served_ms"}
"""What is counted per answer, whatever it was made of."""


def sum_tokens(answer: Usage, inferences: Iterable[Usage]) -> Usage:
    """An answer whose tokens are those of its inferences together."""
    listed = tuple(inferences)
    tokens = (name for name in USAGE_FIELDS if name not in NOT_TOKENS)
    return replace(answer, **{name: sum(getattr(one, name) for one in listed) for name in tokens})


@dataclass(frozen=True, slots=True)
class Rates:
    """Pico-dollars per unit of each usage field.

    `reasoning` is the rate of reasoning tokens *where it differs from `output`*: None means output like any other.
    """

    input_uncached: int = 0
    cache_read: int = 0
    cache_read_audio: int = 0
    cache_read_image: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    audio_in: int = 0
    image_in: int = 0
    video_in: int = 0
    tool_prompt: int = 0
    output: int = 0
    reasoning: int | None = None
    audio_out: int = 0
    image_out: int = 0
    video_out: int = 0
    searches: int = 0
    requests: int = 0
    served_ms: int = 0
    audio_ms: int = 0
    characters: int = 0
    images: int = 0


def picodollars(usage: Usage, rates: Rates) -> int:
    """Σ usage × rate, exact."""
    total: int = sum(map(mul, _SUMMED(usage), _SUMMED(rates)))
    if rates.reasoning is not None and usage.reasoning:
        total += usage.reasoning * (rates.reasoning - rates.output)
    return total


def nanodollars(total_picodollars: int) -> int:
    """Rounded half up."""
    return (total_picodollars + PICODOLLARS_PER_NANODOLLAR // 2) // PICODOLLARS_PER_NANODOLLAR


def charge_nanodollars(usage: Usage, rates: Rates) -> int:
    """Σ usage × rate, rounded half up to a nano-dollar, once."""
    return nanodollars(picodollars(usage, rates))
