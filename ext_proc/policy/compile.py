"""Documents → snapshot: what a person wrote becomes what is asked once per request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from decimal import Decimal
from types import MappingProxyType
from typing import assert_never

from ext_proc.ledger.realms import Realms
from ext_proc.policy.budget_rules import budget_rules, rate_rules, team_budget_rules, tenant_budget_rules
from ext_proc.policy.conditions import condition_of
from ext_proc.policy.documents import Document
from ext_proc.policy.documents.budget import BudgetDocument
from ext_proc.policy.documents.budget_v2 import TeamBudgetDocument, TenantBudgetDocument
from ext_proc.policy.documents.common import InNotIn
from ext_proc.policy.documents.guardrail import GuardrailDocument
from ext_proc.policy.documents.identity import IdentityDocument
from ext_proc.policy.documents.notification import NotificationDocument
from ext_proc.policy.documents.provider import (
    DEFAULT_ENDPOINTS,
    Account,
    Model,
    PrivateCost,
    ProviderDocument,
    parse_day,
)
from ext_proc.policy.documents.rate_limit import RateDocument
from ext_proc.policy.documents.routing import RoutingDocument
from ext_proc.policy.documents.settings import ContentLog, SettingsDocument
from ext_proc.policy.documents.tagging import MetadataDocument, TaggingDocument, TaggingMode, UnknownValue
from ext_proc.policy.fields import Located
from ext_proc.policy.guardrails import GuardrailRule, GuardrailSet
from ext_proc.policy.patterns import compile_pattern
from ext_proc.policy.rules import OverrideRule, OverrideRuleSet, Rule, RuleSet, TagRule, TagRuleSet, TagValues
from ext_proc.policy.schema import yaml_name
from ext_proc.policy.snapshot import Snapshot
from ext_proc.policy.terms import AwsSigning, ContentLogging, DatedCost, ProviderAccount, ProviderModel, Settings
from ext_proc.pricing.schedule import start_of_day_us

DEFAULT_ACCOUNTS: Mapping[str, ProviderAccount] = MappingProxyType(
    {
        account.name: account
        for account in (
            ProviderAccount("openai-main", "openai", DEFAULT_ENDPOINTS["openai"], credential_env="OPENAI_API_KEY"),
            ProviderAccount(
                "anthropic-main", "anthropic", DEFAULT_ENDPOINTS["anthropic"], credential_env="ANTHROPIC_API_KEY"
            ),
            ProviderAccount("gemini-main", "gemini", DEFAULT_ENDPOINTS["gemini"], credential_env="GEMINI_API_KEY"),
        )
    }
)
"""The provider accounts that exist where no provider document does."""


def compile_documents(documents: Sequence[Document], version: str) -> Snapshot:
    """The snapshot of documents that agree with each other (`conflicts` found nothing)."""
    virtual = frozenset(virtual_models(documents))
    return Snapshot(
        version=version,
        settings=_settings(documents),
        accounts=_accounts(documents),
        virtual_models=virtual,
        rules=RuleSet([rule for document in documents for rule in compiled_rules(document)], virtual),
        tag_rules=TagRuleSet(list(_tag_rules(documents)), virtual, list(_tag_values(documents))),
        override_rules=OverrideRuleSet(list(_override_rules(documents))),
        guardrails=GuardrailSet(list(_guardrails(documents)), virtual),
        documents=tuple(documents),
    )


def compiled_rules(document: Document) -> Iterator[Rule]:
    """The budget and rate rules of a document, in order."""
    match document:
        case BudgetDocument():
            yield from budget_rules(document)
        case TenantBudgetDocument():
            yield from tenant_budget_rules(document)
        case TeamBudgetDocument():
            yield from team_budget_rules(document)
        case RateDocument():
            yield from rate_rules(document)
        case (
            SettingsDocument()
            | TaggingDocument()
            | MetadataDocument()
            | IdentityDocument()
            | ProviderDocument()
            | GuardrailDocument()
            | RoutingDocument()
            | NotificationDocument()
        ):
            return
        case _:
            assert_never(document)


def virtual_models(documents: Sequence[Document]) -> Iterator[str]:
    """The names that routing rules match on: what is requested, not what serves."""
    for document in documents:
        if isinstance(document, RoutingDocument):
            for rule in document.rules:
                models = rule.when.models
                yield from (models.in_ or ()) if isinstance(models, InNotIn) else (models or ())


def _settings(documents: Sequence[Document]) -> Settings:
    written: dict[str, object] = {}
    for document in documents:
        if isinstance(document, SettingsDocument):
            names = {f.name for f in fields(Settings)} & {f.name for f in fields(SettingsDocument)}
            written |= {name: getattr(document, name) for name in names}
            if document.ledger is not None:
                written["realms"] = Realms(document.ledger.realms)
            written["content_log"] = _content_logging(document.content_log)
        elif isinstance(document, TaggingDocument) and "header" in document.where.lines:
            written["metadata_header"] = document.header.lower()
    return Settings(**written)  # type: ignore[arg-type]  # both classes declare the same types for one name


def _content_logging(written: ContentLog | None) -> ContentLogging | None:
    if written is None:
        return None
    return ContentLogging(
        condition=condition_of(written.when),
        sink=written.sink,
        redact=tuple(compile_pattern(pattern) for pattern in written.redact),
        max_body_bytes=written.max_body_bytes,
        max_file_bytes=written.max_file_bytes,
    )


def _accounts(documents: Sequence[Document]) -> Mapping[str, ProviderAccount]:
    provider_documents = [document for document in documents if isinstance(document, ProviderDocument)]
    if not provider_documents:
        return DEFAULT_ACCOUNTS
    accounts = [_account(account) for document in provider_documents for account in document.all_accounts()]
    return MappingProxyType({account.name: account for account in accounts})


def _account(account: Account) -> ProviderAccount:
    endpoint = account.endpoint or DEFAULT_ENDPOINTS[account.provider]
    signing = _signing(account)
    return ProviderAccount(
        name=account.name,
        provider=account.provider,
        endpoint=endpoint.rstrip("/"),
        credential_env=account.credential.env if account.credential else None,
        credential_file=account.credential.file if account.credential and signing is None else None,
        client_credential=account.credential is not None and account.credential.client,
        models=tuple(_model(model) for model in account.models),
        region=account.region,
        signing=signing,
    )


def _signing(account: Account) -> AwsSigning | None:
    credential = account.credential
    if credential is None or credential.aws is None:
        return None
    assert account.region is not None, "problems() refuses a signed account without a region"
    return AwsSigning(account.region, credential.aws, credential.file, credential.profile)


def _model(model: Model) -> ProviderModel:
    costs = tuple(private_costs(model))
    return ProviderModel(model.name, costs[-1].cost if costs else None, costs, model.region)


def private_costs(model: Model) -> Iterator[DatedCost]:
    """The private prices of a model, in order; none for the public price."""
    if isinstance(model.cost, str):
        return
    for cost in (model.cost,) if isinstance(model.cost, PrivateCost) else model.cost:
        written = _written(cost)
        day = parse_day(str(written.pop("from", "")))
        yield DatedCost(0 if day is None else start_of_day_us(day), MappingProxyType(written))


def _written(item: Located) -> dict[str, object]:
    """A model as plain values: the fields that are written, by the names they are written in."""
    return {
        name: _plain(getattr(item, f.name)) for f in fields(item) if (name := yaml_name(f.name)) in item.where.lines
    }


def _plain(value: object) -> object:
    match value:
        case Located():
            return MappingProxyType(_written(value))
        case tuple():
            return tuple(_plain(part) for part in value)
        case Decimal():
            return f"{value:f}"
        case str():
            return str(value)  # of an enum its value
        case _:
            return value


def _tag_rules(documents: Sequence[Document]) -> Iterator[TagRule]:
    for document in documents:
        if isinstance(document, TaggingDocument):
            for rule in document.rules:
                yield TagRule(rule.id, condition_of(rule.when), rule.required_, rule.mode is TaggingMode.ENFORCE)


def _tag_values(documents: Sequence[Document]) -> Iterator[TagValues]:
    for document in documents:
        for tag, definition in document.tags.items() if isinstance(document, TaggingDocument) else ():
            if definition.values or definition.pattern is not None:
                yield TagValues(
                    tag=tag,
                    values=frozenset(entry.value for entry in definition.values) if definition.values else None,
                    pattern=None if definition.pattern is None else compile_pattern(definition.pattern),
                    pattern_text=definition.pattern or "",
                    enforced=definition.unknown_value is UnknownValue.REFUSE,
                )


def _override_rules(documents: Sequence[Document]) -> Iterator[OverrideRule]:
    for document in documents:
        if isinstance(document, MetadataDocument):
            for rule in document.rules:
                yield OverrideRule(condition_of(rule.when), rule.metadata_override)


def _guardrails(documents: Sequence[Document]) -> Iterator[GuardrailRule]:
    for document in documents:
        if isinstance(document, GuardrailDocument):
            for rule in document.rules:
                yield GuardrailRule(
                    id=rule.id,
                    condition=condition_of(rule.when),
                    audit=rule.audit_mode,
                    max_input_tokens=rule.max_input_tokens,
                    max_output_tokens=rule.max_output_tokens,
                    max_body_bytes=rule.max_body_bytes,
                    denied_patterns=tuple((d.name, compile_pattern(d.pattern)) for d in rule.denied_patterns),
                    allow_models=None if rule.allow_models is None else frozenset(rule.allow_models),
                    deny_models=frozenset(rule.deny_models),
                    allow_paths=rule.allow_paths,
                    deny_paths=rule.deny_paths,
                    allowed_regions=rule.allowed_regions,
                    mitigation=rule.mitigation,
                )
