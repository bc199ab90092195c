"""Budget and rate documents → compiled rules."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_CEILING
from functools import partial
from types import MappingProxyType
from typing import Any

from ext_proc.ledger.interface import WindowKind
from ext_proc.policy.condition import METADATA, MODEL, SUBJECT, Clause, Condition
from ext_proc.policy.conditions import condition_of
from ext_proc.policy.documents.budget import (
    Admission,
    BudgetDocument,
    BudgetRule,
    ConstrainedRule,
    Evaluation,
    LimitByPlan,
)
from ext_proc.policy.documents.budget_v2 import (
    Aggregate,
    AppliesTo,
    Limits,
    Mode,
    PerMetadata,
    PerModel,
    PerUser,
    TeamBudgetDocument,
    TenantBudgetDocument,
)
from ext_proc.policy.documents.common import DEFAULT_THRESHOLDS, Alerts, bucket_key, fill, placeholders
from ext_proc.policy.documents.rate_limit import RateDocument, RateRule
from ext_proc.policy.rules import Rule, Throttle
from ext_proc.policy.terms import ConstrainAction, Constrained, OnExhaustedStream, OnMissingKey
from ext_proc.policy.units import BUDGET_UNITS, RATE_UNITS, Unit, cap_of

DEFAULT_CONSTRAINED = Constrained(at_percent=90, action=ConstrainAction.DOWNGRADE)


def budget_rules(document: BudgetDocument) -> Iterator[Rule]:
    """The rules of a V1 document, in order."""
    for rule in document.rules:
        unit = BUDGET_UNITS[rule.unit]
        limit = rule.limit_to
        by_plan: dict[str, int] = {}
        if isinstance(limit, LimitByPlan):
            by_plan = {plan: cap_of(cap, unit.measure) for plan, cap in limit.values.items()}
            limit = limit.default
        keys = _keys(rule.id, rule.budget_applies_per)
        yield Rule(
            document_type=document.type,
            document_name=document.name,
            **_identity(rule.id, keys),
            condition=condition_of(rule.when),
            measure=unit.measure,
            window=unit.window(rule.timezone),
            cap=cap_of(limit, unit.measure),
            caps_by_plan=MappingProxyType(by_plan),
            thresholds=_thresholds(rule.alerts),
            first_match=document.evaluation is Evaluation.FIRST_MATCH,
            audit=rule.audit_mode,
            on_missing_key=rule.on_missing_key or _default_on_missing(unit, keys),
            on_insufficient=rule.on_insufficient,
            min_output_tokens=rule.min_output_tokens,
            strict=rule.admission is Admission.STRICT,
            on_store_failure=rule.on_store_failure,
            on_exhausted=rule.on_exhausted,
            cuts_streams=rule.on_exhausted_stream is OnExhaustedStream.CUT,
            constrained=_constrained(rule),
            throttle=_throttle(rule.constrained),
            mitigation=rule.mitigation,
            dashboard=rule.dashboard,
        )


def rate_rules(document: RateDocument) -> Iterator[Rule]:
    """The rules of a rate limit document, in order."""
    for rule in document.rules:
        yield _rate_rule(document, rule)


def tenant_budget_rules(document: TenantBudgetDocument) -> Iterator[Rule]:
    """The rules of a V2 document of the organisation: one per period and group of overrides."""
    yield from _v2_rules(document, condition_of(document.when))


def team_budget_rules(document: TeamBudgetDocument) -> Iterator[Rule]:
    """The rules of a V2 document of a team."""
    team = Clause(SUBJECT, frozenset((f"team:{document.team_name}",)))
    yield from _v2_rules(document, (team, *condition_of(document.when)))


def _rate_rule(document: RateDocument, rule: RateRule) -> Rule:
    unit = RATE_UNITS[rule.unit]
    return Rule(
        document_type=document.type,
        document_name=document.name,
        **_identity(rule.id, _keys(rule.id, rule.rate_limit_applies_per)),
        condition=condition_of(rule.when),
        measure=unit.measure,
        window=unit.window("UTC"),
        cap=cap_of(rule.limit_to, unit.measure),
        audit=rule.audit_mode,
        on_missing_key=rule.on_missing_key or OnMissingKey.BUCKET,
        on_store_failure=rule.on_store_failure,
        mitigation=rule.mitigation,
    )


def _v2_rules(document: TenantBudgetDocument | TeamBudgetDocument, condition: Condition) -> Iterator[Rule]:
    """Overrides replace every base limit of their entities: the base excludes them, an earlier override excludes later
    ones. All share the document's name as id, so that an entity keeps what it spent when it gains an override.
    """
    attribute, keys, overrides = _division(document.applies_to)
    taken: frozenset[str] = frozenset()
    for values, limits in overrides:
        own = Clause(attribute, values - taken)
        yield from _period_rules(document, limits, (*condition, own), keys)
        taken |= values
    rest = (Clause(attribute, taken, negated=True),) if taken else ()
    yield from _period_rules(document, document.limits, (*condition, *rest), keys)


def _period_rules(
    document: TenantBudgetDocument | TeamBudgetDocument, limits: Limits, condition: Condition, keys: tuple[str, ...]
) -> Iterator[Rule]:
    for name, cap in limits.by_unit().items():
        unit = BUDGET_UNITS[name]
        all_keys = _keys(document.name, keys)
        yield Rule(
            document_type=document.type,
            document_name=document.name,
            **_identity(document.name, all_keys),
            condition=condition,
            measure=unit.measure,
            window=unit.window(document.timezone),
            cap=cap_of(cap, unit.measure),
            thresholds=_thresholds(document.alerts),
            audit=document.mode is Mode.AUDIT,
            on_missing_key=_default_on_missing(unit, all_keys),
            constrained=DEFAULT_CONSTRAINED,
        )


def _division(applies_to: AppliesTo) -> tuple[str, tuple[str, ...], list[tuple[frozenset[str], Limits]]]:
    """(attribute that overrides look at, bucket keys, [(attribute values, limits)])."""
    match applies_to:
        case Aggregate():
            return "", (), []
        case PerUser():
            return SUBJECT, ("user",), [_override(o.users, o.limits, "user:") for o in applies_to.overrides]
        case PerModel():
            return MODEL, ("model",), [_override(o.models, o.limits, "") for o in applies_to.overrides]
        case PerMetadata():
            key = f"{METADATA}{applies_to.metadata}"
            return key, (key,), [_override(o.metadata_values, o.limits, "") for o in applies_to.overrides]
        case _:
            overrides = [_override(o.virtual_accounts, o.limits, "virtualaccount:") for o in applies_to.overrides]
            return SUBJECT, ("virtualaccount",), overrides


def _override(values: tuple[str, ...], limits: Limits, prefix: str) -> tuple[frozenset[str], Limits]:
    return frozenset(f"{prefix}{value}" for value in values), limits


def _keys(rule_id: str, applies_per: tuple[str, ...]) -> tuple[str, ...]:
    """What a rule applies per: as listed, then as its templated id names it."""
    return tuple(dict.fromkeys((*(bucket_key(key) for key in applies_per), *placeholders(rule_id))))


def _identity(rule_id: str, keys: tuple[str, ...]) -> dict[str, Any]:
    return {"id": rule_id, "keys": keys, "fill": partial(fill, rule_id) if placeholders(rule_id) else None}


def _default_on_missing(unit: Unit, keys: tuple[str, ...]) -> OnMissingKey:
    """Without this, every request without a workflow id would drain one lifetime account for ever."""
    per_tag = any(key.startswith(METADATA) for key in keys)
    return OnMissingKey.SKIP if unit.kind is WindowKind.LIFETIME and per_tag else OnMissingKey.BUCKET


def _thresholds(alerts: Alerts | None) -> tuple[int, ...]:
    written = DEFAULT_THRESHOLDS if alerts is None else alerts.thresholds
    return tuple(sorted({int(threshold.to_integral_value(ROUND_CEILING)) for threshold in written}))


def _constrained(rule: BudgetRule) -> Constrained | None:
    """Near the cap a rule gives way to cheaper models, unless it says otherwise. One in audit mode only tells so."""
    written = rule.constrained
    if written is None:
        return DEFAULT_CONSTRAINED
    return None if written.action is ConstrainAction.NONE else Constrained(written.at, written.action)


def _throttle(constrained: ConstrainedRule | None) -> Throttle | None:
    if constrained is None or constrained.limit_to is None or constrained.unit is None:
        return None
    unit = RATE_UNITS[constrained.unit]
    return Throttle(unit.measure, unit.window("UTC"), cap_of(constrained.limit_to, unit.measure))
