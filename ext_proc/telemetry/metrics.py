"""What the server counts: one typed method per thing that happens. Names and labels live in `telemetry.names`.

Several worker processes count at once. Each writes its own memory-mapped files in one directory, and the admin server
adds them up when it is scraped (prometheus-client's multiprocess mode). prometheus-client chooses that mode when it is
*imported*, from the environment variable PROMETHEUS_MULTIPROC_DIR; setting it later does nothing and would lose every
count without a word. So whoever starts a worker passes `worker_environment(metrics_dir)` as part of the child's
environment, and `Metrics(metrics_dir=…)` refuses to start where that was forgotten. Without `metrics_dir` the counts
stay in this process (tests, tools).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values

from ext_proc.telemetry import names
from ext_proc.telemetry.environment import MULTIPROCESS_VARIABLE
from ext_proc.telemetry.errors import TelemetryError
from ext_proc.telemetry.labels import MAX_LABEL_VALUES, MAX_SERIES, LabelBound, Series
from ext_proc.telemetry.names import OTHER, Kind, MetricName

_NANODOLLARS_PER_DOLLAR = 1_000_000_000
_IDENTITY_LABELS = 2  # username and tenant_name lead the labels of a charge
_ERROR_STATUS_MIN = 400


class Metrics:
    """Counts for one process. Methods are cheap (a dictionary lookup and an add) and never raise for a value that a
    client or provider chose.
    """

    def __init__(
        self,
        *,
        metric_labels: tuple[str, ...] = (),
        metrics_dir: Path | None = None,
        registry: CollectorRegistry | None = None,
        max_label_values: int = MAX_LABEL_VALUES,
        max_series: int = MAX_SERIES,
    ) -> None:
        if metrics_dir is not None:
            _require_multiprocess(metrics_dir)
            _remember_process()
        self.registry = registry or CollectorRegistry()
        self._max_label_values = max_label_values
        self._max_series = max_series
        self._bounds: dict[str, LabelBound] = {}

        self._gen_ai_input = self._counter(names.GEN_AI_INPUT_TOKENS)
        self._gen_ai_output = self._counter(names.GEN_AI_OUTPUT_TOKENS)
        self._duration = self._histogram(names.DURATION)
        self._first_chunk = self._histogram(names.TIME_TO_FIRST_CHUNK)
        self._requests = self._counter(names.REQUESTS)
        self._refusals = self._counter(names.REFUSALS)
        self._settles = self._counter(names.SETTLES)
        self._cost = self._counter(names.COST)
        self._ledger_seconds = self._histogram(names.LEDGER_SECONDS)
        self._ledger_calls = self._counter(names.LEDGER_CALLS)
        self._ledger_events = self._counter(names.LEDGER_EVENTS)
        self._ledger_totals: dict[str, int] = {}
        self._unpriced = self._counter(names.UNPRICED)
        self._missing_key = self._counter(names.MISSING_KEY)
        self._would_refuse = self._counter(names.WOULD_REFUSE)
        self._would_downgrade = self._counter(names.WOULD_DOWNGRADE)
        self._downgrades = self._counter(names.DOWNGRADES)
        self._scores = self._counter(names.SCORES)
        self._streams_cut = self._counter(names.STREAMS_CUT)
        self._content_log = self._counter(names.CONTENT_LOG)
        self._ignored_headers = self._counter(names.IGNORED_HEADERS)
        self._protocol_errors = self._counter(names.PROTOCOL_ERRORS)
        self._usage_missing = self._counter(names.USAGE_MISSING)
        self._estimate_ratio = self._histogram(names.ESTIMATE_RATIO)
        self._policy_loads = self._counter(names.POLICY_LOADS)
        # `livemin`: one worker that runs on an old policy set is enough for an alarm; a dead one is not.
        self._policy_ok = Gauge(
            names.POLICY_OK.name, names.POLICY_OK.help, registry=self.registry, multiprocess_mode="livemin"
        )
        self._unsafe_settings = Gauge(
            names.UNSAFE_SETTINGS.name, names.UNSAFE_SETTINGS.help, registry=self.registry, multiprocess_mode="livemax"
        )
        self._fail_open = self._counter(names.FAIL_OPEN)
        self._overspend = self._counter(names.OVERSPEND)
        self._holds_expired = self._plain_counter(names.HOLDS_EXPIRED)
        self._native_records_lost = self._plain_counter(names.NATIVE_RECORDS_LOST)
        self._charged: tuple[Counter, ...] = ()
        self.use_metric_labels(metric_labels)

    def use_metric_labels(self, metric_labels: tuple[str, ...]) -> None:
        """Use these metadata keys as further labels of charges from now on: a policy set was loaded."""
        for outdated in self._charged:
            self.registry.unregister(outdated)
        self._metric_labels = names.metadata_labels(metric_labels)
        series = [self._counter(name, self._metric_labels) for name in _CHARGED]
        self._charged = tuple(one.metric for one in series)
        self._request_cost, self._input_tokens, self._output_tokens = series

    def request_ended(
        self,
        *,
        verdict: str,
        status: int,
        model: str,
        operation: str,
        duration_seconds: float,
        ttft_seconds: float | None,
    ) -> None:
        """A request is over. `status` is what the client got (0: it left before an answer)."""
        code = str(status)
        self._requests.child(verdict, code).inc()
        error = code if status >= _ERROR_STATUS_MIN or status <= 0 else ""
        self._duration.child(operation, model, error).observe(duration_seconds)
        if ttft_seconds is not None:
            self._first_chunk.child(operation, model).observe(ttft_seconds)

    def charged(
        self,
        *,
        labels: tuple[str, ...],
        model: str,
        cost_nanodollars: int,
        input_tokens: int,
        output_tokens: int,
        basis: str,
        operation: str = "chat",
    ) -> None:
        """An attempt was charged. `labels`: username, tenant_name, then the values of the configured metric_labels."""
        values = self._charge_labels(model, labels)
        self._request_cost.child(*values).inc(cost_nanodollars / _NANODOLLARS_PER_DOLLAR)
        self._input_tokens.child(*values).inc(input_tokens)
        self._output_tokens.child(*values).inc(output_tokens)
        # A provider's usage tells modalities apart for some models only; what passes here is not split.
        self._gen_ai_input.child(operation, model, "unknown").inc(input_tokens)
        self._gen_ai_output.child(operation, model, "unknown").inc(output_tokens)
        self._cost.child(basis).inc(cost_nanodollars)

    def refused(self, *, rule: str, refusal_type: str) -> None:
        """A request was refused; `rule` is its template id, '' where no rule was involved."""
        self._refusals.child(rule, refusal_type).inc()

    def settled(self, *, basis: str) -> None:
        """A hold was settled or released."""
        self._settles.child(basis).inc()

    def ledger_call(self, *, operation: str, code: str, seconds: float) -> None:
        """A ledger call was answered, or given up."""
        self._ledger_calls.child(operation, code).inc()
        self._ledger_seconds.child(operation).observe(seconds)

    def ledger_counters(self, totals: Mapping[str, int]) -> None:
        """What the ledger of this process has counted since it started (`asdict(ledger.counters)`), told again and
        again: what is new since the last time is added.
        """
        for event, total in totals.items():
            new = total - self._ledger_totals.get(event, 0)
            if new > 0:
                self._ledger_events.child(event).inc(new)
                self._ledger_totals[event] = total

    def unpriced(self, model: str) -> None:
        """A model without a known price was asked for."""
        self._unpriced.child(model).inc()

    def missing_key(self, rule: str) -> None:
        """A request lacks the key that a rule applies per."""
        self._missing_key.child(rule).inc()

    def would_refuse(self, rule: str) -> None:
        """A rule in audit mode would have refused a request."""
        self._would_refuse.child(rule).inc()

    def would_downgrade(self, rule: str) -> None:
        """A rule in audit mode would have sent a request to a cheaper model."""
        self._would_downgrade.child(rule).inc()

    def downgraded(self, rule: str) -> None:
        """A rule sent a request to a cheaper model."""
        self._downgrades.child(rule).inc()

    def scored(self, rule: str, result: str) -> None:
        """The scorer of a saving rule was asked, or is paused."""
        self._scores.child(rule, result).inc()

    def stream_cut(self, rule: str) -> None:
        """An answer was ended because the account of a rule is exhausted."""
        self._streams_cut.child(rule).inc()

    def content_logged(self, result: str) -> None:
        """A line for the content log was written, dropped, or failed."""
        self._content_log.child(result).inc()

    def ignored_header(self, name: str) -> None:
        """An `x-tfy-*` header came that means nothing to us."""
        self._ignored_headers.child(name).inc()

    def protocol_error(self, kind: str) -> None:
        """Envoy or a provider sent what we did not expect."""
        self._protocol_errors.child(kind).inc()

    def usage_missing(self, model: str) -> None:
        """A successful answer carried no usage and was charged by estimate."""
        self._usage_missing.child(model).inc()

    def estimate_error(
        self, *, model: str, direction: str, learned: bool, estimated_tokens: int, reported_tokens: int
    ) -> None:
        """What was assumed at admission met what the provider reports. `direction` is `input` or `output`; `learned`:
        it was assumed from earlier answers, not by a limit or a default.
        """
        source = "learned" if learned else "given"
        self._estimate_ratio.child(model, direction, source).observe(reported_tokens / max(estimated_tokens, 1))

    def policy_loaded(self, version: str, ok: bool) -> None:
        """A policy set was loaded, or rejected (then `version` is the one that stays)."""
        assert version or not ok, "a loaded policy set has a version"
        self._policy_loads.child("loaded" if ok else "rejected").inc()
        self._policy_ok.set(1 if ok else 0)

    def unsafe_settings(self, count: int) -> None:
        """So many settings of Redis break the ledger's promises."""
        self._unsafe_settings.set(count)

    def fail_open(self, rule: str, nanodollars: int) -> None:
        """The ledger did not answer and a rule let the request pass all the same."""
        self._fail_open.child(rule).inc(nanodollars)

    def overspend(self, rule: str, nanodollars: int, *, cause: str = "settle_above_hold") -> None:
        """An account went past its cap: by a settle above its hold, tracked traffic, an edited cap, a store failure."""
        self._overspend.child(rule, cause).inc(nanodollars)

    def holds_expired(self, n: int) -> None:
        """Leases ran out; their holds were charged in full."""
        self._holds_expired.inc(n)

    def native_records_lost(self, n: int = 1) -> None:
        """Access log records are known to be missing or unreadable."""
        self._native_records_lost.inc(n)

    def _charge_labels(self, model: str, labels: tuple[str, ...]) -> tuple[str, ...]:
        # A ticket may have been written under another policy set, with other metric_labels.
        if len(labels) == _IDENTITY_LABELS + len(self._metric_labels):
            return (model, *labels)
        identity = (*labels[:_IDENTITY_LABELS], "", "")[:_IDENTITY_LABELS]
        return (model, *identity, *(OTHER for _ in self._metric_labels))

    def _series_of(self, labels: tuple[str, ...]) -> tuple[LabelBound, ...]:
        return tuple(self._bounds.setdefault(label, LabelBound(self._max_label_values)) for label in labels)

    def _counter(self, metric: MetricName, more_labels: tuple[str, ...] = ()) -> Series[Counter]:
        assert metric.kind is Kind.COUNTER
        labels = (*metric.labels, *more_labels)
        counter = Counter(metric.name, metric.help, labels, registry=self.registry)
        return Series(counter, self._series_of(labels), self._max_series)

    def _plain_counter(self, metric: MetricName) -> Counter:
        assert not metric.labels
        return Counter(metric.name, metric.help, registry=self.registry)

    def _histogram(self, metric: MetricName) -> Series[Histogram]:
        assert metric.kind is Kind.HISTOGRAM
        histogram = Histogram(metric.name, metric.help, metric.labels, registry=self.registry, buckets=metric.buckets)
        return Series(histogram, self._series_of(metric.labels), self._max_series)


_CHARGED = (names.REQUEST_COST, names.INPUT_TOKENS, names.OUTPUT_TOKENS)


def _remember_process() -> None:
    """Ask the kernel once who we are: the library asks at every increment, for programs that fork; workers do not."""
    pid = os.getpid()
    values.ValueClass = values.MultiProcessValue(lambda: pid)  # type: ignore[no-untyped-call]  # the library has no types here


def _require_multiprocess(metrics_dir: Path) -> None:
    configured = os.environ.get(MULTIPROCESS_VARIABLE)
    if configured is None or Path(configured) != metrics_dir:
        raise TelemetryError(
            f"{MULTIPROCESS_VARIABLE} is {configured!r} but metrics go to {str(metrics_dir)!r}: "
            "start the process with telemetry.environment.worker_environment(metrics_dir) in its environment"
        )
    if not values.ValueClass._multiprocess:  # noqa: SLF001  (the library's own flag; it has no public reader)
        raise TelemetryError(
            f"prometheus_client was imported before {MULTIPROCESS_VARIABLE} was set: set it in the environment that "
            "starts the process, not inside it"
        )
    if not metrics_dir.is_dir():
        raise TelemetryError(f"the metrics directory {str(metrics_dir)!r} does not exist")
