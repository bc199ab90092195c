"""How workers are started."""

from __future__ import annotations

from pathlib import Path

from ext_proc.server.settings import WorkerSettings
from ext_proc.supervisor.workers import Worker


def test_command_line_of_a_worker_holds_no_password(tmp_path: Path) -> None:
    """Anybody may list processes: a worker is told the URL of Redis where only its owner can read it, and whole."""
    settings = WorkerSettings(
        name="w0",
        listen=f"unix:{tmp_path}/w0.sock",
        policies=str(tmp_path),
        redis_url="redis://:hunter2@store:6379/0",
        state_dir=str(tmp_path),
        metrics_dir=str(tmp_path),
    )
    spec = Worker("w0", lambda: settings, tmp_path / "w0.log", drain_seconds=1).spec()
    assert "hunter2" not in " ".join((*spec.argv, *spec.environment.values()))
    assert WorkerSettings.from_json((spec.told or b"").decode()) == settings
