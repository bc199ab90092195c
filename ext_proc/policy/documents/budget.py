"""Budgets: `gateway-budget-config`, an ordered list of rules, and the V2 documents, one rule each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Literal

from ext_proc.ledger.interface import Measure
from ext_proc.policy.documents.common import (
    MAX_APPLIES_PER,
    Alerts,
    When,
    applies_per_problems,
    id_problems,
    timezone_problem,
    unique,
)
from ext_proc.policy.fields import Located, Problem, optional, required
from ext_proc.policy.terms import (
    ConstrainAction,
    OnExhausted,
    OnExhaustedStream,
    OnInsufficient,
    OnMissingKey,
    OnStoreFailure,
)
from ext_proc.policy.units import BUDGET_UNITS, RATE_UNITS, cap_problem

_RATE_WORDS = tuple(
    (unit, "put it in a gateway-rate-limiting-config") for unit in RATE_UNITS if unit not in BUDGET_UNITS
)

_MOVED_BY_OUTPUT = frozenset({Measure.COST, Measure.TOKENS, Measure.OUTPUT_TOKENS})

TENANT_PLAN = "tenant.plan"


class Evaluation(StrEnum):
    """Which of a document's matching rules decide."""

    FIRST_MATCH = "first_match"
    ALL = "all"


class Admission(StrEnum):
    """How tight the hold's bounds are."""

    EXPECTED = "expected"
    STRICT = "strict"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitByPlan(Located):
    """A cap that depends on the plan of the caller's tenant."""

    by: Literal["tenant.plan"] = required("What the cap depends on.", example=TENANT_PLAN)
    values: Mapping[str, Decimal] = required("Plan → cap.", example="{free: 5, pro: 100}")
    default: Decimal = required("The cap of every other plan, and of callers without one.", example="5")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstrainedRule(Located):
    """What happens before the money is gone."""

    at: int = optional("Percent of the cap that is spent.", default=90, minimum=1, maximum=100, example="90")
    action: ConstrainAction = optional(
        "`downgrade`: premium models are swapped for cheaper ones. `none`: nothing until the cap. `refuse_premium`: "
        "premium models are refused. `throttle`: same model, tighter rate.",
        default=ConstrainAction.DOWNGRADE,
        example="downgrade",
    )
    limit_to: Decimal | None = optional("The rate while throttled.", example="10")
    unit: str | None = optional("The unit of that rate.", one_of=tuple(RATE_UNITS), example="requests_per_minute")

    def problems(self) -> Iterator[Problem]:
        """A throttle has a rate; nothing else has."""
        throttled = self.action is ConstrainAction.THROTTLE
        if throttled and (self.limit_to is None or self.unit is None):
            yield ("action", "throttle has no rate", "add limit_to and unit, for example requests_per_minute")
        elif not throttled and (self.limit_to is not None or self.unit is not None):
            yield ("action", "a rate stands beside another action", "write action: throttle, or remove the rate")
        elif self.limit_to is not None and self.unit is not None:
            problem = cap_problem(self.limit_to, RATE_UNITS[self.unit].measure)
            if problem:
                yield ("limit_to", *problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRule(Located):
    """One budget: which requests, how much, per what."""

    id: str = required("Names the rule in answers, metrics and reports; `{…}` makes buckets.", example="search-weekly")
    when: When = required("Which requests; `{}` is all of them.", example="{metadata: {cost_center: search}}")
    limit_to: Decimal | LimitByPlan = required(
        "The cap: dollars for cost units, else tokens or requests; or one per plan.", example="500"
    )
    unit: str = required(
        "What is counted, and when it starts anew.",
        one_of=tuple(BUDGET_UNITS),
        elsewhere=_RATE_WORDS,
        example="cost_per_week",
    )
    budget_applies_per: tuple[str, ...] = optional(
        "One account per combination of these: `user`, `team`, `virtualaccount`, `tenant`, `model`, `metadata.<key>`.",
        default=(),
        example="[metadata.repo]",
        max_items=MAX_APPLIES_PER,
    )
    alerts: Alerts | None = optional("Who is told before the money is gone.", example="{thresholds: [75, 90, 100]}")
    audit_mode: bool = optional("Track and alert, never refuse, never downgrade.", default=False, example="true")
    timezone: str = optional(
        "Where days, weeks and months begin.", default="UTC", example="Europe/Berlin", extension=True
    )
    constrained: ConstrainedRule | None = optional(
        "What happens near the cap.", example="{at: 90, action: downgrade}", extension=True
    )
    on_exhausted: OnExhausted = optional(
        "`refuse`; `downgrade` to free and self-hosted targets only; or `latch`: stay shut across resets until resumed "
        "by hand.",
        default=OnExhausted.REFUSE,
        example="refuse",
        extension=True,
    )
    on_exhausted_stream: OnExhaustedStream = optional(
        "A stream that runs beyond its hold while the account is exhausted: `finish` it, or `cut` it as if it had "
        "reached its output limit.",
        default=OnExhaustedStream.FINISH,
        example="cut",
        extension=True,
    )
    on_insufficient: OnInsufficient = optional(
        "When the rest cannot carry the whole output bound: `refuse`, or `clamp` the output limit to what it affords.",
        default=OnInsufficient.REFUSE,
        example="clamp",
        extension=True,
    )
    min_output_tokens: int = optional(
        "The fewest output tokens a clamped request is still worth.",
        default=1,
        minimum=1,
        example="256",
        extension=True,
    )
    admission: Admission = optional(
        "`strict` holds bounds that cannot be exceeded, and refuses what has none.",
        default=Admission.EXPECTED,
        example="strict",
        extension=True,
    )
    on_store_failure: OnStoreFailure = optional(
        "When Redis does not answer.", default=OnStoreFailure.REFUSE, example="local", extension=True
    )
    on_missing_key: OnMissingKey | None = optional(
        "A request that lacks what the rule applies per: counts in the bucket `(none)`, skips the rule, or is refused. "
        "Default `bucket`; `skip` for lifetime units per tag.",
        example="refuse",
        extension=True,
    )
    mitigation: str | None = optional(
        "What a refused caller is told to do next.", example="Ask in '#search-ai'.", extension=True
    )
    dashboard: str | None = optional("A link that refusals carry.", example="https://grafana/d/spend", extension=True)
    description: str | None = optional("For people who read the policy.", example="Search, per repo", extension=True)

    def problems(self) -> Iterator[Problem]:
        """The limit must fit its unit; the id and the keys must name what exists."""
        yield from id_problems(self.id)
        measure = BUDGET_UNITS[self.unit].measure
        limits = {"limit_to": self.limit_to}
        if isinstance(self.limit_to, LimitByPlan):
            limits = {f"limit_to.values.{plan}": limit for plan, limit in self.limit_to.values.items()}
            limits["limit_to.default"] = self.limit_to.default
        for name, limit in limits.items():
            assert isinstance(limit, Decimal), "plans hold numbers"
            problem = cap_problem(limit, measure)
            if problem:
                yield (name, *problem)
        yield from applies_per_problems("budget_applies_per", self.budget_applies_per)
        if self.on_exhausted_stream is OnExhaustedStream.CUT and measure not in _MOVED_BY_OUTPUT:
            cure = "use a unit of cost or of tokens that counts output, or remove the field"
            yield ("on_exhausted_stream", f"no stream exhausts {self.unit}: it does not count output", cure)
        problem = timezone_problem(self.timezone)
        if problem:
            yield ("timezone", *problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetDocument(Located):
    """Budgets in order: with `first_match` the first rule that matches decides, and all that match track."""

    name: str = required("Names the document.", example="platform-budgets")
    type: Literal["gateway-budget-config"] = required("The kind of document.", example="gateway-budget-config")
    evaluation: Evaluation = optional(
        "`first_match`: the first matching rule decides. `all`: every matching rule does.",
        default=Evaluation.FIRST_MATCH,
        example="all",
        extension=True,
    )
    rules: tuple[BudgetRule, ...] = required("The budgets, in order.", example="[]")

    def problems(self) -> Iterator[Problem]:
        """Ids are unique."""
        yield from unique(self.rules)
