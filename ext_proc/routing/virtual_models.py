"""Virtual models: the name a client asks for, and the chain of targets that may serve it. Pure.

A rule of a `gateway-load-balancing-config` matches on the name as it was requested (and on the caller). Its targets are
put in order once per request: by priority, by weight, or by measured speed; unhealthy ones go to the end. What is drawn
at random is drawn from the hold id, so that the same request is always routed alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from ext_proc.policy.condition import Condition, holds
from ext_proc.policy.conditions import condition_of
from ext_proc.policy.documents.routing import (
    FallbackCondition,
    IdentifierSource,
    LatencyRule,
    PriorityRule,
    RoutingDocument,
    RoutingRule,
    Target,
    WeightRule,
    duration_seconds,
)
from ext_proc.policy.rules import attributes_of
from ext_proc.policy.snapshot import MatchFacts, Snapshot
from ext_proc.routing.health import HEALTH_WINDOW_SECONDS, Health

DEFAULT_FALLBACK_STATUSES: Final = (408, 429, 500, 502, 503, 504)
RESERVED_PARAMS: Final = frozenset({"model", "stream"})
"""What overriding would turn into another request: the model is the target's, streaming is the client's."""


RETRY_DELAY_MAX_MS: Final = 1_000
"""A retry waits so long at most: Envoy gives each answer of ours two seconds."""


class Kind(Enum):
    """How a rule chooses."""

    PRIORITY = auto()
    WEIGHT = auto()
    LATENCY = auto()


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason to leave a target before it fails. Exactly one of the figures is set."""

    error_rate: float | None
    ttft_p95_ms: int | None
    window_seconds: int
    budget_used: int | None = None  # percent: whether it holds, only the ledger knows

    def holds(self, target: str, health: Health) -> bool:
        """Whether the reason is given now, as far as health tells."""
        counts = health.counts(target, self.window_seconds)
        if self.error_rate is not None:
            return counts.error_rate is not None and counts.error_rate >= self.error_rate
        return self.ttft_p95_ms is not None and (counts.ttft_p95_ms or 0) >= self.ttft_p95_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One target of a rule. `tries`: how often it is tried in a row, the first time included."""

    name: str
    weight: int = 0
    priority: int = 0
    tries: int = 1
    retry_delay_ms: int = 0
    statuses: tuple[int, ...] = DEFAULT_FALLBACK_STATUSES  # answers after which the next target is tried
    retry_statuses: tuple[int, ...] = DEFAULT_FALLBACK_STATUSES  # answers after which it is tried once more
    may_follow: bool = True  # whether others may fall back to it
    timeout_ms: int | None = None
    cutoff_ttft_ms: int | None = None
    cutoff_output_token_ms: int | None = None
    override_params: Mapping[str, object] = field(default_factory=dict)
    set_headers: Mapping[str, str] = field(default_factory=dict)
    remove_headers: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()  # a request must have them
    leave_any: tuple[Reason, ...] = ()
    leave_all: tuple[Reason, ...] = ()

    def goes_on_after(self, *, to_itself: bool) -> tuple[int, ...]:
        """The answers after which the next attempt is made. `to_itself`: it is this target's again, and then made for
        the sake of the targets after it too, because Envoy cannot leave one out of a sequence.
        """
        return tuple(sorted({*self.statuses, *self.retry_statuses})) if to_itself else self.statuses

    def leaves_at(self, health: Health) -> int | None:
        """The percent of its budgets from which on another target is to lead; None: its budgets are no reason."""
        percents = [reason.budget_used for reason in self.leave_any if reason.budget_used is not None]
        together = [reason.budget_used for reason in self.leave_all if reason.budget_used is not None]
        others = (reason for reason in self.leave_all if reason.budget_used is None)
        if together and all(reason.holds(self.name, health) for reason in others):
            percents.append(max(together))
        return min(percents, default=None)

    def is_unhealthy(self, health: Health) -> bool:
        """Whether it belongs at the end of the chain now."""
        return (
            health.has_failed(self.name)
            or health.is_slow(
                self.name, ttft_ms=self.cutoff_ttft_ms, time_per_output_token_ms=self.cutoff_output_token_ms
            )
            or any(reason.holds(self.name, health) for reason in self.leave_any)
            or (bool(self.leave_all) and all(reason.holds(self.name, health) for reason in self.leave_all))
        )


@dataclass(frozen=True, slots=True)
class VirtualModel:
    """One rule, ready to be asked. `sticky_seconds` None: requests do not stick."""

    id: str
    condition: Condition
    kind: Kind
    members: tuple[Member, ...]
    sticky_seconds: int | None = None
    session_keys: tuple[tuple[IdentifierSource, str], ...] = ()

    def member(self, target: str) -> Member | None:
        """The member of this name."""
        return next((member for member in self.members if member.name == target), None)


def first_byte_ms(member: Member) -> int | None:
    """How long an attempt at it may take until its answer begins; None: as long as it likes."""
    limits = [limit for limit in (member.timeout_ms, member.cutoff_ttft_ms) if limit is not None]
    return min(limits, default=None)


class VirtualModels:
    """All routing rules of a snapshot, in order; the first that matches routes."""

    def __init__(self, rules: Sequence[VirtualModel], names: frozenset[str]) -> None:
        self.rules = tuple(rules)
        self._names = names
        self._by_id = {rule.id: rule for rule in rules}

    @classmethod
    def of(cls, snapshot: Snapshot) -> VirtualModels:
        """Compile the rules of every routing document."""
        rules = [_compile(rule) for document in snapshot.documents_of(RoutingDocument) for rule in document.rules]
        return cls(rules, snapshot.virtual_models)

    @property
    def targets(self) -> frozenset[str]:
        """Every target of every rule."""
        return frozenset(member.name for rule in self.rules for member in rule.members)

    def match(self, facts: MatchFacts) -> VirtualModel | None:
        """The rule that routes a request, by what was requested; None: it is served as it was asked for."""
        if not self.rules:
            return None
        attributes = attributes_of(facts, self._names)
        return next((rule for rule in self.rules if holds(rule.condition, attributes)), None)

    def member(self, rule_id: str, target: str) -> Member | None:
        """A member of a rule; None where a newer policy set has another rule."""
        rule = self._by_id.get(rule_id)
        return None if rule is None else rule.member(target)


def _compile(rule: RoutingRule) -> VirtualModel:
    kinds: dict[type[RoutingRule], Kind] = {
        PriorityRule: Kind.PRIORITY,
        WeightRule: Kind.WEIGHT,
        LatencyRule: Kind.LATENCY,
    }
    sticky = rule.sticky_routing
    return VirtualModel(
        id=rule.id,
        condition=condition_of(rule.when),
        kind=kinds[type(rule)],
        members=tuple(member_of(target) for target in rule.load_balance_targets),
        sticky_seconds=None if sticky is None else sticky.ttl_seconds,
        session_keys=() if sticky is None else tuple((part.source, part.key) for part in sticky.session_identifiers),
    )


def member_of(target: Target) -> Member:
    """A target as it is asked."""
    retry, cutoff, headers, leave = (
        target.retry_config,
        target.sla_cutoff,
        target.headers_override,
        target.fallback_when,
    )
    statuses = (
        DEFAULT_FALLBACK_STATUSES if target.fallback_status_codes is None else _codes(target.fallback_status_codes)
    )
    retry_statuses = statuses if retry is None or retry.on_status_codes is None else _codes(retry.on_status_codes)
    return Member(
        name=target.target,
        weight=target.weight or 0,
        priority=target.priority,
        tries=1 if retry is None else 1 + retry.attempts,
        retry_delay_ms=0 if retry is None else retry.delay,
        statuses=statuses,
        retry_statuses=retry_statuses,
        may_follow=target.fallback_candidate,
        timeout_ms=target.timeout_ms,
        cutoff_ttft_ms=None if cutoff is None else cutoff.time_to_first_token_ms,
        cutoff_output_token_ms=None if cutoff is None else cutoff.time_per_output_token_ms,
        override_params={key: value for key, value in target.override_params.items() if key not in RESERVED_PARAMS},
        set_headers={} if headers is None else {key.lower(): value for key, value in headers.set_.items()},
        remove_headers=() if headers is None else tuple(name.lower() for name in headers.remove),
        tags=tuple(target.metadata_match.items()),
        leave_any=() if leave is None else _reasons(leave.any),
        leave_all=() if leave is None else _reasons(leave.all),
    )


def _codes(texts: Sequence[str]) -> tuple[int, ...]:
    return tuple(int(text) for text in texts)


def _reasons(conditions: Sequence[FallbackCondition]) -> tuple[Reason, ...]:
    return tuple(
        Reason(
            error_rate=None if condition.error_rate is None else float(condition.error_rate),
            ttft_p95_ms=condition.ttft_p95_ms,
            window_seconds=HEALTH_WINDOW_SECONDS
            if condition.window is None
            else duration_seconds(condition.window) or HEALTH_WINDOW_SECONDS,
            budget_used=condition.budget_used,
        )
        for condition in conditions
    )
