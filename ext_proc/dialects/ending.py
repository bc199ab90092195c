"""How a stream of events is ended before it is over, so that the caller's SDK sees an answer that reached its limit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CutPoint:
    """Where a stream is ended: the events of it that its end must fit to, and what is known of its usage.

    `opening` and `latest` are what the patterns of `Ending` found, decoded. `shows_usage`: the caller expects to be
    told the usage where the dialect makes that a choice.
    """

    opening: Mapping[str, object] | None
    latest: Mapping[str, object]
    choices: int
    input_tokens: int
    output_tokens: int
    shows_usage: bool


@dataclass(frozen=True, slots=True)
class Ending:
    """A dialect's own end of a stream, as data.

    `latest` finds the events that say where the stream is, `opening` the one that it began with (None: not needed).
    `write` gives the events of the end; None where the stream is about to end by itself, or cannot be ended here.
    """

    latest: re.Pattern[bytes]
    write: Callable[[CutPoint], bytes | None]
    opening: re.Pattern[bytes] | None = None
