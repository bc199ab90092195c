"""The names of the metrics, and what a scrape shows after each thing that can happen."""

from __future__ import annotations

import inspect
import json
import re

import pytest

from ext_proc.telemetry import names
from ext_proc.telemetry.labels import MAX_LABEL_CHARS
from ext_proc.telemetry.metrics import Metrics
from ext_proc.telemetry.names import Kind
from tests.scrape_kit import scraped, value

PINNED = {
    "llm_gateway_request_total_cost_total": ("model_name", "username", "tenant_name"),
    "llm_gateway_input_tokens_total": ("model_name", "username", "tenant_name"),
    "llm_gateway_output_tokens_total": ("model_name", "username", "tenant_name"),
    "gen_ai_client_inference_usage_input_tokens_total": (
        "gen_ai_operation_name",
        "gen_ai_request_model",
        "gen_ai_token_modality",
    ),
    "gen_ai_client_inference_usage_output_tokens_total": (
        "gen_ai_operation_name",
        "gen_ai_request_model",
        "gen_ai_token_modality",
    ),
    "gen_ai_client_operation_duration_seconds": ("gen_ai_operation_name", "gen_ai_request_model", "error_type"),
    "gen_ai_client_operation_time_to_first_chunk_seconds": ("gen_ai_operation_name", "gen_ai_request_model"),
    "tollgate_requests_total": ("verdict", "status"),
    "tollgate_refusals_total": ("rule", "type"),
    "tollgate_settles_total": ("basis",),
    "tollgate_cost_nanodollars_total": ("basis",),
    "tollgate_ledger_seconds": ("operation",),
    "tollgate_ledger_calls_total": ("operation", "code"),
    "tollgate_ledger_events_total": ("event",),
    "tollgate_unpriced_total": ("model",),
    "tollgate_missing_key_total": ("rule",),
    "tollgate_would_refuse_total": ("rule",),
    "tollgate_would_downgrade_total": ("rule",),
    "tollgate_downgrades_total": ("rule",),
    "tollgate_scores_total": ("rule", "result"),
    "tollgate_streams_cut_total": ("rule",),
    "tollgate_content_log_total": ("result",),
    "tollgate_ignored_headers_total": ("name",),
    "tollgate_protocol_errors_total": ("kind",),
    "tollgate_usage_missing_total": ("model",),
    "tollgate_estimate_ratio": ("model", "direction", "source"),
    "tollgate_policy_loads_total": ("result",),
    "tollgate_policy_ok": (),
    "tollgate_ledger_unsafe_settings": (),
    "tollgate_fail_open_nanodollars_total": ("rule",),
    "tollgate_overspend_nanodollars_total": ("rule", "cause"),
    "tollgate_holds_expired_total": (),
    "tollgate_native_records_lost_total": (),
    "tollgate_holds_open": (),
    "tollgate_ledger_up": (),
    "tollgate_policy_info": ("version",),
    "tollgate_catalogue_age_seconds": (),
    "tollgate_catalogue_ok": (),
    "tollgate_catalogue_info": ("version",),
    "tollgate_budget_cap": ("document", "rule", "template", "bucket", "unit"),
    "tollgate_budget_spent": ("document", "rule", "template", "bucket", "unit"),
    "tollgate_budget_held": ("document", "rule", "template", "bucket", "unit"),
    "tollgate_budgets_truncated": (),
}


def everything_happens(metrics: Metrics, model: str = "openai-main/gpt-4o") -> None:
    """Call each method of Metrics once."""
    metrics.request_ended(
        verdict="pass", status=200, model=model, operation="chat", duration_seconds=1.5, ttft_seconds=0.25
    )
    metrics.charged(
        labels=("ada", "acme"),
        model=model,
        cost_nanodollars=1_234_567_890,
        input_tokens=100,
        output_tokens=20,
        basis="reported",
    )
    metrics.refused(rule="search-weekly", refusal_type="budget_exceeded")
    metrics.settled(basis="reported")
    metrics.ledger_call(operation="hold", code="held", seconds=0.0007)
    metrics.ledger_counters({"timeouts": 2, "retried": 0})
    metrics.unpriced(model)
    metrics.missing_key("per-repo")
    metrics.would_refuse("must-tag")
    metrics.would_downgrade("search-weekly")
    metrics.downgraded("search-weekly")
    metrics.scored("short-prompts", "late")
    metrics.stream_cut("search-weekly")
    metrics.content_logged("written")
    metrics.ignored_header("x-tfy-user")
    metrics.protocol_error("unexpected_request_trailers")
    metrics.usage_missing(model)
    metrics.estimate_error(model=model, direction="input", learned=True, estimated_tokens=100, reported_tokens=80)
    metrics.policy_loaded("abc", ok=True)
    metrics.unsafe_settings(0)
    metrics.fail_open("search-weekly", 500)
    metrics.overspend("search-weekly", 7)
    metrics.holds_expired(3)
    metrics.native_records_lost(2)


def test_every_name_and_label_is_pinned() -> None:
    """Renaming a metric or a label is a breaking change for every dashboard, so it must be made here too."""
    actual = {metric.exposed: metric.labels for metric in names.METRICS}

    assert actual == PINNED


def test_everything_counted_shows_under_a_pinned_name() -> None:
    """After each method was called once, a scrape holds every worker-side name and nothing else."""
    metrics = Metrics()
    everything_happens(metrics)

    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name, _ in scraped(metrics.registry)}
    shown = {name for name in shown if not name.endswith("_created")}  # the library's own, of single processes only

    assert shown == {metric.exposed for metric in names.METRICS if not metric.at_scrape}


def test_every_method_is_exercised_by_these_tests() -> None:
    """`everything_happens` calls every public method, so no metric can be added untested."""
    methods = {
        name
        for name, _ in inspect.getmembers(Metrics, inspect.isfunction)
        if not name.startswith("_") and name != "use_metric_labels"
    }

    assert methods == {name for name in methods if f"metrics.{name}(" in inspect.getsource(everything_happens)}


def test_a_charge_is_counted_in_dollars_tokens_and_nanodollars() -> None:
    """One charge moves cost, input and output under the caller's labels, and the exact integer by basis."""
    metrics = Metrics()
    everything_happens(metrics)

    samples = scraped(metrics.registry)
    caller = {"model_name": "openai-main/gpt-4o", "username": "ada", "tenant_name": "acme"}
    assert value(samples, "llm_gateway_request_total_cost_total", **caller) == 1.23456789
    assert value(samples, "llm_gateway_input_tokens_total", **caller) == 100
    assert value(samples, "llm_gateway_output_tokens_total", **caller) == 20
    assert value(samples, "tollgate_cost_nanodollars_total", basis="reported") == 1_234_567_890


def test_requests_are_counted_by_verdict_and_status_with_durations() -> None:
    """A request's end moves the count, the duration and, where there was an answer, the time to the first chunk."""
    metrics = Metrics()
    call = {"model": "m", "operation": "chat", "duration_seconds": 3.0}
    metrics.request_ended(verdict="refuse", status=429, ttft_seconds=None, **call)  # type: ignore[arg-type]  # mixed dict
    metrics.request_ended(verdict="pass", status=200, ttft_seconds=0.02, **call)  # type: ignore[arg-type]  # mixed dict

    samples = scraped(metrics.registry)
    chat = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "m"}
    assert value(samples, "tollgate_requests_total", verdict="refuse", status="429") == 1
    assert value(samples, "gen_ai_client_operation_duration_seconds_count", error_type="429", **chat) == 1
    assert value(samples, "gen_ai_client_operation_duration_seconds_sum", error_type="", **chat) == 3.0
    assert value(samples, "gen_ai_client_operation_time_to_first_chunk_seconds_count", **chat) == 1


def test_ledger_totals_are_counted_once() -> None:
    """Telling the same running totals again adds nothing; only what is new since then is counted."""
    metrics = Metrics()
    for timeouts in (2, 2, 5):
        metrics.ledger_counters({"timeouts": timeouts})

    assert value(scraped(metrics.registry), "tollgate_ledger_events_total", event="timeouts") == 5


def test_metric_labels_follow_the_policy_set() -> None:
    """Configured metadata keys become labels, and a later policy set can change them while the server runs."""
    metrics = Metrics(metric_labels=("cost_center",))
    charge = {"model": "m", "cost_nanodollars": 10**9, "input_tokens": 1, "output_tokens": 1, "basis": "reported"}
    metrics.charged(labels=("ada", "acme", "search"), **charge)  # type: ignore[arg-type]  # mixed dict
    first = scraped(metrics.registry)
    metrics.use_metric_labels(("cost-center", "cost.center"))
    metrics.charged(labels=("ada", "acme", "x", "y"), **charge)  # type: ignore[arg-type]  # mixed dict
    second = scraped(metrics.registry)

    caller = {"model_name": "m", "username": "ada", "tenant_name": "acme"}
    name = "llm_gateway_request_total_cost_total"
    assert value(first, name, llm_gateway_metadata_cost_center="search", **caller) == 1
    assert (
        value(
            second,
            name,
            llm_gateway_metadata_cost_center="x",
            llm_gateway_metadata_cost_center_2="y",
            **caller,
        )
        == 1
    )


@pytest.mark.parametrize("labels", [(), ("ada",), ("ada", "acme", "old", "older")])
def test_a_ticket_of_another_policy_set_still_counts(labels: tuple[str, ...]) -> None:
    """A charge whose labels do not fit the present configuration is counted, its metadata under `other`."""
    metrics = Metrics(metric_labels=("cost_center",))
    metrics.charged(labels=labels, model="m", cost_nanodollars=5, input_tokens=1, output_tokens=1, basis="reported")

    identity = (*labels[:2], "", "")[:2]
    assert (
        value(
            scraped(metrics.registry),
            "llm_gateway_input_tokens_total",
            model_name="m",
            username=identity[0],
            tenant_name=identity[1],
            llm_gateway_metadata_cost_center="other",
        )
        == 1
    )


def test_values_chosen_by_clients_are_bounded_in_number() -> None:
    """Ten thousand user names make no more series than the bound plus `other`, and no count is lost."""
    metrics = Metrics(max_label_values=20)
    for number in range(10_000):
        metrics.charged(
            labels=(f"user-{number}", "acme"),
            model="m",
            cost_nanodollars=1,
            input_tokens=1,
            output_tokens=0,
            basis="reported",
        )

    counts = {
        labels: n for (name, labels), n in scraped(metrics.registry).items() if name.endswith("input_tokens_total")
    }
    by_user = {dict(labels).get("username"): n for labels, n in counts.items() if ("tenant_name", "acme") in labels}
    assert len(by_user) == 21
    assert by_user["other"] == 9_980
    assert len(metrics._input_tokens._children) <= 21


def test_combinations_are_bounded_too() -> None:
    """Values that are each within their bound cannot multiply past the bound on series."""
    metrics = Metrics(max_label_values=50, max_series=100)
    for number in range(2_500):
        metrics.charged(
            labels=(f"user-{number % 50}", f"tenant-{number // 50}"),
            model="m",
            cost_nanodollars=1,
            input_tokens=1,
            output_tokens=0,
            basis="reported",
        )

    series = [n for (name, _), n in scraped(metrics.registry).items() if name == "llm_gateway_input_tokens_total"]
    assert len(series) == 101
    assert sum(series) == 2_500


def test_what_is_remembered_of_a_value_is_bounded_in_length() -> None:
    """A megabyte of model name costs 64 characters of memory, and names equal so far are one series."""
    metrics = Metrics()
    for ending in ("a", "b"):
        metrics.unpriced("x" * 1_000_000 + ending)

    assert value(scraped(metrics.registry), "tollgate_unpriced_total", model="x" * MAX_LABEL_CHARS) == 2
    assert max(len(known) for bound in metrics._bounds.values() for known in bound._known) == MAX_LABEL_CHARS
    assert not metrics._unpriced._children


def _each_client_chosen(metrics: Metrics, text: str) -> None:
    everything_happens(metrics, model=text)
    metrics.ignored_header(text)
    metrics.refused(rule=text, refusal_type="not_tagged")
    metrics.charged(
        labels=(text, text), model=text, cost_nanodollars=1, input_tokens=1, output_tokens=1, basis="reported"
    )


@pytest.mark.parametrize("text", ["\ud800", 'a"b\\c\nd', "", "é" * 500, "\x00\x1f"])
def test_no_value_can_break_a_scrape(text: str) -> None:
    """Lone surrogates, quotes, newlines and long texts still give a scrape that the official parser reads."""
    metrics = Metrics()
    _each_client_chosen(metrics, text)

    samples = scraped(metrics.registry)
    assert samples
    assert all(len(label) <= MAX_LABEL_CHARS for _, labels in samples for _, label in labels)


def test_names_follow_the_conventions() -> None:
    """Families carry no `_total` of their own, histograms have rising buckets, and help ends as a sentence."""
    for metric in names.METRICS:
        assert re.fullmatch(r"[a-z_]+", metric.name), metric.name
        assert not metric.name.endswith("_total"), metric.name
        assert metric.help.endswith("."), metric.name
        assert (metric.kind is Kind.HISTOGRAM) == bool(metric.buckets), metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets)), json.dumps(metric.buckets)
