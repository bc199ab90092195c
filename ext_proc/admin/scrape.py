"""One scrape: what the workers counted, added up, and the gauges that only Redis knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ext_proc.admin.accounts import bucket_text
from ext_proc.admin.context import AdminContext, ledger_answers
from ext_proc.ledger.interface import AccountBalance, Ledger
from ext_proc.ledger.units import unit_name
from ext_proc.pricing.catalogue_file import Status
from ext_proc.telemetry import names
from ext_proc.telemetry.labels import label_text
from ext_proc.telemetry.workers import collect

ACCOUNTS_MAX = 1_000
"""How many accounts have gauges. Budgets per repository or workflow can be far more than a scrape should carry."""

_LABEL_CHARS_MAX = 512  # a bucket of several tags of 128 characters: cut shorter, two accounts could become one series


class _Gathered(Collector):
    """Metric families that were made for this scrape."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterable[Metric]:
        """The families."""
        return self._families


async def scrape(context: AdminContext) -> bytes:
    """The exposition text of everything."""
    gathered = await _ledger_gauges(context.ledger)
    gathered.append(_gauge(names.POLICY_INFO, {(context.snapshot_info().get("version", ""),): 1}))
    if context.catalogue is not None:
        gathered += _catalogue_gauges(context.catalogue())
    # Adding up thousands of series takes a while and needs nothing of the event loop.
    return await asyncio.to_thread(_exposition, context.metrics_dir, gathered)


def _exposition(metrics_dir: Path, gathered: Iterable[Metric]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Gathered(gathered))
    return collect(metrics_dir, registry, generate_latest)


def _catalogue_gauges(status: Status) -> list[Metric]:
    return [
        _gauge(names.CATALOGUE_AGE, {(): status.age_seconds(time.time_ns() // 1_000)}),
        _gauge(names.CATALOGUE_OK, {(): int(not status.problem)}),
        _gauge(names.CATALOGUE_INFO, {(status.version,): 1}),
    ]


async def _ledger_gauges(ledger: Ledger) -> list[Metric]:
    """Holds and balances; only `tollgate_ledger_up 0` where Redis is silent, because a zero would be a lie."""
    if not await ledger_answers(ledger):
        return [_gauge(names.LEDGER_UP, {(): 0})]
    open_holds, (accounts, cursor) = await asyncio.gather(
        ledger.open_holds(), ledger.balances(rule=None, limit=ACCOUNTS_MAX, cursor="")
    )
    return [
        _gauge(names.LEDGER_UP, {(): 1}),
        _gauge(names.HOLDS_OPEN, {(): open_holds}),
        _gauge(names.BUDGETS_TRUNCATED, {(): int(cursor != "")}),
        _gauge(names.BUDGET_CAP, {_labels(account): account.cap for account in accounts}),
        _gauge(names.BUDGET_SPENT, {_labels(account): account.spent for account in accounts}),
        _gauge(names.BUDGET_HELD, {_labels(account): account.held for account in accounts}),
    ]


def _labels(account: AccountBalance) -> tuple[str, ...]:
    """What tells accounts apart, in the order of the names' labels."""
    texts = (account.document, account.rule, account.template, bucket_text(account.bucket))
    return (*(label_text(text, _LABEL_CHARS_MAX) for text in texts), unit_name(account.measure, account.window))


def _gauge(metric: names.MetricName, values: Mapping[tuple[str, ...], int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
