"""The compiled policy: immutable, asked once per request.

Documents (what a person writes) become one `Snapshot`; a request keeps the snapshot it began with. Matching is indexed
by what rules match on, so that ten thousand rules cost a request about what ten do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ext_proc.identity.caller import Caller
from ext_proc.ledger.interface import AccountSpec


class OnInsufficient(StrEnum):
    """What a rule does when the rest cannot carry the full output bound."""

    REFUSE = "refuse"
    CLAMP = "clamp"


class OnStoreFailure(StrEnum):
    """What a rule does when Redis does not answer."""

    REFUSE = "refuse"
    ALLOW = "allow"
    LOCAL = "local"


class Unpriced(StrEnum):
    """What happens to a model without a known price."""

    REFUSE = "refuse"
    CEILING = "ceiling"
    FREE = "free"


class ErrorFormat(StrEnum):
    """The shape of `error` in a refusal: the caller's dialect, or a plain string."""

    DIALECT = "dialect"
    FLAT = "flat"


@dataclass(frozen=True, slots=True)
class MatchFacts:
    """What rules are matched on. `target` is the `account/model` that is to serve."""

    caller: Caller
    requested_model: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MatchedRule:
    """One rule that matches, as a ledger account, and what it does when it decides."""

    account: AccountSpec
    deciding: bool  # False: the rule only tracks (audit mode, or not the first match of its document)
    audit: bool
    on_insufficient: OnInsufficient = OnInsufficient.REFUSE
    min_output_tokens: int = 1
    strict: bool = False  # `admission: strict`: bounds that cannot be exceeded
    on_store_failure: OnStoreFailure = OnStoreFailure.REFUSE
    mitigation: str | None = None  # a text of the rule's own


@dataclass(frozen=True, slots=True)
class TagFinding:
    """Required tags that a request lacks. `enforced` False: counted and warned about only."""

    rule_id: str
    missing: tuple[str, ...]
    enforced: bool


@dataclass(frozen=True, slots=True)
class ProviderModel:
    """One model of a provider account with a private price; dollars as written, or None for the public price."""

    name: str
    cost: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class ProviderAccount:
    """Where requests for `account/…` go, and with which credential."""

    name: str
    provider: str  # openai, anthropic, gemini, openai-compatible, …
    endpoint: str  # scheme://host[:port][/base path]
    credential_env: str | None = None
    credential_file: str | None = None
    models: tuple[ProviderModel, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """`gateway-settings`, with its defaults."""

    error_format: ErrorFormat = ErrorFormat.DIALECT
    metadata_header: str = "x-tfy-metadata"
    quota_request_link: str = "/governance/quota"
    dashboard_link: str | None = None
    unpriced: Unpriced = Unpriced.CEILING
    default_output_tokens: int = 1024
    metric_labels: tuple[str, ...] = ()
    user_label: bool = True
    top_consumer_by: tuple[str, ...] = ("pipeline", "agent_step", "repo", "user")
    series_tags: tuple[str, ...] = ("cost_center", "repo", "pipeline", "agent_step", "tenant")
    unmetered_paths: tuple[str, ...] = ()
