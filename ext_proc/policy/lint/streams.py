"""Rules that cut streams, and accounts whose streams nobody can cut."""

from __future__ import annotations

from collections.abc import Iterator

from ext_proc.dialects import registry
from ext_proc.dialects.providers import speaks
from ext_proc.policy.condition import ACCOUNT, MODEL
from ext_proc.policy.conditions import condition_of
from ext_proc.policy.documents.budget import BudgetDocument, BudgetRule
from ext_proc.policy.errors import PolicyError
from ext_proc.policy.snapshot import OnExhaustedStream, Snapshot


def stream_warnings(snapshot: Snapshot) -> Iterator[PolicyError]:
    """`on_exhausted_stream: cut` where streams that the rule matches run to their end all the same."""
    for document in snapshot.documents_of(BudgetDocument):
        for rule in document.rules:
            if rule.on_exhausted_stream is OnExhaustedStream.CUT:
                yield from _uncut(snapshot, rule)


def _uncut(snapshot: Snapshot, rule: BudgetRule) -> Iterator[PolicyError]:
    if rule.audit_mode:
        problem = "a rule in audit mode cuts nothing"
        yield rule.where.error("on_exhausted_stream", problem, "remove audit_mode, or the field")
    named = _named_accounts(rule)
    uncut = [
        f"{name} ({account.provider})"
        for name, account in sorted(snapshot.accounts.items())
        if (named is None or name in named) and not _can_be_cut(account.provider)
    ]
    if uncut:
        problem = f"streams of {', '.join(uncut)} cannot be cut: they run to their end"
        yield rule.where.error("on_exhausted_stream", problem, "bound their output instead: admission: strict")


def _named_accounts(rule: BudgetRule) -> frozenset[str] | None:
    """The accounts that the rule names, with or without their models; None where it may match any."""
    for clause in condition_of(rule.when):
        if not clause.negated and clause.attribute in {ACCOUNT, MODEL}:
            return frozenset(value.partition("/")[0] for value in clause.values)
    return None


def _can_be_cut(provider: str) -> bool:
    """Whether every stream of the dialects that a provider speaks can be ended."""
    spoken = [registry.dialect(name) for name in registry.dialect_names() if speaks(provider, name)]
    return all(dialect.can_end_streams for dialect in spoken if dialect.operation in {"chat", "text_completion"})
