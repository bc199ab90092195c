"""Several worker processes count; one directory holds the sum, whoever of them is still alive."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from ext_proc.telemetry import workers
from ext_proc.telemetry.environment import worker_environment
from ext_proc.telemetry.errors import TelemetryError
from ext_proc.telemetry.metrics import Metrics
from ext_proc.telemetry.workers import collect, forget_worker
from tests.scrape_kit import Samples, parsed, value

_WORKER = """
import sys, json
from pathlib import Path
from ext_proc.telemetry.metrics import Metrics
metrics = Metrics(metrics_dir=Path(sys.argv[1]))
metrics.policy_loaded("v1", ok=sys.argv[2] == "ok")
for _ in range(int(sys.argv[3])):
    metrics.charged(labels=("ada", "acme"), model="m", cost_nanodollars=10**9, input_tokens=2, output_tokens=1,
                    basis="reported")
    metrics.ledger_call(operation="hold", code="held", seconds=0.001)
print("counted", flush=True)
sys.stdin.read()
"""


def _start_worker(metrics_dir: Path, policy: str, count: int) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(metrics_dir), policy, str(count)],
        env={**os.environ, **worker_environment(metrics_dir)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "counted\n"
    return worker


def _collected(metrics_dir: Path) -> Samples:
    return parsed(collect(metrics_dir, CollectorRegistry(), generate_latest))


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[[str, int], subprocess.Popen[str]]]:
    """Starts workers that count in `tmp_path` and wait; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(policy: str, count: int) -> subprocess.Popen[str]:
        started.append(_start_worker(tmp_path, policy, count))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
        worker.communicate()


Start = Callable[[str, int], subprocess.Popen[str]]
CALLER = {"model_name": "m", "username": "ada", "tenant_name": "acme"}


def test_two_processes_add_up_and_a_dead_ones_counts_stay(tmp_path: Path, start_worker: Start) -> None:
    """Counts of two real processes are summed; after one is killed its counters remain and its gauge does not."""
    start_worker("ok", 30)
    bad = start_worker("rejected", 12)
    both = _collected(tmp_path)
    bad.kill()
    bad.wait()
    forget_worker(tmp_path, bad.pid)
    after = _collected(tmp_path)

    for samples in (both, after):
        assert value(samples, "llm_gateway_request_total_cost_total", **CALLER) == 42
        assert value(samples, "tollgate_ledger_seconds_count", operation="hold") == 42
        assert value(samples, "tollgate_ledger_seconds_bucket", operation="hold", le="0.0016") == 42
        assert value(samples, "tollgate_ledger_seconds_bucket", operation="hold", le="0.0008") == 0
    assert value(both, "tollgate_policy_ok") == 0
    assert value(after, "tollgate_policy_ok") == 1


def test_workers_that_keep_crashing_leave_no_files(tmp_path: Path, start_worker: Start) -> None:
    """However many workers have ended, their counts stand in one file per kind; forgetting twice changes nothing."""
    for _ in range(4):
        worker = start_worker("ok", 5)
        worker.kill()
        worker.wait()
        forget_worker(tmp_path, worker.pid)
        forget_worker(tmp_path, worker.pid)

    assert sorted(file.name for file in tmp_path.iterdir()) == ["counter_ended.db", "histogram_ended.db"]
    assert value(_collected(tmp_path), "llm_gateway_request_total_cost_total", **CALLER) == 20


def test_no_scrape_sees_a_worker_twice(tmp_path: Path, start_worker: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape that begins while a worker's counts are being folded waits for the end and counts them once."""
    worker = start_worker("ok", 3)
    worker.kill()
    worker.wait()
    seen: list[float] = []
    reader = threading.Thread(
        target=lambda: seen.append(
            value(_collected(tmp_path), "llm_gateway_request_total_cost_total", **CALLER),
        )
    )
    fold = workers._fold

    def fold_and_be_scraped(file: Path, ended: Path) -> None:
        fold(file, ended)
        if not reader.is_alive() and not seen:
            reader.start()
            reader.join(timeout=0.5)  # long enough for a scrape that does not wait to finish; one that does goes on

    monkeypatch.setattr(workers, "_fold", fold_and_be_scraped)
    forget_worker(tmp_path, worker.pid)
    reader.join()

    assert seen == [3]


_WITHOUT_VARIABLE: Callable[[Path], dict[str, str]] = lambda _: {}  # noqa: E731  (a table of environments)


@pytest.mark.parametrize(
    ("environment", "code", "cure"),
    [
        (_WITHOUT_VARIABLE, "", "worker_environment"),
        (lambda path: worker_environment(path / "elsewhere"), "", "worker_environment"),
        (
            _WITHOUT_VARIABLE,
            "import prometheus_client, os; os.environ['PROMETHEUS_MULTIPROC_DIR'] = sys.argv[1]",
            "imported",
        ),
        (worker_environment, "Path(sys.argv[1]).rmdir()", "does not exist"),
    ],
)
def test_a_worker_that_would_lose_its_counts_does_not_start(
    tmp_path: Path, environment: Callable[[Path], dict[str, str]], code: str, cure: str
) -> None:
    """A forgotten, wrong or late environment variable is an error that says the cure, not silently missing counts."""
    script = (
        f"import sys\nfrom pathlib import Path\n{code}\n"
        "from ext_proc.telemetry.metrics import Metrics\nfrom ext_proc.telemetry.errors import TelemetryError\n"
        "try:\n    Metrics(metrics_dir=Path(sys.argv[1]))\nexcept TelemetryError as error:\n    print(error)\n"
    )
    metrics_dir = tmp_path / "metrics"
    metrics_dir.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, str(metrics_dir)],
        env={**os.environ, **environment(metrics_dir)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert cure in done.stdout


def test_in_this_process_a_metrics_dir_without_the_variable_is_refused(tmp_path: Path) -> None:
    """The same check holds inside a running process."""
    with pytest.raises(TelemetryError, match="worker_environment"):
        Metrics(metrics_dir=tmp_path)
