"""Rules that cannot do what they seem to do: shadowed ones, and ones that no request can match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ext_proc.policy.condition import SUBJECT, Attributes, Clause, Condition
from ext_proc.policy.conditions import condition_of
from ext_proc.policy.documents.budget import BudgetDocument, BudgetRule, Evaluation
from ext_proc.policy.documents.budget_v2 import TeamBudgetDocument, TenantBudgetDocument
from ext_proc.policy.documents.common import InNotIn, When
from ext_proc.policy.documents.guardrail import GuardrailDocument
from ext_proc.policy.documents.identity import IdentityDocument
from ext_proc.policy.documents.rate_limit import RateDocument
from ext_proc.policy.documents.routing import RoutingDocument
from ext_proc.policy.documents.tagging import TaggingDocument
from ext_proc.policy.errors import PolicyError
from ext_proc.policy.fields import Located
from ext_proc.policy.index import Index
from ext_proc.policy.scalars import shown
from ext_proc.policy.snapshot import MatchFacts, OnMissingKey, Snapshot

Found = tuple[Located, str, When]
"""(the rule, its id, its when)."""


def matching_warnings(snapshot: Snapshot, samples: Sequence[MatchFacts]) -> Iterator[PolicyError]:
    """Every warning about what rules match."""
    yield from _shadowed(snapshot)
    for rule, _, when in _rules(snapshot):
        yield from _empty_lists(when)
        yield from _unknown_models(snapshot, when)
        yield from _unknown_subjects(snapshot, rule, when)
    if samples:
        yield from _unsampled(snapshot, samples)


def _rules(snapshot: Snapshot) -> Iterator[Found]:
    for document in snapshot.documents:
        match document:
            case BudgetDocument() | RateDocument() | TaggingDocument() | GuardrailDocument():
                yield from ((rule, rule.id, rule.when) for rule in document.rules)
            case RoutingDocument():
                yield from ((rule, rule.id, rule.when) for rule in document.rules)
                yield from ((rule, rule.id, rule.when) for rule in document.savings)
            case TenantBudgetDocument() | TeamBudgetDocument():
                if document.when is not None:
                    yield document, document.name, document.when
            case _:
                continue


def _shadowed(snapshot: Snapshot) -> Iterator[PolicyError]:
    """With `first_match` a rule below one that matches everything it matches can never decide."""
    for document in snapshot.documents_of(BudgetDocument):
        if document.evaluation is not Evaluation.FIRST_MATCH:
            continue
        conditions = [condition_of(rule.when) for rule in document.rules]
        index = Index([tuple(clause for clause in condition if not clause.negated) for condition in conditions])
        for position, rule in enumerate(document.rules):
            for other in index.matching(_specimen(conditions[position])):
                above = document.rules[other]
                # A rule that skips requests without its key leaves those to the rules below it.
                skips = above.on_missing_key is OnMissingKey.SKIP
                if other < position and not skips and covers(conditions[other], conditions[position]):
                    yield _shadow_warning(rule, above)
                    break


def _specimen(condition: Condition) -> Attributes:
    """A request that fulfils a condition's positive clauses: what covers the condition must match it too."""
    attributes: dict[str, tuple[str, ...]] = {}
    for clause in condition:
        if clause.values and not clause.negated:
            attributes[clause.attribute] = (*attributes.get(clause.attribute, ()), min(clause.values))
    return attributes


def _shadow_warning(rule: BudgetRule, above: BudgetRule) -> PolicyError:
    if above.audit_mode and not rule.audit_mode:
        problem = f"never refuses: the audit rule {shown(above.id)} above it matches first and always allows"
    else:
        problem = f"never decides: the rule {shown(above.id)} above it matches first, so this one only tracks"
    return rule.where.error("id", problem, "move it up, narrow the other, or write evaluation: all")


def covers(wide: Condition, narrow: Condition) -> bool:
    """Whether every request that fulfils `narrow` fulfils `wide`, as far as their clauses show it."""
    return all(any(_implies(mine, clause) for mine in narrow) for clause in wide)


def _implies(narrow: Clause, wide: Clause) -> bool:
    if narrow.attribute != wide.attribute or narrow.negated != wide.negated:
        return False
    return narrow.values >= wide.values if wide.negated else narrow.values <= wide.values


def _empty_lists(when: When) -> Iterator[PolicyError]:
    for field in ("subjects", "models", "plans", "environments"):
        if getattr(when, field) == ():
            yield when.where.error(field, "an empty list is no condition: it matches everything", "remove it")
    for key, wanted in when.metadata.items():
        if wanted == ():
            yield when.where.error(f"metadata.{key}", "an empty list matches nothing", "name a value, or remove it")


def _unknown_models(snapshot: Snapshot, when: When) -> Iterator[PolicyError]:
    """A model name that no target can have."""
    models = when.models.in_ if isinstance(when.models, InNotIn) else when.models
    field = "models.in" if isinstance(when.models, InNotIn) else "models"
    for index, name in enumerate(models or ()):
        account, slash, _ = name.partition("/")
        if name == "*" or name in snapshot.virtual_models or (slash and account in snapshot.accounts):
            continue
        known = ", ".join(sorted(snapshot.accounts))
        problem = f"{shown(name)} matches nothing: it is no virtual model, and no provider account is named {account!r}"
        if not slash:
            problem = f"{shown(name)} matches nothing: it is no virtual model, and names no account"
        yield when.where.error(f"{field}[{index}]", problem, f"write account/model with one of: {known}")


def _unknown_subjects(snapshot: Snapshot, rule: Located, when: When) -> Iterator[PolicyError]:
    """Teams, virtual accounts and tenants come from identity documents only; without one there are none."""
    identity = snapshot.documents_of(IdentityDocument)
    if any(document.keys or document.jwt for document in identity):
        return
    kinds = {
        value.partition(":")[0]
        for clause in condition_of(when)
        if clause.attribute == SUBJECT and not clause.negated
        for value in clause.values
    }
    if kinds and "user" not in kinds:
        named = " and ".join(f"{kind}s" for kind in sorted(kinds))
        problem = f"matches nobody yet: {named} are known by keys or tokens, and no identity document has any"
        yield rule.where.error("when", problem, "add a gateway-identity-config, or match on metadata")


def _unsampled(snapshot: Snapshot, samples: Sequence[MatchFacts]) -> Iterator[PolicyError]:
    matched = {(r.account.document_type, r.account.rule_id) for facts in samples for r in snapshot.match(facts)}
    for document in snapshot.documents:
        if isinstance(document, BudgetDocument | RateDocument):
            ids: list[tuple[Located, str]] = [(rule, rule.id) for rule in document.rules]
        elif isinstance(document, TenantBudgetDocument | TeamBudgetDocument):
            ids = [(document, document.name)]
        else:
            continue
        for rule, name in ids:
            if (document.type, name) not in matched:
                problem = f"{shown(name)} is matched by none of the {len(samples)} sample requests"
                yield rule.where.error("when", problem, "correct the rule, or add a sample that it should match")
