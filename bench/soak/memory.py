"""Memory of every process over the run, and whether it is flat where nothing was disturbed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ALLOWED_KIB = 4_096
ALLOWED_SHARE = 0.02
"""Growth over the quiet part that is called flat: caches that still fill, fragments of an allocator."""

REDIS_BYTES_PER_REQUEST = 3_000
"""Redis keeps what it is told: a journal entry and a tombstone for each attempt, with its context and detail."""


@dataclass(slots=True)
class Series:
    """One process: seconds and KiB of resident memory."""

    points: list[tuple[float, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Growth:
    """One process over the quiet part. `slope` is a straight line through all its points there."""

    before_kib: int
    after_kib: int
    slope_kib_per_minute: float
    slope_bytes_per_request: float
    allowed_kib: int

    @property
    def is_flat(self) -> bool:
        """Whether it grew no more than allowed."""
        return self.after_kib - self.before_kib <= self.allowed_kib


class Memory:
    """Series by process, `name pid`."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}

    def sample(self, now: float, children: Mapping[str, int]) -> None:
        """Read all of them; one that has just ended is left out."""
        for name, pid in children.items():
            kib = resident_kib(pid)
            if kib is not None:
                self.series.setdefault(f"{name} {pid}", Series()).points.append((now, kib))

    def growth(self, since: float, until: float, requests: int) -> dict[str, Growth]:
        """Of each process that lived through all of [since, until]; the first third of it is warm-up's."""
        found = {}
        for name, series in self.series.items():
            points = [point for point in series.points if since <= point[0] <= until]
            lived = points and series.points[0][0] <= since and points[-1][0] >= until - (until - since) / 4
            if len(points) >= 6 and lived:
                found[name] = _growth(points, requests, is_redis=name.startswith("redis "))
        return found


def _growth(points: list[tuple[float, int]], requests: int, *, is_redis: bool) -> Growth:
    third = len(points) // 3
    settled = points[third:]
    before = statistics.median(kib for _, kib in settled[:third])
    after = statistics.median(kib for _, kib in settled[-third:])
    slope = statistics.linear_regression([at for at, _ in settled], [float(kib) for _, kib in settled]).slope
    rate = requests / max(1.0, points[-1][0] - points[0][0])
    allowed = ALLOWED_KIB + round(before * ALLOWED_SHARE)
    if is_redis:
        allowed += requests * REDIS_BYTES_PER_REQUEST // 1024
    return Growth(round(before), round(after), round(slope * 60, 1), round(slope * 1024 / max(rate, 1e-9), 1), allowed)


def resident_kib(pid: int) -> int | None:
    """Resident memory; None where the process is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return None
