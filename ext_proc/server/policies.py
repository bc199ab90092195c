"""What a running worker judges by: the policy set and the public prices, looked at every second, put in force whole,
and reported to the supervisor.

A request keeps the terms it began with, so a set that comes into force touches none that is on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from ext_proc.exchange.terms import Terms
from ext_proc.identity.identities import Identities
from ext_proc.policy.snapshot import Snapshot
from ext_proc.policy.status_file import WorkerPolicy, write_status
from ext_proc.policy.watch import Watcher
from ext_proc.pricing.catalogue import Catalogue, shipped
from ext_proc.pricing.catalogue_file import CatalogueWatch
from ext_proc.server.envoy_clusters import until_known
from ext_proc.server.scorer import load_client
from ext_proc.server.settings import Metering, WorkerSettings
from ext_proc.server.state import Worker

_LOG = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0
LOADING_SECONDS: Final = 0.5  # what one worker may take longer than another to look and load
OTHER_TERMS_MAX: Final = 2  # sets that were in force before: attempts of requests that were admitted by them

LOADING_SWITCH_SECONDS: Final = 0.0005
"""How long the loading thread may keep the interpreter from requests: Python's own 5 ms would be paid by each of their
steps. Ten thousand rules take seconds to load, and that much longer do not matter."""


def terms_of(
    settings: WorkerSettings, snapshot: Snapshot, identities: Identities, catalogue: Catalogue | None = None
) -> Terms:
    """What requests are judged by under this snapshot."""
    return Terms.of(
        snapshot,
        lease_ms=settings.hold_lease_seconds * 1_000,
        upstreams=settings.upstreams,
        identities=identities,
        native=settings.metering is Metering.NATIVE,
        catalogue=catalogue,
    )


def identities_of(worker: Worker, snapshot: Snapshot) -> Identities:
    """Everybody whom this worker knows under this snapshot."""
    return Identities.of(snapshot, worker.directory.records, worker.terms.identities.server_secret)


async def watch_policies(worker: Worker, asked: asyncio.Event) -> None:
    """Put a changed set in force within a second, or at once when asked; one that does not load changes nothing."""
    report(worker)
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):  # not wait_for: in Python 3.11 it may lose a cancel
                await asked.wait()
        force = asked.is_set()
        asked.clear()
        await _watch_catalogue(worker, force=force)
        before = worker.watcher.status
        changed = await asyncio.to_thread(look, worker.watcher, force=force)
        status = worker.watcher.status
        if changed:
            snapshot = worker.watcher.snapshot
            await _put_in_force(worker, _terms_now(worker, snapshot))
            worker.metrics.use_metric_labels(snapshot.settings.metric_labels)
            worker.metrics.policy_loaded(snapshot.version, ok=True)
            _LOG.info("policy set %s is in force", snapshot.version)
        elif status.refused > before.refused:
            worker.metrics.policy_loaded(status.version, ok=False)
            for error in status.errors:
                _LOG.error("policy set not loaded, %s stays: %s", status.version, error)
        elif before.errors and not status.errors:
            worker.metrics.policy_loaded(status.version, ok=True)
            _LOG.info("policy set %s is in force, the change was taken back", status.version)
        if status != before:
            report(worker)


def _terms_now(worker: Worker, snapshot: Snapshot) -> Terms:
    catalogue = worker.catalogue.catalogue if worker.catalogue else None
    return terms_of(worker.settings, snapshot, identities_of(worker, snapshot), catalogue)


async def _watch_catalogue(worker: Worker, *, force: bool) -> None:
    """Judge new requests by changed public prices; a request in flight has the price it was promised in its ticket."""
    if worker.catalogue is None:
        return
    before = worker.catalogue.status
    if await asyncio.to_thread(_beside, worker.catalogue, force=force):
        terms = _terms_now(worker, worker.terms.snapshot)
        worker.terms = replace(worker.terms, prices=terms.prices)
        _LOG.info("the catalogue %s is in force", worker.catalogue.status.version)
        report(worker)
    elif worker.catalogue.status.refused > before.refused:
        _LOG.error("the catalogue stays %s: %s", before.version, worker.catalogue.status.problem)


async def _put_in_force(worker: Worker, terms: Terms) -> None:
    """Terms that send requests elsewhere come into force when Envoy and every other worker can serve them.

    One worker admits a request, another may make its attempts: each knows a set before any of them admits by it, and
    for a while after another one has taken its place.
    """
    if terms.savings.asks_scorers:
        await asyncio.to_thread(load_client)
    elsewhere = terms.virtual_models.targets - worker.terms.virtual_models.targets
    if elsewhere or terms.accounts != worker.terms.accounts:
        before = worker.other_terms
        worker.other_terms = (terms, *before)
        await asyncio.sleep(POLL_SECONDS + LOADING_SECONDS)
        await until_known(Path(worker.settings.state_dir), terms)
        worker.other_terms = before
    worker.other_terms = (worker.terms, *worker.other_terms)[:OTHER_TERMS_MAX]
    now = worker.terms
    worker.terms = replace(
        terms, health=now.health, calibration=now.calibration, identities=identities_of(worker, terms.snapshot)
    )


def look(watcher: Watcher, *, force: bool = False) -> bool:
    """Look at the policy files, beside the event loop."""
    return _beside(watcher, force=force)


def _beside(watcher: Watcher | CatalogueWatch, *, force: bool) -> bool:
    """Look, beside the event loop. What was loaded lives until the next load: the collector never walks it
    again. What it replaces holds no cycles and goes when the last request that knows it does.
    """
    with _beside_requests():
        changed = watcher.poll(force=force)
        if changed:
            gc.freeze()
        return changed


def report(worker: Worker) -> None:
    """Tell the supervisor which set is in force here; a full disk is no reason to stop serving."""
    status = worker.watcher.status
    told = WorkerPolicy(
        worker=worker.settings.name,
        pid=os.getpid(),
        version=status.version,
        loaded=status.loaded,
        refused=status.refused,
        errors=tuple(map(str, status.errors)),
        catalogue=worker.catalogue.status.version if worker.catalogue else shipped().version,
    )
    try:
        write_status(Path(worker.settings.state_dir), told)
    except OSError:
        _LOG.exception("the policy status could not be written")


@contextlib.contextmanager
def _beside_requests() -> Iterator[None]:
    """Load without making requests wait for the collector, and hardly for the interpreter."""
    interval, collecting = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(LOADING_SWITCH_SECONDS)
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
        sys.setswitchinterval(interval)
