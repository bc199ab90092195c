"""Structured logs: one JSON object per line on stderr, with everything that looks like a credential taken out.

Code logs through the standard library: `logger.info(LogEvent.POLICY_LOADED, extra={"version": "…"})`. The message is
the event's name, or a sentence; the extra fields become fields of the object.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TextIO

REDACTED = "[redacted]"

_MAX_VALUE_CHARS = 4_096
_MAX_DEPTH = 6

# Names whose *text* is a secret. Numbers are never hidden, so that `input_tokens` stays readable.
_SECRET_NAME = re.compile(
    r"(authorization|cookie|passw(or)?d|secret|credential|api[-_]?key|private[-_]?key|bearer|(^|[-_.])token$)",
    re.IGNORECASE,
)
# Texts that are a secret wherever they stand: schemes of the Authorization header, the providers' and clouds' key
# formats, JSON web tokens, and the password of a URL.
_SECRET_TEXT = re.compile(
    r"(?P<scheme>\b(?:bearer|authorization\W{1,4}basic)\s+)[A-Za-z0-9._~+/=-]{6,}"
    r"|(?P<url>\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)"
    r"|\bsk-[A-Za-z0-9_-]{8,}"
    r"|\btg_[A-Za-z0-9._-]{1,64}_[A-Za-z0-9]{43}\b"
    r"|\bAIza[A-Za-z0-9_-]{20,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bxox[abeprs]-[A-Za-z0-9-]{8,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    re.IGNORECASE,
)

# What every LogRecord has; whatever else it carries came in through `extra`.
_STANDARD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def redact(text: str) -> str:
    """The text without credentials."""
    return _SECRET_TEXT.sub(_keep_what_introduces, text)


def _keep_what_introduces(match: re.Match[str]) -> str:
    return (match["scheme"] or match["url"] or "") + REDACTED


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON: time, level, logger, event, the extra fields, and the exception if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Never raises: a log line that cannot be written must not end a request."""
        line: dict[str, object] = {
            "time": _rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _clean(_message(record), 0),
            "pid": record.process,
        }
        for name, value in record.__dict__.items():
            if name not in _STANDARD_FIELDS:
                line.setdefault(name, REDACTED if _is_secret(name, value) else _clean(value, 0))
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, separators=(",", ":"))


def append_stderr_to(log: str) -> None:
    """Send stderr to a file, for the whole process: what libraries write there too. Its owner alone may read it."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (stderr) as JSON lines. Raises ValueError for an unknown level."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"no log level {level!r}: use debug, info, warning or error")
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    # Request lines of the admin server's library would repeat what the metrics say.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        return f"{record.msg} {record.args}"


def _is_secret(name: str, value: object) -> bool:
    return isinstance(value, str | bytes) and _SECRET_NAME.search(name) is not None


def _clean(value: object, depth: int) -> object:
    """A JSON value without credentials, bounded in depth and length."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return redact(value)[:_MAX_VALUE_CHARS]
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {
                str(name): REDACTED if _is_secret(str(name), inner) else _clean(inner, depth + 1)
                for name, inner in value.items()
            }
        if isinstance(value, Sequence | set | frozenset):
            return [_clean(inner, depth + 1) for inner in value]
    return redact(str(value))[:_MAX_VALUE_CHARS]


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
