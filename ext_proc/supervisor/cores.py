"""How many cores there are to use, and how many workers that makes."""

from __future__ import annotations

import os
from pathlib import Path

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_WORKERS_MIN = 2  # so that one can die and the other goes on
_WORKERS_MAX = 16


def usable_cores() -> int:
    """The cores this process may use: its affinity, and the quota of its control group, at least 1."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_MAX.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or the quota is `max`
        return cores


def default_workers(cores: int) -> int:
    """One per core, within reason."""
    return min(max(cores, _WORKERS_MIN), _WORKERS_MAX)
