"""Content logging on the real stack: what is allowed and asked for is logged without secrets, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.canary import CLIENT_KEY
from tests.e2e_kit import POLICIES, Gateway, chat_body, eventually
from tests.identity_kit import a_key
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

CONTENT_LOG = """
name: settings
type: gateway-settings
content_log: {when: {metadata: {cost_center: [open, tagged]}}, redact: ['card [0-9]+']}
"""

PRIVATE = "-----BEGIN PRIVATE KEY-----\ncanary-of-a-file-0123456789\n-----END PRIVATE KEY-----"
TOLD = {
    "role": "user",
    "content": f"marker-told {CLIENT_KEY} card 4111111111111111\n{a_key('leaked')}\n{PRIVATE}\nDB_PASSWORD=canary-db-0",
}
ASK = {"x-tfy-logging-config": '{"enabled": true}'}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, metering: str) -> Iterator[RunningStack]:
    """A stack where some cost centers may have their contents logged. That no secret is in its files, its end tells."""
    policies = {**POLICIES, "settings.yaml": CONTENT_LOG}
    with running_stack(tmp_path_factory.mktemp(f"content-{metering}"), policies, "--metering", metering) as stack:
        yield stack


def logged(stack: RunningStack) -> list[dict[str, Any]]:
    """Every line that any worker has written."""
    files = sorted((stack.state_dir / "content").glob("*.jsonl*"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def ask(stack: RunningStack, tags: dict[str, str], headers: dict[str, str], **body: Any) -> httpx.Response:
    """A request that tells secrets, answered."""
    sent = {"x-tfy-metadata": json.dumps(tags), "authorization": f"Bearer {CLIENT_KEY}", **headers}
    url = f"{stack.listen}/v1/chat/completions"
    answer = httpx.post(url, headers=sent, json=chat_body(messages=[TOLD], **body), timeout=30)
    assert answer.status_code == 200, answer.text
    return answer


def both(stack: RunningStack, answer: httpx.Response) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two lines of a request."""
    request_id = answer.headers["x-tollgate-request-id"]

    def look() -> dict[str, dict[str, Any]] | None:
        lines = {line["kind"]: line for line in logged(stack) if line["request_id"] == request_id}
        return lines if set(lines) == {"request", "answer"} else None

    lines = eventually(look, f"the two lines of {request_id}")
    return lines["request"], lines["answer"]


@pytest.mark.parametrize(
    ("tags", "headers"), [({"cost_center": "open"}, ASK), ({"cost_center": "tagged", "tfy_log_request": "true"}, {})]
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_allowed_and_asked_for_is_logged_without_secrets(
    running: RunningStack, tags: dict[str, str], headers: dict[str, str], stream: bool
) -> None:
    """Plain and streamed, asked for by header or tag: request and answer as they read, with the secrets taken out."""
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    answer = ask(running, tags, headers, **more)
    assert answer.headers["x-tollgate-content-log"] == "logged"

    request, told = both(running, answer)

    (message,) = json.loads(request["body"])["messages"]
    assert message["content"] == "marker-told [redacted] [redacted]\n[redacted]\n[redacted]\n[redacted]"
    assert request["tags"]["cost_center"] == tags["cost_center"]
    assert (told["status"], told["ended"], told["whole"]) == (200, True, True)
    if stream:
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        text = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
        assert text
        assert json.loads(told["body"])["choices[0].delta.content"] == text
    else:
        assert json.loads(told["body"])["choices"] == answer.json()["choices"]


def test_what_is_not_allowed_or_not_asked_for_is_not_logged(running: RunningStack) -> None:
    """A wish without a policy is served and told so; without a wish there is not even a word about it."""
    gateway = Gateway(running, "shut")
    try:
        refused = ask(running, {"cost_center": "shut"}, ASK)
        odd = ask(running, {"cost_center": "open"}, {"x-tfy-logging-config": "all of it"})
        silent = ask(running, {"cost_center": "open"}, {})
        assert "no policy allows it" in refused.headers["x-tollgate-content-log"]
        assert '{"enabled": true}' in odd.headers["x-tollgate-content-log"]
        assert "x-tollgate-content-log" not in silent.headers
        assert not [answer for answer in (refused, odd) if "x-tfy-ignored-headers" in answer.headers]
        gateway.resolved()
    finally:
        gateway.close()

    last = ask(running, {"cost_center": "open"}, ASK)  # by the time that this one is written, all would be
    both(running, last)
    unasked = {answer.headers["x-tollgate-request-id"] for answer in (refused, odd, silent)}
    assert not unasked & {line["request_id"] for line in logged(running)}


def test_a_stack_without_the_block_logs_nothing_whoever_asks(tmp_path: Path) -> None:
    """Off by default: no header and no tag makes a file."""
    with running_stack(tmp_path, POLICIES) as stack:
        answer = ask(stack, {"cost_center": "open", "tfy_log_request": "true"}, ASK)
        assert "no policy allows it" in answer.headers["x-tollgate-content-log"]
        state_dir = stack.state_dir
    assert not (state_dir / "content").exists()
    assert not [file for file in state_dir.rglob("*") if file.is_file() and b"marker-told" in file.read_bytes()]
