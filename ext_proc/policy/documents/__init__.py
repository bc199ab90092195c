"""The documents of a policy set, one module per concern: what a person writes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ext_proc.policy.documents.budget import BudgetDocument
from ext_proc.policy.documents.budget_v2 import TeamBudgetDocument, TenantBudgetDocument
from ext_proc.policy.documents.guardrail import GuardrailDocument
from ext_proc.policy.documents.identity import IdentityDocument
from ext_proc.policy.documents.notification import NotificationDocument
from ext_proc.policy.documents.provider import ProviderDocument
from ext_proc.policy.documents.rate_limit import RateDocument
from ext_proc.policy.documents.routing import RoutingDocument
from ext_proc.policy.documents.settings import SettingsDocument
from ext_proc.policy.documents.tagging import MetadataDocument, TaggingDocument
from ext_proc.policy.schema import tag_of

Document = (
    BudgetDocument
    | TenantBudgetDocument
    | TeamBudgetDocument
    | RateDocument
    | TaggingDocument
    | MetadataDocument
    | ProviderDocument
    | IdentityDocument
    | GuardrailDocument
    | NotificationDocument
    | RoutingDocument
    | SettingsDocument
)

_ALL: tuple[type[Document], ...] = (
    SettingsDocument,
    TaggingDocument,
    MetadataDocument,
    IdentityDocument,
    ProviderDocument,
    BudgetDocument,
    TenantBudgetDocument,
    TeamBudgetDocument,
    RateDocument,
    GuardrailDocument,
    RoutingDocument,
    NotificationDocument,
)

DOCUMENT_TYPES: Mapping[str, type[Document]] = MappingProxyType({tag_of(model): model for model in _ALL})
"""`type` as written → model."""
