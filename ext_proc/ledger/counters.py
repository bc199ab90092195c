"""What one process has seen of the ledger since it started; the telemetry room turns it into metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class LedgerCounters:
    """Each counts up, and only this process."""

    unavailable: int = 0  # calls answered UNAVAILABLE
    timeouts: int = 0  # of these, for want of an answer in time
    refused_by_store: int = 0  # Redis answered with an error (out of memory, read only, a key of another type)
    retried: int = 0
    breaker_opened: int = 0
    different_amount: int = 0  # ids used twice for different holds: a bug somewhere
    tombstoned: int = 0  # resolutions of unknown holds that carried a charge
    retries_dropped: int = 0  # resolutions the retry queue had no room for: their holds expire
    epochs_changed: int = 0  # Redis came back empty
    sequence_lost: int = 0  # Redis came back older
    servers_changed: int = 0  # another Redis process answers: restarted or failed over
    reconciled: int = 0  # holds and settles brought back from the ring after such a loss
