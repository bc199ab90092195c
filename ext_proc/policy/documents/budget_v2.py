"""Budgets of the V2 shape: one document is one rule with a cap per period, and every matching one must hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from ext_proc.policy.documents.common import Alerts, When, id_problems, timezone_problem
from ext_proc.policy.fields import Located, Problem, optional, required
from ext_proc.policy.units import BUDGET_UNITS, cap_problem


class Mode(StrEnum):
    """Whether a V2 budget can refuse."""

    ENFORCE = "enforce"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(Located):
    """Caps in dollars, one per period; any combination."""

    cost_per_day: Decimal | None = optional("Dollars a day.", example="20")
    cost_per_week: Decimal | None = optional("Dollars a week, from Monday.", example="100")
    cost_per_month: Decimal | None = optional("Dollars a month.", example="300")
    cost_per_quarter: Decimal | None = optional("Dollars a quarter.", example="900")
    cost_per_lifetime: Decimal | None = optional("Dollars, once.", example="2000")

    def by_unit(self) -> Mapping[str, Decimal]:
        """The caps that are written, by unit."""
        named = {unit: getattr(self, unit, None) for unit in BUDGET_UNITS}
        return MappingProxyType({unit: cap for unit, cap in named.items() if cap is not None})

    def problems(self) -> Iterator[Problem]:
        """Where least one cap, each of which the ledger can count."""
        caps = self.by_unit()
        if not caps:
            yield ("", "limits nothing", "add a cap, for example cost_per_month: 300")
        for unit, cap in caps.items():
            problem = cap_problem(cap, BUDGET_UNITS[unit].measure)
            if problem:
                yield (unit, *problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserOverride(Located):
    """Other limits for some users."""

    users: tuple[str, ...] = required("Who.", example="[alice@example.com]")
    limits: Limits = required("Their limits, in place of all base limits.", example="{cost_per_day: 50}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOverride(Located):
    """Other limits for some models."""

    models: tuple[str, ...] = required("Which.", example="[openai-main/gpt-4o]")
    limits: Limits = required("Their limits, in place of all base limits.", example="{cost_per_day: 50}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualAccountOverride(Located):
    """Other limits for some virtual accounts."""

    virtual_accounts: tuple[str, ...] = required("Which.", example="[ci]")
    limits: Limits = required("Their limits, in place of all base limits.", example="{cost_per_day: 50}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataOverride(Located):
    """Other limits for some values of the tag."""

    metadata_values: tuple[str, ...] = required("Which values.", example="[search]")
    limits: Limits = required("Their limits, in place of all base limits.", example="{cost_per_day: 50}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate(Located):
    """One account for everything that matches."""

    type: Literal["aggregate"] = required("How the budget is divided.", example="aggregate")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerUser(Located):
    """One account per user."""

    type: Literal["per-user"] = required("How the budget is divided.", example="per-user")
    overrides: tuple[UserOverride, ...] = optional("Other limits for some.", default=(), example="[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerModel(Located):
    """One account per model that serves."""

    type: Literal["per-model"] = required("How the budget is divided.", example="per-model")
    overrides: tuple[ModelOverride, ...] = optional("Other limits for some.", default=(), example="[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerVirtualAccount(Located):
    """One account per virtual account."""

    type: Literal["per-virtual-account"] = required("How the budget is divided.", example="per-virtual-account")
    overrides: tuple[VirtualAccountOverride, ...] = optional("Other limits for some.", default=(), example="[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerMetadata(Located):
    """One account per value of a tag."""

    type: Literal["metadata"] = required("How the budget is divided.", example="metadata")
    metadata: str = required("The tag.", example="cost_center")
    overrides: tuple[MetadataOverride, ...] = optional("Other limits for some.", default=(), example="[]")


AppliesTo = Aggregate | PerUser | PerModel | PerVirtualAccount | PerMetadata


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantBudgetDocument(Located):
    """A budget of the whole organisation, independent of every other: all that match must hold."""

    name: str = required("Names the budget.", example="per-user-monthly")
    type: Literal["tenant-budget-config"] = required("The kind of document.", example="tenant-budget-config")
    mode: Mode = required("`enforce` refuses; `audit` only tracks.", example="enforce")
    limits: Limits = required("The caps.", example="{cost_per_month: 300}")
    applies_to: AppliesTo = required("How the budget is divided.", example="{type: per-user}")
    when: When | None = optional("Which requests; left out or `{}` is all of them.", example="{}")
    alerts: Alerts | None = optional("Who is told before the money is gone.", example="{thresholds: [75, 90, 100]}")
    timezone: str = optional("Where periods begin.", default="UTC", example="Europe/Berlin", extension=True)

    def problems(self) -> Iterator[Problem]:
        """The name is the rule's id."""
        yield from _problems(self.name, self.timezone)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamBudgetDocument(Located):
    """A budget of one team."""

    name: str = required("Names the budget.", example="search-monthly")
    type: Literal["team-budget-config"] = required("The kind of document.", example="team-budget-config")
    team_name: str = required("The team.", aliases=("team",), example="search")
    mode: Mode = required("`enforce` refuses; `audit` only tracks.", example="enforce")
    limits: Limits = required("The caps.", example="{cost_per_month: 300}")
    applies_to: AppliesTo = required("How the budget is divided.", example="{type: aggregate}")
    when: When | None = optional("Which requests; left out or `{}` is all of the team's.", example="{}")
    alerts: Alerts | None = optional("Who is told before the money is gone.", example="{thresholds: [75, 90, 100]}")
    timezone: str = optional("Where periods begin.", default="UTC", example="Europe/Berlin", extension=True)

    def problems(self) -> Iterator[Problem]:
        """The name is the rule's id, and the team is fixed."""
        yield from _problems(self.name, self.timezone)
        subjects = None if self.when is None else self.when.subjects
        if subjects is not None and not isinstance(subjects, tuple) and subjects.teams is not None:
            yield ("when.subjects.teams", "stands in a team's own budget", "remove it: team_name says which team")


def _problems(name: str, timezone: str) -> Iterator[Problem]:
    for _, problem, cure in id_problems(name):
        yield ("name", problem, cure)
    zone_problem = timezone_problem(timezone)
    if zone_problem:
        yield ("timezone", *zone_problem)
