"""How targets have been doing lately, as every worker knows it. Pure: the counts come from Redis, time as a value.

Attempts are counted in slices of ten seconds. A target is unhealthy after two failures (5xx, 408, 429, 401, 403, no
answer) within two minutes, or where it is slower than its `sla_cutoff` allows; it recovers as those slices pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

SLICE_SECONDS: Final = 10
KEPT_SECONDS: Final = 600
"""Slices older than this are forgotten: the longest window a condition can look back over."""

HEALTH_WINDOW_SECONDS: Final = 120
FAILURES_UNHEALTHY: Final = 2
SAMPLES_MIN: Final = 3
"""Fewer timings than this say nothing about how fast a target is."""

_FAILED_STATUSES: Final = frozenset({401, 403, 408, 429})
_SERVER_ERROR: Final = 500
_TTFT_FIRST_MS: Final = 10
_TTFT_GROWTH: Final = 1.25
TTFT_CLASSES: Final = 40
"""Times to first token are counted in classes, each a quarter wider than the one before: 10 ms to about a minute."""


def is_failure(status: int) -> bool:
    """Whether an answer with this status counts against its target. 0: no answer came."""
    return status == 0 or status >= _SERVER_ERROR or status in _FAILED_STATUSES


def ttft_class(ttft_ms: float) -> int:
    """The class of a time to first token."""
    bound, index = float(_TTFT_FIRST_MS), 0
    while ttft_ms > bound and index < TTFT_CLASSES - 1:
        bound *= _TTFT_GROWTH
        index += 1
    return index


def ttft_bound_ms(index: int) -> int:
    """The upper bound of a class."""
    return round(_TTFT_FIRST_MS * _TTFT_GROWTH**index)


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened to a target within some time. Sums, so that slices add up."""

    attempts: int = 0
    failures: int = 0
    ttft_ms: int = 0
    ttft_samples: int = 0
    output_us: int = 0  # time spent writing `output_tokens`
    output_tokens: int = 0
    ttft_classes: Mapping[int, int] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        classes = dict(self.ttft_classes)
        for index, count in other.ttft_classes.items():
            classes[index] = classes.get(index, 0) + count
        return Counts(
            self.attempts + other.attempts,
            self.failures + other.failures,
            self.ttft_ms + other.ttft_ms,
            self.ttft_samples + other.ttft_samples,
            self.output_us + other.output_us,
            self.output_tokens + other.output_tokens,
            classes,
        )

    @property
    def error_rate(self) -> float | None:
        """Failed share of the attempts; None without any."""
        return self.failures / self.attempts if self.attempts else None

    @property
    def mean_ttft_ms(self) -> float | None:
        """Mean time to first token; None with too few samples."""
        return self.ttft_ms / self.ttft_samples if self.ttft_samples >= SAMPLES_MIN else None

    @property
    def time_per_output_token_ms(self) -> float | None:
        """Mean time per output token; None with too few answers to tell."""
        if self.ttft_samples < SAMPLES_MIN or not self.output_tokens:
            return None
        return self.output_us / self.output_tokens / 1_000

    @property
    def ttft_p95_ms(self) -> int | None:
        """95th percentile of time to first token, as the upper bound of its class; None with too few samples."""
        total = sum(self.ttft_classes.values())
        if total < SAMPLES_MIN:
            return None
        seen = 0
        for index in sorted(self.ttft_classes):
            seen += self.ttft_classes[index]
            if seen * 100 >= total * 95:
                return ttft_bound_ms(index)
        return None


@dataclass(frozen=True, slots=True)
class Health:
    """Every target's slices: slice number (seconds // SLICE_SECONDS) → target → counts. `now_s` is Redis time."""

    slices: Mapping[int, Mapping[str, Counts]] = field(default_factory=dict)
    now_s: int = 0
    _summed: dict[tuple[str, int], Counts] = field(default_factory=dict, compare=False, repr=False)

    def counts(self, target: str, window_seconds: int = HEALTH_WINDOW_SECONDS) -> Counts:
        """What happened to a target within the window, the slice it began in included."""
        key = (target, window_seconds)
        known = self._summed.get(key)
        if known is None:
            first = (self.now_s - window_seconds) // SLICE_SECONDS
            known = Counts()
            for number, targets in self.slices.items():
                if number >= first and target in targets:
                    known += targets[target]
            self._summed[key] = known
        return known

    def targets(self) -> tuple[str, ...]:
        """Every target that something is known of, sorted."""
        return tuple(sorted({target for targets in self.slices.values() for target in targets}))

    def has_failed(self, target: str) -> bool:
        """Whether it failed too often lately."""
        return self.counts(target).failures >= FAILURES_UNHEALTHY

    def is_slow(self, target: str, *, ttft_ms: int | None, time_per_output_token_ms: int | None) -> bool:
        """Whether it is slower than a cutoff allows; None allows everything."""
        counts = self.counts(target)
        measured = ((counts.mean_ttft_ms, ttft_ms), (counts.time_per_output_token_ms, time_per_output_token_ms))
        return any(mean is not None and cutoff is not None and mean > cutoff for mean, cutoff in measured)


NOTHING_KNOWN: Final = Health()
