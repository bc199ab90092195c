"""Rate limits: `gateway-rate-limiting-config`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from ext_proc.policy.documents.common import When, applies_per_problems, id_problems, unique
from ext_proc.policy.fields import Located, Problem, optional, required
from ext_proc.policy.terms import OnMissingKey, OnStoreFailure
from ext_proc.policy.units import BUDGET_UNITS, RATE_UNITS, cap_problem

MAX_RATE_KEYS = 2

_BUDGET_WORDS = tuple((unit, "put it in a gateway-budget-config") for unit in BUDGET_UNITS if unit not in RATE_UNITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRule(Located):
    """One rate limit: at no moment more than `limit_to` in the last period."""

    id: str = required("Names the rule in the refusal; `{…}` makes buckets.", example="per-user-minute")
    when: When = required("Which requests; `{}` is all of them.", example="{models: [openai-main/gpt-4o]}")
    limit_to: Decimal = required("How many in the period.", example="60")
    unit: str = required(
        "What is counted, over how long.",
        one_of=tuple(RATE_UNITS),
        elsewhere=_BUDGET_WORDS,
        example="requests_per_minute",
    )
    rate_limit_applies_per: tuple[str, ...] = optional(
        "One count per combination of these, at most two: `user`, `team`, `virtualaccount`, `tenant`, `model`, "
        "`metadata.<key>`.",
        default=(),
        example="[user]",
        max_items=MAX_RATE_KEYS,
    )
    audit_mode: bool = optional("Count and warn, never refuse.", default=False, example="true", extension=True)
    on_store_failure: OnStoreFailure = optional(
        "When Redis does not answer.", default=OnStoreFailure.REFUSE, example="allow", extension=True
    )
    on_missing_key: OnMissingKey | None = optional(
        "A request that lacks what the rule applies per: counts as `(none)`, skips the rule, or is refused.",
        example="skip",
        extension=True,
    )
    mitigation: str | None = optional("What a refused caller is told to do next.", example="Slow down.", extension=True)
    description: str | None = optional("For people who read the policy.", example="Fair use", extension=True)

    def problems(self) -> Iterator[Problem]:
        """The limit must be a count; the id and the keys must name what exists."""
        yield from id_problems(self.id)
        problem = cap_problem(self.limit_to, RATE_UNITS[self.unit].measure)
        if problem:
            yield ("limit_to", *problem)
        yield from applies_per_problems("rate_limit_applies_per", self.rate_limit_applies_per)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateDocument(Located):
    """Rate limits. Every matching rule is counted; the first exceeded one refuses."""

    name: str = required("Names the document.", example="rate-limits")
    type: Literal["gateway-rate-limiting-config"] = required(
        "The kind of document.", example="gateway-rate-limiting-config"
    )
    rules: tuple[RateRule, ...] = required("The limits, in order.", example="[]")

    def problems(self) -> Iterator[Problem]:
        """Ids are unique."""
        yield from unique(self.rules)
