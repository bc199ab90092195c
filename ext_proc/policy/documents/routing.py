"""Virtual models and downgrades: `gateway-load-balancing-config`, as far as loading goes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from ext_proc.policy.documents.common import ANYONE, When, unique
from ext_proc.policy.documents.savings import Saving
from ext_proc.policy.fields import Located, Problem, optional, required
from ext_proc.policy.scalars import shown

MAX_TARGETS = 64
TOTAL_WEIGHT = 100

_STATUS = re.compile(r"[1-5][0-9][0-9]")
_DURATION = re.compile(r"([1-9][0-9]{0,5})(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


class IdentifierSource(StrEnum):
    """Where a session identifier is read."""

    HEADERS = "headers"
    METADATA = "metadata"


def duration_seconds(text: str) -> int | None:
    """`30s`, `2m`, `1h` in seconds; None where a text is no duration."""
    match = _DURATION.fullmatch(text)
    return int(match[1]) * _SECONDS[match[2]] if match else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryConfig(Located):
    """The same target again."""

    attempts: int = required("How many more tries.", minimum=0, maximum=10, example="2")
    delay: int = optional("Milliseconds between them.", default=100, minimum=0, maximum=60_000, example="100")
    on_status_codes: tuple[str, ...] | None = optional("After which answers.", example='["429", "500"]')

    def problems(self) -> Iterator[Problem]:
        """Codes are codes."""
        yield from _status_problems("on_status_codes", self.on_status_codes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlaCutoff(Located):
    """Past this a target counts as unhealthy."""

    time_per_output_token_ms: int | None = optional("Milliseconds per output token.", minimum=1, example="80")
    time_to_first_token_ms: int | None = optional("Milliseconds to the first token.", minimum=1, example="4000")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadersOverride(Located):
    """Headers of the upstream request."""

    set_: Mapping[str, str] = optional(
        "Add or overwrite.", factory=lambda: MappingProxyType({}), example="{x-env: prod}"
    )
    remove: tuple[str, ...] = optional("Take away.", default=(), example="[x-debug]")


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackCondition(Located):
    """One reason to leave a target."""

    budget_used: int | None = optional("Percent of the deciding budget.", minimum=1, maximum=100, example="75")
    error_rate: Decimal | None = optional("Share of failed answers, 0 to 1.", minimum=0, maximum=1, example="0.2")
    ttft_p95_ms: int | None = optional("95th percentile of time to first token.", minimum=1, example="4000")
    window: str | None = optional("How far back.", example="2m")

    def problems(self) -> Iterator[Problem]:
        """One reason each, over a time that can be read."""
        reasons = (self.budget_used, self.error_rate, self.ttft_p95_ms)
        if sum(reason is not None for reason in reasons) != 1:
            yield ("", "names no single reason", "write one of budget_used, error_rate, ttft_p95_ms")
        if self.window is not None and duration_seconds(self.window) is None:
            yield ("window", f"{shown(self.window)} is no duration", "write 30s, 2m or 1h")


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackWhen(Located):
    """When the next target is better: any or all of some reasons."""

    any: tuple[FallbackCondition, ...] = optional("One suffices.", default=(), example="[{budget_used: 75}]")
    all: tuple[FallbackCondition, ...] = optional(
        "All together.", default=(), example="[{error_rate: 0.2, window: 2m}]"
    )

    def problems(self) -> Iterator[Problem]:
        """Either list, not none, not both."""
        if bool(self.any) == bool(self.all):
            yield ("", "has no single list of reasons", "write either any or all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(Located):
    """One member of a chain."""

    target: str = required("`account/model`.", example="openai-main/gpt-4o")
    weight: int | None = optional("Percent of the traffic (weight-based).", minimum=0, maximum=100, example="70")
    priority: int = optional("0 first (priority-based).", default=0, minimum=0, example="0")
    retry_config: RetryConfig | None = optional("The same target again.", example="{attempts: 2, delay: 100}")
    fallback_status_codes: tuple[str, ...] | None = optional(
        "Answers after which the next target is tried.", example='["429", "500", "502", "503"]'
    )
    fallback_candidate: bool = optional("Whether others may fall back to it.", default=True, example="true")
    sla_cutoff: SlaCutoff | None = optional("When it is too slow.", example="{time_to_first_token_ms: 4000}")
    timeout_ms: int | None = optional("Milliseconds until the answer of an attempt begins.", minimum=1, example="30000")
    override_params: Mapping[str, object] = optional(
        "Parameters of the request that it overrides.",
        factory=lambda: MappingProxyType({}),
        example="{temperature: 0.2}",
    )
    headers_override: HeadersOverride | None = optional("Headers it changes.", example="{remove: [x-debug]}")
    metadata_match: Mapping[str, str] = optional(
        "Tags a request must have for it.", factory=lambda: MappingProxyType({}), example="{region: eu}"
    )
    fallback_when: FallbackWhen | None = optional(
        "Reasons to leave it before it fails.", example="{any: [{budget_used: 75}]}", extension=True
    )

    def problems(self) -> Iterator[Problem]:
        """A target names an account and a model."""
        yield from target_problems("target", self.target)
        yield from _status_problems("fallback_status_codes", self.fallback_status_codes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionIdentifier(Located):
    """What makes two requests one session."""

    source: IdentifierSource = required("Where to read.", example="metadata")
    key: str = required("Which header or tag.", example="conversation_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class StickyRouting(Located):
    """Keep a session on its target."""

    ttl_seconds: int = required("For how long.", minimum=1, example="3600")
    session_identifiers: tuple[SessionIdentifier, ...] = required(
        "What makes a session.", example="[{source: metadata, key: conversation_id}]"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRule(Located):
    """Shares of the traffic."""

    id: str = required("Names the rule.", example="chat")
    type: Literal["weight-based-routing"] = required("How targets are chosen.", example="weight-based-routing")
    when: When = required("Which requests; a model name here becomes a virtual model.", example="{models: [chat]}")
    load_balance_targets: tuple[Target, ...] = required("The targets.", max_items=MAX_TARGETS, example="[]")
    sticky_routing: StickyRouting | None = optional(
        "Keep sessions together.", example="{ttl_seconds: 3600, session_identifiers: []}"
    )

    def problems(self) -> Iterator[Problem]:
        """Weights are shares of a hundred."""
        yield from _chain_problems(self.load_balance_targets)
        weights = [target.weight for target in self.load_balance_targets]
        for target in self.load_balance_targets:
            if target.weight is None:
                yield target.where.error("weight", "is missing", "give every target its percent")
        total = sum(weight or 0 for weight in weights)
        if weights and None not in weights and total != TOTAL_WEIGHT:
            yield ("load_balance_targets", f"has weights that sum to {total}", f"make them sum to {TOTAL_WEIGHT}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRule(Located):
    """The fastest target."""

    id: str = required("Names the rule.", example="chat")
    type: Literal["latency-based-routing"] = required("How targets are chosen.", example="latency-based-routing")
    when: When = required("Which requests; a model name here becomes a virtual model.", example="{models: [chat]}")
    load_balance_targets: tuple[Target, ...] = required("The targets.", max_items=MAX_TARGETS, example="[]")
    sticky_routing: StickyRouting | None = optional(
        "Keep sessions together.", example="{ttl_seconds: 3600, session_identifiers: []}", extension=True
    )

    def problems(self) -> Iterator[Problem]:
        """There is something to choose from."""
        yield from _chain_problems(self.load_balance_targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityRule(Located):
    """The first healthy target."""

    id: str = required("Names the rule.", example="chat")
    type: Literal["priority-based-routing"] = required("How targets are chosen.", example="priority-based-routing")
    when: When = required("Which requests; a model name here becomes a virtual model.", example="{models: [chat]}")
    load_balance_targets: tuple[Target, ...] = required("The targets.", max_items=MAX_TARGETS, example="[]")
    sticky_routing: StickyRouting | None = optional(
        "Keep sessions together.", example="{ttl_seconds: 3600, session_identifiers: []}", extension=True
    )

    def problems(self) -> Iterator[Problem]:
        """There is something to choose from."""
        yield from _chain_problems(self.load_balance_targets)


RoutingRule = WeightRule | LatencyRule | PriorityRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Downgrade(Located):
    """What 'constrained' does: which model gives way to which."""

    when: When = required("Which requests; the most specific applies.", example="{plans: [free]}")
    swap: Mapping[str, str] = required(
        "Dearer target → cheaper target; `*` for every other.",
        example="{openai-main/gpt-4o: openai-main/gpt-4o-mini}",
    )

    def problems(self) -> Iterator[Problem]:
        """Both sides are targets and differ."""
        for dear, cheap in self.swap.items():
            if dear != ANYONE:
                yield from target_problems(f"swap.{dear}", dear)
            yield from target_problems(f"swap.{dear}", cheap)
            if dear == cheap:
                yield (f"swap.{dear}", "is swapped for itself", "name a cheaper target, or remove it")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingDocument(Located):
    """Virtual models, what a constrained budget swaps, and which requests a cheaper model serves as well."""

    name: str = required("Names the document.", example="routing")
    type: Literal["gateway-load-balancing-config"] = required(
        "The kind of document.", example="gateway-load-balancing-config"
    )
    rules: tuple[RoutingRule, ...] = optional("The rules; the first that matches routes.", default=(), example="[]")
    downgrades: tuple[Downgrade, ...] = optional(
        "What a constrained budget swaps.", default=(), example="[]", extension=True
    )
    savings: tuple[Saving, ...] = optional(
        "Which requests a cheaper model serves as well, whatever the budget.", default=(), example="[]", extension=True
    )

    def problems(self) -> Iterator[Problem]:
        """Ids are unique."""
        yield from unique(self.rules)
        yield from unique(self.savings)


def target_problems(field: str, target: str) -> Iterator[Problem]:
    """What is wrong with `account/model`."""
    account, slash, model = target.partition("/")
    if not (account and slash and model):
        yield (field, f"{shown(target)} is no target", "write account/model, for example openai-main/gpt-4o")


def _chain_problems(targets: tuple[Target, ...]) -> Iterator[Problem]:
    if not targets:
        yield ("load_balance_targets", "is empty", "name at least one target")


def _status_problems(field: str, codes: tuple[str, ...] | None) -> Iterator[Problem]:
    for index, code in enumerate(codes or ()):
        if not _STATUS.fullmatch(code):
            yield (f"{field}[{index}]", f"{shown(code)} is no status", 'write a code such as "429"')
