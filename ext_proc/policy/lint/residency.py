"""Residency: regions that nobody serves in, and targets that a residency rule takes away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ext_proc.policy.condition import ACCOUNT, METADATA, MODEL, PLAN, Condition
from ext_proc.policy.conditions import condition_of
from ext_proc.policy.documents.common import ANYONE, InNotIn, When
from ext_proc.policy.documents.guardrail import GuardrailDocument, GuardrailRule
from ext_proc.policy.documents.provider import ProviderDocument
from ext_proc.policy.documents.routing import Downgrade, RoutingDocument, RoutingRule
from ext_proc.policy.documents.savings import Saving
from ext_proc.policy.errors import PolicyError
from ext_proc.policy.guardrails import is_in
from ext_proc.policy.scalars import shown
from ext_proc.policy.snapshot import Snapshot


def residency_warnings(snapshot: Snapshot) -> Iterator[PolicyError]:
    """Every warning about `allowed_regions`."""
    residencies = [
        rule
        for document in snapshot.documents_of(GuardrailDocument)
        for rule in document.rules
        if rule.allowed_regions is not None and not rule.audit_mode
    ]
    if not residencies:
        return
    yield from _placeless(snapshot, residencies)
    for residency in residencies:
        yield from _nowhere(snapshot, residency)
        for document in snapshot.documents_of(RoutingDocument):
            for rule in document.rules:
                yield from _emptied(snapshot, residency, rule)
            for downgrade in document.downgrades:
                yield from _unreached(snapshot, residency, downgrade)
            for saving in document.savings:
                yield from _unreached(snapshot, residency, saving)


def _placeless(snapshot: Snapshot, residencies: Sequence[GuardrailRule]) -> Iterator[PolicyError]:
    """An account without a region serves nobody whom a residency rule is about."""
    for document in snapshot.documents_of(ProviderDocument):
        for account in document.all_accounts():
            placed = any(model.region is not None for model in account.models)
            if account.region is None and not placed:
                problem = f"has no region, so {shown(residencies[0].id)} keeps it from serving"
                yield account.where.error("name", problem, "add region: where its models are served")


def _nowhere(snapshot: Snapshot, residency: GuardrailRule) -> Iterator[PolicyError]:
    """A region that no account has is a misspelling, or waits for an account."""
    known = {
        region
        for account in snapshot.accounts.values()
        for region in (account.region, *(model.region for model in account.models))
        if region is not None
    }
    for index, region in enumerate(residency.allowed_regions or ()):
        if not any(is_in(found, (region,)) for found in known):
            cure = f"write one of: {', '.join(sorted(known))}" if known else "add region to the provider accounts"
            problem = f"no provider account serves in {shown(region)}"
            yield residency.where.error(f"allowed_regions[{index}]", problem, cure)


def _emptied(snapshot: Snapshot, residency: GuardrailRule, rule: RoutingRule) -> Iterator[PolicyError]:
    """A chain that has no target left for the requests of a residency rule."""
    names = _names(rule.when)
    targets = [target.target for target in rule.load_balance_targets]
    if _meet(condition_of(residency.when), condition_of(rule.when)) and all(
        _is_barred(snapshot, residency, target, names) for target in targets
    ):
        problem = f"no target is left for the requests of {shown(residency.id)}: they are refused"
        yield rule.where.error("load_balance_targets", problem, _cure(residency))


def _unreached(snapshot: Snapshot, residency: GuardrailRule, swapping: Downgrade | Saving) -> Iterator[PolicyError]:
    """A swap that leads out of the region is never made, while what it swaps may serve."""
    if not _meet(condition_of(residency.when), condition_of(swapping.when)):
        return
    for dear, cheap in swapping.swap.items():
        serves = dear == ANYONE or not _is_barred(snapshot, residency, dear, ())
        if serves and _is_barred(snapshot, residency, cheap, ()):
            problem = f"never happens for the requests of {shown(residency.id)}: {shown(cheap)} may not serve them"
            yield swapping.where.error(f"swap.{dear}", problem, _cure(residency))


def _cure(residency: GuardrailRule) -> str:
    return f"name a target in {' or '.join(residency.allowed_regions or ())}"


def _names(when: When) -> tuple[str, ...]:
    return tuple(when.models.in_ or ()) if isinstance(when.models, InNotIn) else tuple(when.models or ())


def _is_barred(snapshot: Snapshot, residency: GuardrailRule, target: str, requested: tuple[str, ...]) -> bool:
    """Whether the rule is about the target and keeps it from serving."""
    name, _, model = target.partition("/")
    account = snapshot.accounts.get(name)
    if account is None:
        return False  # another warning tells of it
    attributes: Mapping[str, tuple[str, ...]] = {MODEL: (target, *requested), ACCOUNT: (name,)}
    about = all(clause.holds(attributes) for clause in condition_of(residency.when) if clause.attribute in attributes)
    region = account.region_of(model)
    return about and not (region is not None and is_in(region, residency.allowed_regions or ()))


def _meet(one: Condition, other: Condition) -> bool:
    """Whether one request can fulfil both, as far as their tags and plans show it."""
    return not any(
        mine.attribute == yours.attribute
        and (mine.attribute == PLAN or mine.attribute.startswith(METADATA))
        and not mine.negated
        and not yours.negated
        and not mine.values & yours.values
        for mine in one
        for yours in other
    )
