"""Chains that no single request could go through, because their accounts speak differently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ext_proc.dialects.providers import families
from ext_proc.policy.documents import Document
from ext_proc.policy.documents.provider import ProviderDocument
from ext_proc.policy.documents.routing import RoutingDocument
from ext_proc.policy.errors import PolicyError
from ext_proc.policy.scalars import shown


def chain_conflicts(documents: Sequence[Document]) -> Iterator[PolicyError]:
    """Every such chain. Without provider documents the accounts are the built-in ones."""
    provider_documents = [document for document in documents if isinstance(document, ProviderDocument)]
    providers = {
        account.name: account.provider for document in provider_documents for account in document.all_accounts()
    } or {"openai-main": "openai", "anthropic-main": "anthropic", "gemini-main": "gemini"}
    for document in documents:
        if isinstance(document, RoutingDocument):
            yield from _chains(document, providers)


def _chains(document: RoutingDocument, providers: Mapping[str, str]) -> Iterator[PolicyError]:
    for rule in document.rules:
        first: str | None = None
        for target in rule.load_balance_targets:
            account = target.target.partition("/")[0]
            if account not in providers:
                continue  # a lint tells of it
            if first is None:
                first = account
            elif not families(providers[first]) & families(providers[account]):
                yield target.where.error("target", *_differ(first, account, providers))


def _differ(one: str, other: str, providers: Mapping[str, str]) -> tuple[str, str]:
    problem = (
        f"crosses dialects: {shown(one)} speaks {'/'.join(sorted(families(providers[one])))}, "
        f"{shown(other)} speaks {'/'.join(sorted(families(providers[other])))}"
    )
    return problem, "name targets that speak one dialect"
