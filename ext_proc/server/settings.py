"""What a worker process is told at start: one frozen value, passed as JSON on its standard input."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum


class Metering(StrEnum):
    """Where usage is read: `stream`: always by the meter filter; `native`: by Envoy's own parsers where they serve."""

    STREAM = "stream"
    NATIVE = "native"


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Everything a worker needs to serve. Paths are absolute."""

    name: str  # `w0`, `w1`, …: the ticket names the worker that admitted
    listen: str  # `unix:/…/w0.sock` or `host:port`
    policies: str  # directory of the policy set
    redis_url: str
    state_dir: str
    metrics_dir: str  # prometheus multiprocess directory
    metering: Metering = Metering.STREAM
    hold_lease_seconds: int = 120
    drain_seconds: float = 20.0  # how long live streams may finish after SIGTERM
    upstreams: dict[str, str] = field(default_factory=dict)  # account → URL that replaces its endpoint
    log: str | None = None  # the file that stderr goes to; None: it stays as it is
    catalogue: str | None = None  # the file of the last good catalogue; None: the one that ships

    def to_json(self) -> str:
        """The form a worker is told in."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerSettings:
        """Read `to_json`'s form."""
        raw = json.loads(text)
        return cls(**{**raw, "metering": Metering(raw["metering"])})
