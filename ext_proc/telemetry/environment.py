"""What a worker's environment must hold before it starts. Apart: who starts workers need not load prometheus-client."""

from __future__ import annotations

from pathlib import Path

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def worker_environment(metrics_dir: Path) -> dict[str, str]:
    """What a worker's environment must hold *before* it starts, so that its counts can be added to the others'."""
    return {MULTIPROCESS_VARIABLE: str(metrics_dir)}
