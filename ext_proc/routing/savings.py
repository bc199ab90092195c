"""Savings: which requests a cheaper model serves as well, by what can be measured of them. Pure.

A rule is about a request by its `when`, and by its shape: tokens, tools, images, streaming, the time of day. Where a
rule has a scorer, the request waits for a score; without one in time, the rule decides by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.traits import brings_tools, holds_images
from ext_proc.policy.condition import Condition, holds
from ext_proc.policy.conditions import condition_of
from ext_proc.policy.documents.common import ANYONE
from ext_proc.policy.documents.routing import RoutingDocument
from ext_proc.policy.documents.savings import Hours, Otherwise, RequestShape, Saving, Scorer, ScorerSends, Weekday
from ext_proc.policy.rules import attributes_of
from ext_proc.policy.snapshot import MatchFacts, Snapshot

_DAYS = tuple(Weekday)
_MINUTES_PER_HOUR = 60


@dataclass(frozen=True)
class Measured:
    """What rules can ask of a request. What costs a walk through the body is looked at only where a rule asks."""

    facts: RequestFacts
    now_us: int
    count_input: Callable[[], int]

    @cached_property
    def input_tokens(self) -> int:
        """As estimated."""
        return self.count_input()

    @cached_property
    def tools(self) -> bool:
        """Whether it brings tools."""
        return brings_tools(self.facts)

    @cached_property
    def images(self) -> bool:
        """Whether it holds images, as far as anyone can tell."""
        return holds_images(self.facts)

    @property
    def output_limit(self) -> int | None:
        """The most it may write, all choices together."""
        limit = self.facts.output_limit
        return None if limit is None else limit * self.facts.choices


@dataclass(frozen=True, slots=True)
class SavingRule:
    """One rule, ready to be asked."""

    id: str
    condition: Condition
    shape: RequestShape | None
    scorer: Scorer | None
    swap: Mapping[str, str]
    audit: bool

    def about(self, measured: Measured) -> bool:
        """Whether the request has the shape."""
        return self.shape is None or _fits(self.shape, measured)


@dataclass(frozen=True, slots=True)
class Swap:
    """One rule would send a request to this model."""

    rule: SavingRule
    to: str


@dataclass(frozen=True, slots=True)
class Scored:
    """The scorer of a rule was asked. `score` None: it did not answer in time, or not with a score."""

    rule_id: str
    score: float | None


class Savings:
    """All saving rules of a snapshot, in order."""

    def __init__(self, rules: Sequence[SavingRule], virtual_models: frozenset[str]) -> None:
        self._rules = tuple(rules)
        self._virtual_models = virtual_models

    @classmethod
    def of(cls, snapshot: Snapshot) -> Savings:
        """Compile the `savings` of every routing document."""
        rules = [_compile(rule) for document in snapshot.documents_of(RoutingDocument) for rule in document.savings]
        return cls(rules, snapshot.virtual_models)

    def __bool__(self) -> bool:
        return bool(self._rules)

    @property
    def asks_scorers(self) -> bool:
        """Whether any rule has a scorer."""
        return any(rule.scorer is not None for rule in self._rules)

    def swaps(self, match: MatchFacts, measured: Measured) -> Iterator[Swap]:
        """What the rules that are about a request would have serve it, in order. The facts' target is the one that
        would serve it first.
        """
        attributes = attributes_of(match, self._virtual_models)
        for rule in self._rules:
            named = rule.swap.get(match.requested_model) or rule.swap.get(match.target) or rule.swap.get(ANYONE)
            if named is None or named in {match.requested_model, match.target}:
                continue
            if holds(rule.condition, attributes) and rule.about(measured):
                yield Swap(rule, named)


def agrees(scorer: Scorer, scored: Scored) -> bool:
    """Whether a request is swapped, by its score or for want of one."""
    if scored.score is None:
        return scorer.otherwise is Otherwise.SWAP
    return scored.score >= float(scorer.at_least)


def question(swap: Swap, match: MatchFacts, measured: Measured) -> dict[str, object]:
    """What the scorer of a rule is sent: figures and tags, and the body only where the rule says so."""
    asked: dict[str, object] = {
        "rule": swap.rule.id,
        "model": match.target,
        "cheaper": swap.to,
        "input_tokens": measured.input_tokens,
        "output_limit": measured.output_limit,
        "tools": measured.tools,
        "images": measured.images,
        "stream": measured.facts.stream,
        "tags": dict(match.caller.tags),
    }
    if swap.rule.scorer is not None and swap.rule.scorer.sends is ScorerSends.REQUEST:
        asked["request"] = dict(measured.facts.document)
    return asked


def is_within(hours: Hours, now_us: int) -> bool:
    """Whether a moment lies in these hours. A night belongs to the day on which it begins."""
    local = datetime.fromtimestamp(now_us // 1_000_000, UTC).astimezone(ZoneInfo(hours.timezone))
    day = local
    if hours.from_ is not None and hours.to is not None:
        minute, begin, end = local.hour * _MINUTES_PER_HOUR + local.minute, _minute(hours.from_), _minute(hours.to)
        after_midnight = begin > end and minute < end
        if not (begin <= minute < end if begin < end else minute >= begin or after_midnight):
            return False
        day = local - timedelta(days=1) if after_midnight else local
    return hours.days is None or _DAYS[day.weekday()] in hours.days


def _minute(clock: str) -> int:
    hour, _, minute = clock.partition(":")
    return int(hour) * _MINUTES_PER_HOUR + int(minute)


def _fits(shape: RequestShape, measured: Measured) -> bool:
    """The cheap looks first."""
    facts = measured.facts
    if shape.stream is not None and shape.stream != facts.stream:
        return False
    if shape.hours is not None and not is_within(shape.hours, measured.now_us):
        return False
    if (
        shape.max_output_tokens is not None
        and (measured.output_limit or shape.max_output_tokens + 1) > shape.max_output_tokens
    ):
        return False
    if shape.min_input_tokens is not None and measured.input_tokens < shape.min_input_tokens:
        return False
    if shape.max_input_tokens is not None and measured.input_tokens > shape.max_input_tokens:
        return False
    if shape.tools is not None and shape.tools != measured.tools:
        return False
    return shape.images is None or shape.images == measured.images


def _compile(rule: Saving) -> SavingRule:
    return SavingRule(rule.id, condition_of(rule.when), rule.request, rule.scorer, rule.swap, rule.audit_mode)
