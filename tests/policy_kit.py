"""Policy sets and requests in a line, for the tests of policies."""

from __future__ import annotations

from collections.abc import Mapping

from ext_proc.identity.caller import Caller
from ext_proc.policy.loader import load_files
from ext_proc.policy.snapshot import MatchedRule, MatchFacts, Snapshot
from ext_proc.policy.yaml_source import SourceFile

DOLLAR = 1_000_000_000


def snapshot(*texts: str) -> Snapshot:
    """The snapshot of documents given as text."""
    return load_files([SourceFile(f"{index}.yaml", text.encode()) for index, text in enumerate(texts)])


def facts(
    tags: Mapping[str, str] | None = None,
    target: str = "openai-main/gpt-4o",
    requested: str = "gpt-4o",
    *,
    user: str | None = None,
    team: str | None = None,
    virtual_account: str | None = None,
    tenant: str | None = None,
    plan: str | None = None,
) -> MatchFacts:
    """A request."""
    caller = Caller(user=user, team=team, virtual_account=virtual_account, tenant=tenant, plan=plan, tags=tags or {})
    return MatchFacts(caller, requested, target)


def by_id(matched: tuple[MatchedRule, ...]) -> dict[str, bool]:
    """Expanded rule id → whether it decides."""
    return {rule.account.expanded_id: rule.deciding for rule in matched}
