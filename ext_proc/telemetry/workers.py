"""The directory in which worker processes count, as its keeper sees it: read at each scrape, tidied.

It must be empty when the first worker starts: what an earlier run left there would be added to. Each worker maps files
of its own (`counter_<pid>.db`, `histogram_<pid>.db`, `gauge_<mode>_<pid>.db`). The keeper is the supervisor: it alone
reads all of them, and folds those of a worker that has ended into `*_ended.db`. Without that a worker that keeps
crashing would leave a set of files each time, and each scrape would read them all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

_MappedFile: Any = MmapedDict  # the library is only partly typed

_ENDED = "ended"
_SUMMED = ("counter", "histogram")

# A scrape between "added to the ended" and "deleted" would count twice, and Prometheus would take the next one, which
# is lower, for a restart. Scrapes run in a thread beside the loop on which workers are seen to end.
_folding = threading.Lock()


def forget_worker(metrics_dir: Path, pid: int) -> None:
    """A worker has ended: keep what it counted, because that did happen, and drop its gauges."""
    with _folding:
        for kind in _SUMMED:
            file = metrics_dir / f"{kind}_{pid}.db"
            if file.exists():
                _fold(file, metrics_dir / f"{kind}_{_ENDED}.db")
                file.unlink()
        for gauge in metrics_dir.glob(f"gauge_*_{pid}.db"):
            gauge.unlink()


def collect(metrics_dir: Path, registry: CollectorRegistry, encode: Callable[[CollectorRegistry], bytes]) -> bytes:
    """The sum of all workers' counts and whatever else `registry` collects, as `encode` writes it."""
    MultiProcessCollector(registry, str(metrics_dir))  # type: ignore[no-untyped-call]  # the library is partly typed
    with _folding:
        return encode(registry)


def _fold(file: Path, ended: Path) -> None:
    """Add every value of one file to the other. Buckets of histograms are stored apart, so they add like counters."""
    sums = _MappedFile(str(ended))
    try:
        for key, value, _, _ in _MappedFile.read_all_values_from_file(str(file)):
            sum_so_far, _ = sums.read_value(key)
            sums.write_value(key, sum_so_far + value, 0.0)
    finally:
        sums.close()
