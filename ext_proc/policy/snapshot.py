"""The compiled policy: immutable, asked once per request.

Documents (what a person writes) become one `Snapshot`; a request keeps the snapshot it began with. Matching is indexed
by what rules match on, so that ten thousand rules cost a request about what ten do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ext_proc.identity.caller import Caller
from ext_proc.policy.fields import Located
from ext_proc.policy.guardrails import GuardedRequest, GuardrailFinding, GuardrailSet
from ext_proc.policy.rules import OverrideRuleSet, RuleSet, TagRuleSet
from ext_proc.policy.terms import (
    Batch,
    ConstrainAction,
    Constrained,
    ContentLogging,
    ContentSink,
    DatedCost,
    ErrorFormat,
    InvalidTag,
    MatchedRule,
    MatchFacts,
    OnExhausted,
    OnExhaustedStream,
    OnInsufficient,
    OnMissingKey,
    OnStoreFailure,
    ProviderAccount,
    ProviderModel,
    Settings,
    TagFinding,
    Unpriced,
)
from ext_proc.refusal import Refusal

__all__ = [
    "Batch",
    "ConstrainAction",
    "Constrained",
    "ContentLogging",
    "ContentSink",
    "DatedCost",
    "ErrorFormat",
    "GuardedRequest",
    "GuardrailFinding",
    "InvalidTag",
    "MatchFacts",
    "MatchedRule",
    "OnExhausted",
    "OnExhaustedStream",
    "OnInsufficient",
    "OnMissingKey",
    "OnStoreFailure",
    "ProviderAccount",
    "ProviderModel",
    "Settings",
    "Snapshot",
    "TagFinding",
    "Unpriced",
]

DocumentT = TypeVar("DocumentT", bound=Located)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One policy set. `version` is a hash of the files it was read from."""

    version: str
    settings: Settings
    accounts: Mapping[str, ProviderAccount]  # provider accounts by name
    virtual_models: frozenset[str]
    rules: RuleSet = field(repr=False)
    tag_rules: TagRuleSet = field(repr=False)
    override_rules: OverrideRuleSet = field(repr=False)
    guardrails: GuardrailSet = field(repr=False)
    documents: tuple[Located, ...] = field(repr=False)

    def match(self, facts: MatchFacts) -> tuple[MatchedRule, ...]:
        """Every budget and rate rule a request falls on, in document and rule order."""
        return self.rules.match(facts)

    def missing_tags(self, facts: MatchFacts) -> tuple[TagFinding, ...]:
        """The tags a request lacks, by tagging rule, then by rule with `on_missing_key: refuse`."""
        return self.tag_rules.missing(facts) + self.rules.missing_keys(facts)

    def invalid_tags(self, caller: Caller) -> tuple[InvalidTag, ...]:
        """The tags whose values the glossary does not allow."""
        return self.tag_rules.invalid(caller.tags)

    def guard(self, facts: MatchFacts, request: GuardedRequest) -> tuple[GuardrailFinding, ...]:
        """Every guardrail a request breaks, in rule order."""
        return self.guardrails.check(facts, request)

    def target_refusal(self, facts: MatchFacts, region: str | None) -> Refusal | None:
        """Why guardrails keep the target of these facts from serving in this region; None where it may."""
        return self.guardrails.target_refusal(facts, region)

    def output_cap(self, facts: MatchFacts) -> int | None:
        """The limit that guardrails put on a request's output tokens, None without one."""
        return self.guardrails.output_cap(facts)

    def override_tags(self, caller: Caller) -> dict[str, str]:
        """The tags the gateway sets for a caller, whatever the client sent."""
        return self.override_rules.tags(caller)

    def documents_of(self, model: type[DocumentT]) -> tuple[DocumentT, ...]:
        """The documents of one type, in order: for the rooms that give them their behaviour."""
        return tuple(document for document in self.documents if isinstance(document, model))
