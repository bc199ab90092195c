"""What was learned of models from the usage they reported: it sizes holds and estimates, and never a strict hold.

Three figures: bytes of prompt per token and tokens per second of each target, and the length of answers to requests
that name no limit, by target and by the rules the request falls on. Each is counted in logarithmic buckets, so that a
few dozen integers tell any quantile; workers add their counts up in Redis (`server.learning`). Holds take a figure at
its safe end, estimated charges at its middle. Whatever is reported, a figure stays within the bounds below: a stream of
odd answers can neither shrink a hold past its floor nor swell it without end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Final

import orjson

from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger.interface import Basis, Resolution

SAMPLES_MIN: Final = 32
"""Fewer answers than this teach nothing."""

PROMPT_BYTES_MIN: Final = 512
"""Shorter prompts teach no bytes per token: most of their tokens are what the provider adds."""

OUTPUT_TOKENS_MIN: Final = 16
"""Shorter answers teach no speed: most of their time went into reading the prompt."""

HOLD_BYTES_PER_TOKEN_BOUNDS: Final = (1_000, 6_000)
"""Thousandths. At the lower end a hold is what strict admission holds; past the upper one no text in use gets, and a
prompt of blanks, which does, must not make everybody's hold smaller."""

CHARGE_BYTES_PER_TOKEN_BOUNDS: Final = (1_500, 6_000)
TOKENS_PER_SECOND_BOUNDS: Final = (5, 1_000)

OUTPUT_FLOOR_DIVISOR: Final = 4
OUTPUT_CEILING_FACTOR: Final = 16
"""A learned length is never below a quarter of `default_output_tokens`, nor above sixteen times it."""

_SAFE_PERMILLE: Final = 50  # this share of the requests may need more than is held
_MIDDLE_PERMILLE: Final = 500
_TRAFFIC_BYTES: Final = 6
_OK: Final = range(200, 300)


@dataclass(frozen=True, slots=True)
class Scale:
    """Buckets, each wider than the one before it by `growth`. `code` names its figure among the counts of a key."""

    code: str
    first: float
    growth: float
    buckets: int

    def bucket(self, value: float) -> int:
        """The bucket of a value; those beyond the ends go into the last ones."""
        if value <= self.first:
            return 0
        return min(int(math.log(value / self.first) / math.log(self.growth)), self.buckets - 1)

    def low(self, bucket: int) -> int:
        """The least value of a bucket, rounded down."""
        return math.floor(self.first * self.growth**bucket)

    def high(self, bucket: int) -> int:
        """The value at which the next bucket begins, rounded up."""
        return math.ceil(self.first * self.growth ** (bucket + 1))

    def name(self, value: float) -> str:
        """The name of the count that a value belongs to."""
        return f"{self.code}{self.bucket(value)}"

    def counts(self, named: Mapping[str, int]) -> dict[int, int]:
        """The buckets of this figure among the named counts of a key. What is no bucket of ours is passed over."""
        length = len(self.code)
        found = {int(name[length:]): n for name, n in named.items() if name[:length] == self.code and _is_digits(name)}
        return {bucket: n for bucket, n in found.items() if bucket < self.buckets and n > 0}


BYTES_PER_TOKEN_MILLI: Final = Scale("i", 1_000, 1.05, 57)  # 1 to 16 bytes
OUTPUT_TOKENS: Final = Scale("o", 1, 1.1, 124)  # to 130,000 tokens
TOKENS_PER_SECOND: Final = Scale("s", 1, 1.1, 80)  # to 2,000 a second


@dataclass(frozen=True, slots=True)
class Learned:
    """The figures of one key. None: too little is known."""

    hold_bytes_per_token_milli: int | None = None
    charge_bytes_per_token_milli: int | None = None
    tokens_per_second: int | None = None
    output_tokens: int | None = None


NOTHING: Final = Learned()

Key = tuple[str, str]
"""A target and the traffic (`traffic_of`) to it; with traffic `""` everything that goes there."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is known now. A request keeps the calibration it began with, as it keeps its terms."""

    learned: Mapping[Key, Learned] = field(default_factory=dict)

    def of(self, target: str) -> Learned:
        """What is known of a target, whoever asks."""
        return self.learned.get((target, ""), NOTHING)

    def held(self, target: str, traffic: str, default_output_tokens: int) -> Learned:
        """What a hold of a request takes of it.

        The output is that of this traffic, else of all that goes to the target, within its bounds; none for traffic
        `""`, whose output a limit bounds.
        """
        known = self.of(target)
        output = self.learned.get((target, traffic), NOTHING).output_tokens or known.output_tokens
        if not traffic or output is None:
            return replace(known, output_tokens=None) if known.output_tokens else known
        least = max(1, default_output_tokens // OUTPUT_FLOOR_DIVISOR)
        return replace(known, output_tokens=_within(output, (least, default_output_tokens * OUTPUT_CEILING_FACTOR)))


NOTHING_LEARNED: Final[Calibration] = Calibration()


def traffic_of(rule_ids: Iterable[str]) -> str:
    """A short name of the requests that fall on exactly these rules."""
    return blake2b("\x1f".join(sorted(rule_ids)).encode(), digest_size=_TRAFFIC_BYTES).hexdigest()


def learned(named: Mapping[str, int]) -> Learned:
    """The figures that counts tell, by their names (`Scale.name`)."""
    inputs = BYTES_PER_TOKEN_MILLI.counts(named)
    safe, middle = _quantile(inputs, _SAFE_PERMILLE), _quantile(inputs, _MIDDLE_PERMILLE)
    speed = _quantile(TOKENS_PER_SECOND.counts(named), _MIDDLE_PERMILLE)
    output = _quantile(OUTPUT_TOKENS.counts(named), 1_000 - _SAFE_PERMILLE)
    return Learned(
        hold_bytes_per_token_milli=None
        if safe is None
        else _within(BYTES_PER_TOKEN_MILLI.low(safe), HOLD_BYTES_PER_TOKEN_BOUNDS),
        charge_bytes_per_token_milli=None
        if middle is None
        else _within(BYTES_PER_TOKEN_MILLI.low(middle), CHARGE_BYTES_PER_TOKEN_BOUNDS),
        tokens_per_second=None if speed is None else _within(TOKENS_PER_SECOND.low(speed), TOKENS_PER_SECOND_BOUNDS),
        output_tokens=None if output is None else OUTPUT_TOKENS.high(output),
    )


def observed(ticket: Ticket, resolution: Resolution) -> tuple[tuple[Key, str], ...]:
    """What one answer teaches: (key, name of a count), nothing where its usage is not the provider's own."""
    if resolution.basis is not Basis.REPORTED:
        return ()
    ending = orjson.loads(resolution.detail)
    if ending.get("ended") != "complete" or ending.get("status") not in _OK:
        return ()
    charge, key = resolution.charge, (ticket.target, "")
    found: list[tuple[Key, str]] = []
    if ticket.prompt_bytes >= PROMPT_BYTES_MIN and charge.input_tokens:
        per_token_milli = ticket.prompt_bytes * 1_000 / charge.input_tokens
        found.append((key, BYTES_PER_TOKEN_MILLI.name(per_token_milli)))
    duration_ms = ending.get("duration_ms") or 0
    if charge.output_tokens >= OUTPUT_TOKENS_MIN and duration_ms:
        found.append((key, TOKENS_PER_SECOND.name(charge.output_tokens * 1_000 / duration_ms)))
    if ticket.traffic and charge.output_tokens:
        length = OUTPUT_TOKENS.name(charge.output_tokens)
        found += [(key, length), ((ticket.target, ticket.traffic), length)]
    return tuple(found)


def _quantile(counts: Mapping[int, int], permille: int) -> int | None:
    """The bucket of the smallest value that at least so many thousandths of all values do not exceed."""
    total = sum(counts.values())
    if total < SAMPLES_MIN:
        return None
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen * 1_000 >= total * permille:
            return bucket
    raise AssertionError("the whole is not below a part of it")


def _within(value: int, bounds: tuple[int, int]) -> int:
    return max(bounds[0], min(value, bounds[1]))


def _is_digits(name: str) -> bool:
    return name[1:].isascii() and name[1:].isdigit()
