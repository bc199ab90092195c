"""The content log's sink: bounded on disk and in memory, closed to others, and never in anybody's way."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from ext_proc.exchange.content import LoggedRequest
from ext_proc.exchange.events import RequestHead
from ext_proc.identity.caller import Caller
from ext_proc.policy.snapshot import ContentLogging, ContentSink
from ext_proc.server.content_log import WAITING_MAX, ContentLog
from ext_proc.telemetry.metrics import Metrics

FILE_BYTES = 4_000
HEAD = RequestHead("POST", "/v1/chat/completions", (), 1)


def under(sink: ContentSink = ContentSink.FILE) -> ContentLogging:
    """A policy with small files."""
    return ContentLogging((), sink, (), max_body_bytes=500, max_file_bytes=FILE_BYTES)


def request(number: int) -> LoggedRequest:
    """A request with its number for an id."""
    return LoggedRequest.of(f"req_{number}", HEAD, Caller(), "m", b'{"a": "' + b"x" * 300 + b'"}', 500)


def counted(metrics: Metrics, result: str) -> float:
    """How many lines came to this."""
    return metrics.registry.get_sample_value("tollgate_content_log_total", {"result": result}) or 0


def test_files_are_put_aside_and_two_are_kept(tmp_path: Path) -> None:
    """Whatever is logged, a worker keeps two files of the given size at most, each of whole lines, the newest last, and
    nobody else may read them.
    """
    metrics, file = Metrics(), tmp_path / "content" / "w0.jsonl"
    log = ContentLog(file, metrics)
    for number in range(WAITING_MAX):
        log.request(request(number), under(), "a/m", ())
    log.close()

    assert counted(metrics, "written") == WAITING_MAX
    kept = sorted(file.parent.iterdir())
    assert [path.name for path in kept] == ["w0.jsonl", "w0.jsonl.1"]
    assert all(path.stat().st_size <= FILE_BYTES for path in kept)
    assert [path.stat().st_mode & 0o077 for path in (*kept, file.parent)] == [0, 0, 0]
    ids = [json.loads(line)["request_id"] for path in reversed(kept) for line in path.read_text().splitlines()]
    assert ids == [f"req_{number}" for number in range(WAITING_MAX - len(ids), WAITING_MAX)]


def test_what_cannot_be_written_is_lost_and_counted(tmp_path: Path) -> None:
    """A sink that fails raises nothing, and the next line is tried again."""
    (tmp_path / "content").write_text("a file where the directory should be")
    metrics = Metrics()
    log = ContentLog(tmp_path / "content" / "w0.jsonl", metrics)
    log.request(request(1), under(), "a/m", ())
    log.request(request(2), under(), "a/m", ())
    log.close()

    assert counted(metrics, "failed") == 2


def test_a_slow_sink_makes_lines_wait_in_a_bounded_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the disk: beyond what may wait, lines are dropped and counted."""
    metrics, writing, go_on = Metrics(), threading.Event(), threading.Event()
    log = ContentLog(tmp_path / "w0.jsonl", metrics)
    write = log._write

    def slow(policy: ContentLogging, line: bytes) -> None:
        writing.set()
        assert go_on.wait(30)
        write(policy, line)

    monkeypatch.setattr(log, "_write", slow)
    log.request(request(0), under(), "a/m", ())
    assert writing.wait(30)
    for number in range(1, WAITING_MAX + 11):
        log.request(request(number), under(), "a/m", ())
    go_on.set()
    log.close()

    assert (counted(metrics, "dropped"), counted(metrics, "written")) == (10, WAITING_MAX + 1)


def test_stdout_gets_whole_lines(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """For a collector of one's own: a line of JSON each, and no file."""
    log = ContentLog(tmp_path / "content" / "w0.jsonl", Metrics())
    log.request(request(7), under(ContentSink.STDOUT), "a/m", ())
    log.close()

    assert json.loads(capfdbinary.readouterr().out)["request_id"] == "req_7"
    assert not list(tmp_path.iterdir())
