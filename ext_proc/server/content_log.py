"""The content log's sink: what a policy allows and a request asked for, redacted and written by a thread of its own.

The event loop hands over and goes on: nothing here can delay or break an answer. What waits is bounded in number, each
in size; beyond that lines are dropped, and counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ext_proc.exchange.content import AnswerCopy, LoggedRequest
from ext_proc.policy.snapshot import ContentLogging, ContentSink
from ext_proc.telemetry.metrics import Metrics

_LOG = logging.getLogger(__name__)

WAITING_MAX: Final = 64
CLOSE_SECONDS: Final = 5.0

_Line = Callable[[], str]


class ContentLog:
    """One worker's lines: to `file` in the state directory and at most one older one beside it, or to stdout."""

    def __init__(self, file: Path, metrics: Metrics) -> None:
        self._file = file
        self._metrics = metrics
        self._waiting: queue.Queue[tuple[ContentLogging, _Line] | None] = queue.Queue(WAITING_MAX)
        self._thread: threading.Thread | None = None

    def request(self, request: LoggedRequest, under: ContentLogging, target: str, secrets: tuple[str, ...]) -> None:
        """Log a request that was sent to `target`. `secrets`: what must not be written, whatever it looks like."""
        self._put(under, lambda: request.line(under, target, secrets))

    def answer(self, copy: AnswerCopy, now_us: int, secrets: tuple[str, ...]) -> None:
        """Log an answer that has ended."""
        self._put(copy.logging, lambda: copy.line(now_us, secrets))

    def close(self) -> None:
        """Write what waits, for some seconds at most."""
        if self._thread is None:
            return
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=CLOSE_SECONDS)
            self._thread.join(CLOSE_SECONDS)

    def _put(self, under: ContentLogging, line: _Line) -> None:
        try:
            self._waiting.put_nowait((under, line))
        except queue.Full:
            self._metrics.content_logged("dropped")
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="content-log", daemon=True)
            self._thread.start()

    def _write_all(self) -> None:
        while (one := self._waiting.get()) is not None:
            under, line = one
            try:
                self._write(under, f"{line()}\n".encode("utf-8", "replace"))
            except Exception as error:  # noqa: BLE001  a full disk, whatever: nobody is waiting for it
                self._metrics.content_logged("failed")
                # By its kind alone: what an error says of a text may hold the text.
                _LOG.warning("a line of the content log was lost: %s", type(error).__name__)
            else:
                self._metrics.content_logged("written")

    def _write(self, under: ContentLogging, line: bytes) -> None:
        if under.sink is ContentSink.STDOUT:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            return
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if self._file.stat().st_size + len(line) > under.max_file_bytes:
                self._file.replace(self._file.with_name(f"{self._file.name}.1"))
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(line)
