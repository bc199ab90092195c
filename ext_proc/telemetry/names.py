"""Every metric, label and log name of Tollgate, in one place; nothing else may spell one.

Metric names are families: Prometheus shows a counter as `<family>_total` and a histogram as `<family>_bucket`, `_sum`
and `_count`. docs/metrics.md is held against this table by a test.

Three prefixes. `llm_gateway_*`: the names and labels of TrueFoundry's gateway (whose scrape shows
`llm_gateway_request_total_cost_total`, `llm_gateway_input_tokens_total`), so that dashboards keep working.
`gen_ai_*`: OpenTelemetry's GenAI client names, dots turned to underscores. `tollgate_*`: everything of our own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

METADATA_LABEL_PREFIX = "llm_gateway_metadata_"
"""What a configured metric label (a metadata key) is prefixed with, as TrueFoundry's gateway does."""

OTHER = "other"
"""The label value that stands for all values past the bound."""


class Kind(StrEnum):
    """The metric types in use."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class MetricName:
    """One metric family. `buckets` only for histograms; `at_scrape` families are made by the admin server, not counted
    by workers.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    at_scrape: bool = False

    @property
    def exposed(self) -> str:
        """The name as a query spells it (`_total` on counters)."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name


def _powers(first: float, factor: int, count: int) -> tuple[float, ...]:
    return tuple(first * factor**step for step in range(count))


# OpenTelemetry's advice for GenAI durations: 0.01 s … 81.92 s, doubling. Ours goes on to 655 s: agents run longer.
_DURATION_BUCKETS = _powers(0.01, 2, 17)
# 0.1 ms … 1.6 s: a Redis script takes a fraction of a millisecond, the deadline is below two seconds.
_LEDGER_BUCKETS = _powers(0.0001, 2, 15)
_RATIO_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)

_CHARGED_LABELS = ("model_name", "username", "tenant_name")
_GEN_AI_LABELS = ("gen_ai_operation_name", "gen_ai_request_model")
_GEN_AI_TOKEN_LABELS = (*_GEN_AI_LABELS, "gen_ai_token_modality")
_BUDGET_LABELS = ("document", "rule", "template", "bucket", "unit")

REQUEST_COST = MetricName(
    "llm_gateway_request_total_cost", Kind.COUNTER, "US dollars charged, estimates included.", _CHARGED_LABELS
)
INPUT_TOKENS = MetricName(
    "llm_gateway_input_tokens", Kind.COUNTER, "Input tokens charged, cached ones included.", _CHARGED_LABELS
)
OUTPUT_TOKENS = MetricName(
    "llm_gateway_output_tokens", Kind.COUNTER, "Output tokens charged, reasoning included.", _CHARGED_LABELS
)
GEN_AI_INPUT_TOKENS = MetricName(
    "gen_ai_client_inference_usage_input_tokens", Kind.COUNTER, "Billable input tokens.", _GEN_AI_TOKEN_LABELS
)
GEN_AI_OUTPUT_TOKENS = MetricName(
    "gen_ai_client_inference_usage_output_tokens", Kind.COUNTER, "Billable output tokens.", _GEN_AI_TOKEN_LABELS
)
DURATION = MetricName(
    "gen_ai_client_operation_duration_seconds",
    Kind.HISTOGRAM,
    "From the request's first byte to the answer's last.",
    (*_GEN_AI_LABELS, "error_type"),
    _DURATION_BUCKETS,
)
TIME_TO_FIRST_CHUNK = MetricName(
    "gen_ai_client_operation_time_to_first_chunk_seconds",
    Kind.HISTOGRAM,
    "From the request's first byte to the answer's first: time to first token.",
    _GEN_AI_LABELS,
    _DURATION_BUCKETS,
)
REQUESTS = MetricName(
    "tollgate_requests", Kind.COUNTER, "Requests ended, by what admission decided.", ("verdict", "status")
)
REFUSALS = MetricName("tollgate_refusals", Kind.COUNTER, "Requests refused, by the rule that did.", ("rule", "type"))
SETTLES = MetricName("tollgate_settles", Kind.COUNTER, "Holds settled or released, by basis.", ("basis",))
COST = MetricName("tollgate_cost_nanodollars", Kind.COUNTER, "Nano-dollars charged, by basis; exact.", ("basis",))
LEDGER_SECONDS = MetricName(
    "tollgate_ledger_seconds", Kind.HISTOGRAM, "Time of one ledger call.", ("operation",), _LEDGER_BUCKETS
)
LEDGER_CALLS = MetricName("tollgate_ledger_calls", Kind.COUNTER, "Ledger calls, by result code.", ("operation", "code"))
LEDGER_EVENTS = MetricName(
    "tollgate_ledger_events",
    Kind.COUNTER,
    "What the ledger noticed: time-outs, retries, an opened breaker, data that Redis lost.",
    ("event",),
)
UNPRICED = MetricName("tollgate_unpriced", Kind.COUNTER, "Requests for a model without a known price.", ("model",))
MISSING_KEY = MetricName(
    "tollgate_missing_key", Kind.COUNTER, "Requests that lack the key a rule applies per.", ("rule",)
)
WOULD_REFUSE = MetricName(
    "tollgate_would_refuse", Kind.COUNTER, "Requests that a rule in audit mode would have refused.", ("rule",)
)
WOULD_DOWNGRADE = MetricName(
    "tollgate_would_downgrade",
    Kind.COUNTER,
    "Requests that a rule in audit mode would have sent to a cheaper model.",
    ("rule",),
)
DOWNGRADES = MetricName(
    "tollgate_downgrades",
    Kind.COUNTER,
    "Requests sent to a cheaper model, by the budget or saving rule that did.",
    ("rule",),
)
SCORES = MetricName(
    "tollgate_scores",
    Kind.COUNTER,
    "Scorers asked by saving rules: scored, late, failed, or paused after failures.",
    ("rule", "result"),
)
STREAMS_CUT = MetricName(
    "tollgate_streams_cut",
    Kind.COUNTER,
    "Answers ended because an account was exhausted, by the rule that did.",
    ("rule",),
)
CONTENT_LOG = MetricName(
    "tollgate_content_log",
    Kind.COUNTER,
    "Lines for the content log: written, dropped because too many waited, or failed.",
    ("result",),
)
IGNORED_HEADERS = MetricName(
    "tollgate_ignored_headers", Kind.COUNTER, "x-tfy-* request headers that mean nothing to us.", ("name",)
)
PROTOCOL_ERRORS = MetricName(
    "tollgate_protocol_errors", Kind.COUNTER, "Messages from Envoy or a provider that were not expected.", ("kind",)
)
USAGE_MISSING = MetricName(
    "tollgate_usage_missing", Kind.COUNTER, "Successful answers without usage, charged by estimate.", ("model",)
)
ESTIMATE_RATIO = MetricName(
    "tollgate_estimate_ratio",
    Kind.HISTOGRAM,
    "Reported tokens ÷ tokens assumed at admission; above 1 the hold was too small.",
    ("model", "direction", "source"),
    _RATIO_BUCKETS,
)
POLICY_LOADS = MetricName("tollgate_policy_loads", Kind.COUNTER, "Policy sets loaded or rejected.", ("result",))
POLICY_OK = MetricName("tollgate_policy_ok", Kind.GAUGE, "1 when every worker's last policy load succeeded.")
UNSAFE_SETTINGS = MetricName(
    "tollgate_ledger_unsafe_settings", Kind.GAUGE, "Redis settings under which the ledger's promises do not hold."
)
FAIL_OPEN = MetricName(
    "tollgate_fail_open_nanodollars",
    Kind.COUNTER,
    "Held while the ledger did not answer (on_store_failure).",
    ("rule",),
)
OVERSPEND = MetricName(
    "tollgate_overspend_nanodollars", Kind.COUNTER, "Spent past a cap, by how it came to pass.", ("rule", "cause")
)
HOLDS_EXPIRED = MetricName("tollgate_holds_expired", Kind.COUNTER, "Holds whose lease ran out, charged in full.")
NATIVE_RECORDS_LOST = MetricName(
    "tollgate_native_records_lost", Kind.COUNTER, "Access log records that never came or could not be read."
)
HOLDS_OPEN = MetricName("tollgate_holds_open", Kind.GAUGE, "Holds open now, read from Redis.", at_scrape=True)
LEDGER_UP = MetricName("tollgate_ledger_up", Kind.GAUGE, "1 when Redis answered this scrape.", at_scrape=True)
POLICY_INFO = MetricName(
    "tollgate_policy_info",
    Kind.GAUGE,
    "1, labelled with the loaded policy set's version.",
    ("version",),
    at_scrape=True,
)
CATALOGUE_AGE = MetricName(
    "tollgate_catalogue_age_seconds",
    Kind.GAUGE,
    "Since the file of the public prices in force was written.",
    at_scrape=True,
)
CATALOGUE_OK = MetricName(
    "tollgate_catalogue_ok", Kind.GAUGE, "1 when the mounted file of public prices is the one in force.", at_scrape=True
)
CATALOGUE_INFO = MetricName(
    "tollgate_catalogue_info",
    Kind.GAUGE,
    "1, labelled with the version of the public prices in force.",
    ("version",),
    at_scrape=True,
)
BUDGET_CAP = MetricName(
    "tollgate_budget_cap", Kind.GAUGE, "An account's cap, in its unit's smallest step.", _BUDGET_LABELS, at_scrape=True
)
BUDGET_SPENT = MetricName(
    "tollgate_budget_spent", Kind.GAUGE, "Spent in the account's window.", _BUDGET_LABELS, at_scrape=True
)
BUDGET_HELD = MetricName("tollgate_budget_held", Kind.GAUGE, "Held by open holds.", _BUDGET_LABELS, at_scrape=True)
BUDGETS_TRUNCATED = MetricName(
    "tollgate_budgets_truncated", Kind.GAUGE, "1 when there are more accounts than have gauges.", at_scrape=True
)

METRICS: tuple[MetricName, ...] = tuple(value for value in dict(globals()).values() if isinstance(value, MetricName))


class LogEvent(StrEnum):
    """What a log line is about: its `event`."""

    CHILD_STARTED = "child_started"
    CHILD_EXITED = "child_exited"
    STACK_READY = "stack_ready"
    STACK_STOPPING = "stack_stopping"
    WORKER_READY = "worker_ready"
    WORKER_DRAINING = "worker_draining"
    WORKER_STOPPED = "worker_stopped"
    POLICY_LOADED = "policy_loaded"
    POLICY_REJECTED = "policy_rejected"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    LEDGER_RECOVERED = "ledger_recovered"
    LEDGER_DATA_LOST = "ledger_data_lost"
    LEDGER_UNSAFE = "ledger_unsafe"
    SETTLE_FAILED = "settle_failed"
    HOLDS_EXPIRED = "holds_expired"
    PROTOCOL_ERROR = "protocol_error"
    USAGE_MISSING = "usage_missing"
    UNPRICED_MODEL = "unpriced_model"
    IDENTITY_DATA_LOST = "identity_data_lost"
    IDENTITY_SECRET_DIFFERS = "identity_secret_differs"  # noqa: S105  (the name of an event)
    IDENTITY_UNREADABLE = "identity_unreadable"
    ADMIN_READY = "admin_ready"
    ADMIN_ERROR = "admin_error"


def metadata_label(key: str) -> str:
    """The label name of a metadata key: `cost-center` → `llm_gateway_metadata_cost_center`."""
    return METADATA_LABEL_PREFIX + re.sub(r"[^A-Za-z0-9_]", "_", key)


def metadata_labels(keys: tuple[str, ...]) -> tuple[str, ...]:
    """The label names of several keys, in order. Keys that differ only in punctuation get a number: two labels of one
    name are not possible.
    """
    names: list[str] = []
    for key in keys:
        name = metadata_label(key)
        repeats = sum(name == metadata_label(earlier) for earlier in keys[: len(names)])
        names.append(f"{name}_{repeats + 1}" if repeats else name)
    return tuple(names)
