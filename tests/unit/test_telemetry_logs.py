"""Log lines are JSON, carry what was given, and never a credential."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.telemetry.logs import REDACTED, JsonFormatter, configure, redact
from ext_proc.telemetry.names import LogEvent

SECRETS = [
    "sk-proj-abcdEFGH1234_5678-xyz",
    "sk-ant-api03-AbCdEfGh12345678",
    "AIzaSyA1234567890abcdefghijklmnopqrstu",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "xoxb-123456789012-abcdefghijkl",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4",
]


@pytest.fixture
def logger() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    one = logging.getLogger("tollgate.test")
    one.setLevel(logging.INFO)
    one.propagate = False
    one.addHandler(handler)
    yield one, stream
    one.removeHandler(handler)
    handler.close()


def test_a_line_is_one_json_object_with_the_extra_fields(logger: tuple[logging.Logger, io.StringIO]) -> None:
    """Event, level, logger and every extra field stand in one JSON object per line."""
    log, stream = logger
    log.info(LogEvent.POLICY_LOADED, extra={"version": "abc", "rules": 3, "paths": ["a", {"b": None}]})
    log.warning("two\nlines %s", "x")

    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["event"] == "policy_loaded"
    assert (first["level"], first["logger"], first["version"], first["rules"]) == ("info", "tollgate.test", "abc", 3)
    assert first["paths"] == ["a", {"b": None}]
    assert first["time"].endswith("Z")
    assert second["event"] == "two\nlines x"


@pytest.mark.parametrize("secret", SECRETS)
def test_a_credential_is_hidden_wherever_it_stands(secret: str, logger: tuple[logging.Logger, io.StringIO]) -> None:
    """Message, arguments, extra fields, nested values and exception texts are all redacted."""
    log, stream = logger
    log.error("key %s failed", secret, extra={"note": f"used {secret}.", "deep": {"list": [secret]}})
    try:
        int(f"provider said: {secret} is invalid")
    except ValueError:
        log.exception("call failed")

    assert secret not in stream.getvalue()
    assert stream.getvalue().count(REDACTED) >= 4


@pytest.mark.parametrize(
    "text",
    ["Authorization: Bearer abcdef123456", "authorization: Basic dXNlcjpwYXNz", "redis://:hunter2secret@host:6379/0"],
)
def test_what_introduces_a_secret_stays_readable(text: str) -> None:
    """The scheme or URL before a secret is kept, so that a reader sees what was hidden."""
    hidden = redact(text)

    assert REDACTED in hidden
    assert hidden[:5] == text[:5]
    assert not any(secret in hidden for secret in ("abcdef123456", "dXNlcjpwYXNz", "hunter2secret"))


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "api_key", "Cookie", "redis_password", "token"])
def test_a_field_named_like_a_secret_is_hidden(name: str, logger: tuple[logging.Logger, io.StringIO]) -> None:
    """A field whose name says secret shows nothing of its text, at any depth."""
    log, stream = logger
    log.info("x", extra={name: "plainvalue", "headers": {name: "plainvalue"}})

    assert "plainvalue" not in stream.getvalue()


def test_token_counts_stay_readable(logger: tuple[logging.Logger, io.StringIO]) -> None:
    """Counting tokens is what we do: numbers are never hidden."""
    log, stream = logger
    log.info("x", extra={"input_tokens": 12, "max_tokens": 5, "token": 7})

    line = json.loads(stream.getvalue())
    assert (line["input_tokens"], line["max_tokens"], line["token"]) == (12, 5, 7)


_JSONISH = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.binary() | st.just(object()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
    max_leaves=20,
)


@given(value=_JSONISH, message=st.text())
def test_nothing_makes_a_line_unwritable(value: object, message: str) -> None:
    """Any value and any message, even one with stray % signs, gives one parseable line."""
    record = logging.LogRecord("l", logging.INFO, "f", 1, message, ("x",), None)
    record.given = value

    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "event" in json.loads(line, parse_constant=pytest.fail)


def test_a_self_containing_value_is_cut_off() -> None:
    """A value that contains itself is written to a bounded depth."""
    loop: dict[str, object] = {}
    loop["again"] = loop
    record = logging.LogRecord("l", logging.INFO, "f", 1, "m", (), None)
    record.loop = loop

    assert json.loads(JsonFormatter().format(record))["loop"]["again"]


def test_configured_process_logs_everything_to_stderr_as_json() -> None:
    """After `configure`, records of any logger and Python warnings arrive on stderr; below the level nothing does."""
    code = (
        "import logging, warnings\nfrom ext_proc.telemetry.logs import configure\nconfigure('warning')\n"
        "logging.getLogger('any').info('quiet')\nlogging.getLogger('any').warning('loud')\nwarnings.warn('careful')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == ""
    assert lines[0]["event"] == "loud"
    assert "careful" in lines[1]["event"]
    assert len(lines) == 2


def test_an_unknown_level_is_an_error_with_the_cure() -> None:
    """A misspelt level says what would be right and changes nothing."""
    before = logging.getLogger().handlers[:]
    with pytest.raises(ValueError, match="use debug, info, warning or error"):
        configure("loud")

    assert logging.getLogger().handlers == before
