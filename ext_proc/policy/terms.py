"""What a policy says, as the values that the other rooms use: choices, matched rules, accounts, settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ext_proc.identity.caller import Caller
from ext_proc.ledger.interface import AccountSpec
from ext_proc.ledger.realms import ONE_REALM, Realms
from ext_proc.policy.condition import Condition
from ext_proc.policy.patterns import Pattern

_PROFILE = re.compile(r"([a-z]{2,6}(?:-gov)?)\.[a-z0-9]+\.")
"""Bedrock's inference profiles: `eu.anthropic.claude-…`; a bare model has its maker in the first place and no third."""


class OnInsufficient(StrEnum):
    """What a rule does when the rest cannot carry the full output bound."""

    REFUSE = "refuse"
    CLAMP = "clamp"


class OnStoreFailure(StrEnum):
    """What a rule does when Redis does not answer."""

    REFUSE = "refuse"
    ALLOW = "allow"
    LOCAL = "local"


class OnExhausted(StrEnum):
    """What a rule does past its cap."""

    REFUSE = "refuse"
    DOWNGRADE = "downgrade"  # free and self-hosted targets only
    LATCH = "latch"  # stays shut across resets until resumed by hand


class OnExhaustedStream(StrEnum):
    """What a rule does to an answer that goes on past what was held for it, once the account is exhausted."""

    FINISH = "finish"
    CUT = "cut"


class OnMissingKey(StrEnum):
    """What a rule does with a request that lacks what it applies per."""

    BUCKET = "bucket"  # counts in the bucket `(none)`
    SKIP = "skip"  # the rule does not match
    REFUSE = "refuse"


class ConstrainAction(StrEnum):
    """What a constrained account does to premium models."""

    DOWNGRADE = "downgrade"
    NONE = "none"
    REFUSE_PREMIUM = "refuse_premium"
    THROTTLE = "throttle"


class Unpriced(StrEnum):
    """What happens to a model without a known price."""

    REFUSE = "refuse"
    CEILING = "ceiling"
    FREE = "free"


class Batch(StrEnum):
    """Whether requests may be handed to a provider in batches."""

    HOLD = "hold"  # against every budget, where they can be; others are refused
    REFUSE = "refuse"
    ALLOW = "allow"  # past every budget


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

    def served_by(self, target: str) -> MatchFacts:
        """The same request where this target serves."""
        return self if target == self.target else replace(self, target=target)


@dataclass(frozen=True, slots=True)
class Constrained:
    """What a rule does once `at_percent` of its cap is spent. `throttle` is the rate account of a throttled caller."""

    at_percent: int
    action: ConstrainAction
    throttle: AccountSpec | None = None

    def spent_below(self, cap: int) -> int:
        """The first spent amount that is constrained: at least `at_percent` of the cap."""
        return -(-cap * self.at_percent // 100)


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
    dashboard: str | None = None  # a link of the rule's own
    on_exhausted: OnExhausted = OnExhausted.REFUSE
    cuts_streams: bool = False  # `on_exhausted_stream: cut`
    constrained: Constrained | None = None  # None: nothing happens before the cap
    would_decide: bool = False  # in audit mode, and would decide were it enforced
    subject: tuple[str, str] | None = None  # the one tag or caller its `when` names: whom the budget belongs to


@dataclass(frozen=True, slots=True)
class TagFinding:
    """Required tags that a request lacks. `enforced` False: counted and warned about only."""

    rule_id: str
    missing: tuple[str, ...]
    enforced: bool


@dataclass(frozen=True, slots=True)
class InvalidTag:
    """A tag whose value the glossary does not allow. `enforced` False: counted and warned about only."""

    tag: str
    problem: str  # a sentence for the caller
    cure: str  # a sentence: what would be right
    enforced: bool


@dataclass(frozen=True, slots=True)
class DatedCost:
    """A private price from a day on, as `pricing.private` reads it: dollars as the decimal text that was written."""

    from_us: int  # midnight UTC of the day; 0: from the beginning
    cost: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ProviderModel:
    """One model of a provider account; `costs` are its private prices in rising order of day, none for the public one.

    `cost` is the newest of them.
    """

    name: str
    cost: Mapping[str, object] | None = None
    costs: tuple[DatedCost, ...] = ()
    region: str | None = None  # None: its account's


class AwsSource(StrEnum):
    """Where Envoy finds the AWS credentials that it signs with."""

    ENVIRONMENT = "environment"
    FILE = "file"
    CHAIN = "chain"  # AWS's own order: environment, files, web identity, container, instance


@dataclass(frozen=True, slots=True)
class AwsSigning:
    """How requests of an account are signed (SigV4). Envoy reads the credentials; they pass no hand of ours."""

    region: str
    source: AwsSource
    file: str | None = None
    profile: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderAccount:
    """Where requests for `account/…` go, and with which credential."""

    name: str
    provider: str  # openai, anthropic, gemini, openai-compatible, …
    endpoint: str  # scheme://host[:port][/base path]
    credential_env: str | None = None
    credential_file: str | None = None
    client_credential: bool = False  # each client brings a provider key of its own
    models: tuple[ProviderModel, ...] = ()
    region: str | None = None
    signing: AwsSigning | None = None

    def region_of(self, model: str) -> str | None:
        """Where a model is served; None where nobody says.

        Bedrock's inference profiles serve where their names begin with: `eu.` in Europe, `global.` anywhere.
        """
        written = next((entry.region for entry in self.models if entry.name == model), None)
        if written is None and self.provider == "bedrock" and (profile := _PROFILE.match(model.rpartition("/")[2])):
            return profile[1]
        return written or self.region


class ContentSink(StrEnum):
    """Where the contents of requests are logged."""

    FILE = "file"
    STDOUT = "stdout"


@dataclass(frozen=True, slots=True)
class ContentLogging:
    """Whose contents may be logged, and how: `content_log` of the settings."""

    condition: Condition  # over what is known of the caller
    sink: ContentSink
    redact: tuple[Pattern, ...]  # beside the shapes of secrets
    max_body_bytes: int
    max_file_bytes: int


@dataclass(frozen=True, slots=True)
class Settings:
    """`gateway-settings`, with its defaults."""

    error_format: ErrorFormat = ErrorFormat.DIALECT
    metadata_header: str = "x-tfy-metadata"
    quota_request_link: str = "/governance/quota"
    dashboard_link: str | None = None
    unpriced: Unpriced | None = None  # None: CEILING for models their account declares, other names are unknown
    default_output_tokens: int = 1024
    metric_labels: tuple[str, ...] = ()
    user_label: bool = True
    top_consumer_by: tuple[str, ...] = ("pipeline", "agent_step", "repo", "user")
    series_tags: tuple[str, ...] = ("cost_center", "repo", "pipeline", "agent_step", "tenant")
    unmetered_paths: tuple[str, ...] = ()
    batch: Batch = Batch.HOLD
    realms: Realms = ONE_REALM
    content_log: ContentLogging | None = None  # None: no content is ever logged
