"""What in a policy set is allowed and yet looks like a mistake: `tollgate check` prints these as warnings."""

from __future__ import annotations

from collections.abc import Iterator

from ext_proc.policy.conditions import condition_of
from ext_proc.policy.documents.budget import BudgetDocument, BudgetRule, Evaluation
from ext_proc.policy.errors import PolicyError
from ext_proc.policy.scalars import shown
from ext_proc.policy.snapshot import Snapshot


def lint(snapshot: Snapshot) -> list[PolicyError]:
    """Every warning of a set, in file and line order."""
    return sorted(_shadowed(snapshot))


def _shadowed(snapshot: Snapshot) -> Iterator[PolicyError]:
    """With `first_match` a rule below one that matches everything it matches can never decide."""
    for document in snapshot.documents_of(BudgetDocument):
        if document.evaluation is not Evaluation.FIRST_MATCH:
            continue
        for index, rule in enumerate(document.rules):
            above = next((other for other in document.rules[:index] if _covers(other, rule)), None)
            if above is None:
                continue
            if above.audit_mode and not rule.audit_mode:
                problem = f"never refuses: the audit rule {shown(above.id)} above it matches first and always allows"
            else:
                problem = f"only tracks: the rule {shown(above.id)} above it matches first"
            yield rule.where.error("id", problem, "move it up, narrow the other, or write evaluation: all")


def _covers(above: BudgetRule, below: BudgetRule) -> bool:
    """Whether every request that `below` matches is also matched by `above`, as far as their clauses show it."""
    narrower = condition_of(below.when)
    return all(
        any(
            mine.attribute == wide.attribute
            and mine.negated == wide.negated
            and (mine.values >= wide.values if wide.negated else mine.values <= wide.values)
            for mine in narrower
        )
        for wide in condition_of(above.when)
    )
