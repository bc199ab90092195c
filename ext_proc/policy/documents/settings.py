"""`gateway-settings`: how answers look, what is measured, and the defaults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ext_proc.policy.documents.tagging import CallerWhen
from ext_proc.policy.fields import Located, Problem, optional, required
from ext_proc.policy.patterns import pattern_problem
from ext_proc.policy.scalars import shown
from ext_proc.policy.terms import Batch, ContentSink, ErrorFormat, Settings, Unpriced

_DEFAULTS = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSettings(Located):
    """How the ledger is laid out over a Redis Cluster. It may only be changed with the whole gateway stopped."""

    realm_by: Literal["tenant"] = required(
        "What splits the ledger: accounts that a rule keeps per tenant live in their tenant's realm, all others in one "
        "that is shared.",
        example="tenant",
    )
    realms: int = optional(
        "How many realms the tenants are spread over: each is a slot of the Cluster, and a connection of each worker.",
        default=16,
        minimum=2,
        maximum=128,
        example="16",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentLog(Located):
    """Who may have the contents of requests and answers logged. A request is logged only where it asks for it too."""

    when: CallerWhen = required("Whose requests; `{}` is everybody's.", example="{subjects: [team:search]}")
    sink: ContentSink = optional(
        "A `file` in the state directory, one per worker; or `stdout` of the worker, for a collector of your own.",
        default=ContentSink.FILE,
        example="file",
    )
    redact: tuple[str, ...] = optional(
        "What is taken out beside credentials: RE2 syntax, anywhere in a text.",
        default=(),
        max_items=100,
        example="['\\b4[0-9]{15}\\b']",
    )
    max_body_bytes: int = optional(
        "How much of each body is kept.", default=16_384, minimum=1, maximum=65_536, example="16384"
    )
    max_file_bytes: int = optional(
        "How large a file grows before it is put aside as `.1`, in place of the one before.",
        default=16 << 20,
        minimum=1 << 16,
        maximum=1 << 30,
        example="16777216",
    )

    def problems(self) -> Iterator[Problem]:
        """Patterns compile."""
        for index, pattern in enumerate(self.redact):
            problem = pattern_problem(pattern)
            if problem:
                yield (f"redact[{index}]", *problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsDocument(Located):
    """What holds for every request."""

    name: str = required("Names the document.", example="settings")
    type: Literal["gateway-settings"] = required("The kind of document.", example="gateway-settings")
    error_format: ErrorFormat = optional(
        "The shape of `error` in refusals: the caller's `dialect`, or a `flat` text.",
        default=_DEFAULTS.error_format,
        example="dialect",
    )
    quota_request_link: str = optional(
        "Where more is asked for; refusals name it. May hold `{rule}` and `{metadata.<key>}`.",
        default=_DEFAULTS.quota_request_link,
        example="https://governance.example.com/quota?rule={rule}",
    )
    dashboard_link: str | None = optional(
        "Where spend is shown; refusals carry it. May hold `{rule}` and `{metadata.<key>}`.",
        example="https://grafana.example.com/d/llm?var-cost_center={metadata.cost_center}",
    )
    unpriced: Unpriced | None = optional(
        "A model without a known price: `refuse`, charge the provider's dearest known price (`ceiling`), or `free`. "
        "Left out, a model that its account declares is charged the ceiling and any other name is refused as unknown.",
        example="ceiling",
    )
    default_output_tokens: int = optional(
        "The output that is held for when a request has no limit and nothing is learned yet.",
        default=_DEFAULTS.default_output_tokens,
        minimum=1,
        maximum=1_000_000,
        example="1024",
    )
    metric_labels: tuple[str, ...] = optional(
        "Tags that become metric labels.", default=_DEFAULTS.metric_labels, max_items=10, example="[cost_center]"
    )
    user_label: bool = optional("Whether metrics carry the user.", default=_DEFAULTS.user_label, example="false")
    top_consumer_by: tuple[str, ...] = optional(
        "Tags a refusal looks through for the largest consumer.",
        default=_DEFAULTS.top_consumer_by,
        max_items=10,
        example="[pipeline, repo]",
    )
    series_tags: tuple[str, ...] = optional(
        "Tags that spend is kept by over time.",
        default=_DEFAULTS.series_tags,
        max_items=10,
        example="[cost_center, repo]",
    )
    unmetered_paths: tuple[str, ...] = optional(
        "Path prefixes that pass without metering.", default=_DEFAULTS.unmetered_paths, example="[/v1/models]"
    )
    batch: Batch = optional(
        "Batch APIs: `hold` the batches of OpenAI and Anthropic whose requests pass here, and refuse what cannot be "
        "held; `refuse` all; or `allow` all, past every budget.",
        default=_DEFAULTS.batch,
        example="allow",
    )
    content_log: ContentLog | None = optional(
        "Who may have contents logged; left out, no content of anybody is.", example="{when: {subjects: [team:search]}}"
    )

    ledger: LedgerSettings | None = optional(
        "How the ledger is laid out over a Redis Cluster; left out, it has one realm, in one slot.",
        example="{realm_by: tenant, realms: 16}",
    )

    def problems(self) -> Iterator[Problem]:
        """Paths are paths."""
        for index, path in enumerate(self.unmetered_paths):
            if not path.startswith("/"):
                yield (f"unmetered_paths[{index}]", f"{shown(path)} is no path", "start it with /")
