"""What an operator may set about the ledger: frozen values with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ext_proc.ledger.keys import DEFAULT_REALM

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS


@dataclass(frozen=True, slots=True)
class Retention:
    """How long things are remembered, by Redis time.

    `resolved_ms` is the longest a duplicate or a late settle can still arrive: the longest stream (1 h), its lease
    (2 min) and ten minutes more. Older ids are refused as `too_old`. A hold that expired after a longer lease (of a
    batch) is remembered for as long again as it was held.
    """

    resolved_ms: int = 72 * MINUTE_MS
    refused_ms: int = MINUTE_MS
    lifetime_idle_ms: int = 90 * DAY_MS
    reconcile_ms: int = 30 * MINUTE_MS  # how far back a loss is made good from the ring; well below `resolved_ms`
    journal_ms: int = 35 * DAY_MS
    journal_max_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class LedgerOptions:
    """How a worker talks to Redis.

    `deadline_ms` is how long Redis may be silent: it runs from the moment a call is made, or from the last answer to
    another one, for at most `overtime_ms` more, and longer by as much as the event loop is late to notice its end. The
    two together must stay below Envoy's `message_timeout` of 2 s; a hold may ask three times, though rarely does.
    """

    realm: str = DEFAULT_REALM
    deadline_ms: int = 500
    overtime_ms: int = 1_000
    connect_timeout_ms: int = 1_000
    breaker_failures: int = 5  # in a row, before calls stop waiting
    breaker_pause_ms: int = 500  # between two probes of a Redis that failed
    ring_dir: Path | None = None  # where this worker keeps what Redis acknowledged lately; one directory per worker
    retry_queue: int = 10_000  # resolutions kept for a Redis that is away; what does not fit is counted and expires
    retention: Retention = field(default_factory=Retention)
