"""Load from wrk: as much as can be, or at a steady rate."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.machine import cpu_us

REST_MS = 100
"""Between two requests of a connection at a steady rate: long beside an answer, so that the rate is about what was
asked for. wrk draws each rest at random up to twice this, so requests come in as uneven a stream as clients send."""

SCRIPT = """
wrk.method = "POST"
wrk.body = %(body)s
%(headers)s
%(delay)s
function done(summary, latency, requests)
  io.write(string.format("RESULT %%d %%d %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    summary.errors.status, summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, again and again."""

    path: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of wrk saw, and what each group of processes used for it."""

    requests: int
    seconds: float
    refused: int  # answers of 400 and above
    broken: int  # without an answer
    p50_us: int
    p95_us: int
    p99_us: int
    cpu_us: Mapping[str, float]  # per request, by process group

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def run(
    url: str,
    request: Request,
    groups: Mapping[str, list[int]],
    directory: Path,
    *,
    seconds: float,
    connections: int = 32,
    rate: float | None = None,
    core: int | None = None,
) -> Outcome:
    """Load for so many seconds, as much as these connections bring; `rate`: about so many requests per second instead,
    from as many connections as it takes for each to rest for a tenth of a second between two requests.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise BenchError("wrk is not installed. Debian, Ubuntu: sudo apt-get install wrk")
    script = directory / "load.lua"
    if rate is not None:
        connections = max(8, round(rate * REST_MS / 1_000))
    pause_ms = 0 if rate is None else connections / rate * 1_000
    script.write_text(
        SCRIPT
        % {
            "body": _quoted(request.body.decode()),
            "headers": "\n".join(f"wrk.headers[{_quoted(k)}] = {_quoted(v)}" for k, v in request.headers.items()),
            "delay": f"function delay() return math.random({int(pause_ms * 2)}) end" if pause_ms else "",
        }
    )
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(script)]
    command.append(url + request.path)
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    before = {name: cpu_us(pids) for name, pids in groups.items()}
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = {name: cpu_us(pids) for name, pids in groups.items()}
    line = next(line for line in said.splitlines() if line.startswith("RESULT "))
    count, duration_us, refused, broken, p50, p95, p99 = (int(word) for word in line.split()[1:])
    used = {name: round((after[name] - before[name]) / max(1, count), 1) for name in groups}
    return Outcome(count, duration_us / 1e6, refused, broken, p50, p95, p99, used)


def _quoted(text: str) -> str:
    return json.dumps(text)
