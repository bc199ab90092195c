"""A refusal: the one value every "no" of Tollgate is made of, whatever control said it.

Pure data. A dialect gives it the shape its callers' SDKs expect (`Dialect.error_body`); the flat body and the extra
fields (`detail`, `context`, `mitigation`) are the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus


class RefusalType(StrEnum):
    """What kind of control refused. The value is the `type` and `code` a caller sees."""

    BUDGET_EXCEEDED = "budget_exceeded"  # spent: retrying cannot help before the window resets
    BUDGET_CONTENDED = "budget_contended"  # only open holds stand in the way: retry soon
    RATE_LIMITED = "rate_limited"
    GUARDRAIL = "guardrail"
    NOT_TAGGED = "not_tagged"
    NOT_ALLOWED = "not_allowed"
    UNAUTHENTICATED = "unauthenticated"  # a key that is none (any more), or no key where one is needed
    INVALID_METADATA = "invalid_metadata"
    INVALID_REQUEST = "invalid_request"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_PATH = "unknown_path"
    UNPRICED_MODEL = "unpriced_model"
    STORE_UNAVAILABLE = "store_unavailable"
    PROVIDER_FAILED = "provider_failed"  # and no other target could be tried


@dataclass(frozen=True, slots=True)
class Refusal:
    """One answer that says no, why, and what to do next."""

    type: RefusalType
    status: HTTPStatus
    message: str  # one sentence for a person: what was refused and why
    mitigation: str  # one sentence: what to do next
    context: dict[str, object] = field(default_factory=dict)  # rule, spent_to_date, cap, resets_at, also_exceeded, …
    retry_after_seconds: int | None = None
    should_retry: bool | None = None  # False: `x-should-retry: false`, which the OpenAI and Anthropic SDKs obey
    template: str | None = None  # the id of the rule as written, where `rule` is one of its expansions

    @property
    def rule(self) -> str | None:
        """The rule that refused, where one did."""
        rule = self.context.get("rule")
        return rule if isinstance(rule, str) else None

    @property
    def rule_label(self) -> str:
        """The rule as metrics name it: as written, so that buckets do not multiply series; '' where none refused."""
        return self.template or self.rule or ""
