"""Content logging: decided by policy and wish together, never by one of them alone, and never in an answer's way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ext_proc.exchange.admission import Admission, State
from ext_proc.exchange.content import LOGGED, NOT_ALLOWED, UNREADABLE, AnswerCopy, LoggedRequest
from ext_proc.exchange.effects import AskHold, Forward
from ext_proc.exchange.events import HoldAnswered, RequestBody, RequestHead, ResponseHead
from ext_proc.exchange.terms import Terms
from ext_proc.exchange.ticket import Ticket
from ext_proc.identity.caller import Caller
from ext_proc.ledger import ids
from ext_proc.ledger.interface import Code, HoldReply
from ext_proc.policy.snapshot import ContentLogging
from tests.policy_kit import snapshot

NOW_US = 1_779_000_000_000_000
ALLOWED = """
name: settings
type: gateway-settings
content_log: {when: {metadata: {team_tag: search}}, redact: ['card [0-9]+'], max_body_bytes: 200}
"""
KEY = "sk-of-the-client-itself-0123456789"


def terms(policies: str = ALLOWED) -> Terms:
    """Terms under which those with a certain tag may be logged; natively metered where that serves."""
    return Terms.of(snapshot(policies), lease_ms=1_000, native=True)


def forwarded(
    policies: str = ALLOWED, config: str | None = '{"enabled": true}', content: str = "hi", **tags: str
) -> Forward:
    """What becomes of a request whose hold is granted."""
    headers = [("x-tfy-metadata", json.dumps(tags)), ("authorization", f"Bearer {KEY}")]
    headers += [("x-tfy-logging-config", config)] if config is not None else []
    body = {"model": "gpt-4o-mini", "max_tokens": 5, "messages": [{"role": "user", "content": content}]}
    admission = Admission(terms(policies), ids.mint(NOW_US, b"01234567"), "req_1")
    admission.receive(RequestHead("POST", "/v1/chat/completions", tuple(headers), NOW_US))
    asked = admission.receive(RequestBody(json.dumps(body).encode(), NOW_US))[-1]
    assert isinstance(asked, AskHold), asked
    reply = HoldReply(Code.HELD, stamp=None, plan_index=0, output_limit=5)
    forward = admission.receive(HoldAnswered(reply))[-1]
    assert admission.state is State.FORWARDED
    assert isinstance(forward, Forward)
    return forward


@pytest.mark.parametrize(
    ("policies", "config", "tags", "told"),
    [
        (ALLOWED, '{"enabled": true}', {"team_tag": "search"}, LOGGED),
        (ALLOWED, None, {"team_tag": "search", "tfy_log_request": "true"}, LOGGED),
        (ALLOWED, '{"enabled": true}', {"team_tag": "search", "tfy_log_request": "false"}, None),
        (ALLOWED, None, {"team_tag": "search"}, None),
        (ALLOWED, '{"enabled": false}', {"team_tag": "search"}, None),
        (ALLOWED, "{}", {"team_tag": "search"}, None),
        (ALLOWED, '{"enabled": true}', {"team_tag": "ads"}, NOT_ALLOWED),
        (ALLOWED, None, {"tfy_log_request": "true"}, NOT_ALLOWED),
        ("name: s\ntype: gateway-settings", '{"enabled": true}', {"team_tag": "search"}, NOT_ALLOWED),
        (ALLOWED, "yes", {"team_tag": "search"}, UNREADABLE),
        (ALLOWED, '{"enabled": "true"}', {"team_tag": "search"}, UNREADABLE),
        (ALLOWED, "[" * 10_000, {"team_tag": "search"}, UNREADABLE),
    ],
)
def test_only_an_allowed_wish_is_logged_and_every_wish_is_answered(
    policies: str, config: str | None, tags: dict[str, str], told: str | None
) -> None:
    """Policy and wish together; the request is served whatever comes of it, and told; without a wish nothing is."""
    forward = forwarded(policies, config, **tags)

    assert forward.answer.get("content_log") == told
    assert (forward.logged is not None) is (told == LOGGED)
    assert forward.ticket.logged_as == ("req_1" if told == LOGGED else "")
    assert Ticket.decode(forward.ticket.encode()) == forward.ticket
    assert forward.ticket.native is (told != LOGGED), "an answer that is logged passes meter, and no other"


def logging_of(policies: str = ALLOWED) -> ContentLogging:
    """The compiled block."""
    logging = snapshot(policies).settings.content_log
    assert logging is not None
    return logging


def test_a_request_is_written_without_secrets_and_within_its_bound() -> None:
    """Shapes of credentials, the key it came with, what the policy names, the gateway's own key: none is written."""
    text = f"{KEY} card 4111 sk-{'a' * 20} own-credential {'x' * 5000}"
    forward = forwarded(content=text, team_tag="search", note=f"sk-{'b' * 20}")
    assert forward.logged is not None
    assert len(forward.logged.body) < 2_000, "no more of a body is kept than the log may need"

    line = forward.logged.line(logging_of(), forward.ticket.target, ("own-credential",))

    record = json.loads(line)
    assert record["request_id"] == "req_1"
    assert record["target"] == "openai-main/gpt-4o-mini"
    assert record["tags"] == {"team_tag": "search", "note": "[redacted]"}
    assert not record["whole"]
    assert len(record["body"].encode()) <= 200
    assert "[redacted] [redacted] [redacted] [redacted] xxx" in record["body"]
    for secret in (KEY, "4111", "aaaa", "bbbb", "own-credential"):
        assert secret not in line


def test_a_form_is_named_and_not_written() -> None:
    """Files are no text: that a form was sent is told, its content is not."""
    head = RequestHead("POST", "/v1/audio/transcriptions", (("content-type", "multipart/form-data; a=b"),), NOW_US)
    request = LoggedRequest.of("req_1", head, Caller(), "whisper-1", b"--b\r\nsecret", 100)

    record = json.loads(request.line(logging_of(), "openai-main/whisper-1", ()))

    assert (record["body"], record["not_text"]) == (None, "multipart/form-data")


def answered(*chunks: bytes, content_type: str = "application/json", encoding: str = "", end: bool = True) -> Any:
    """The record of an answer in these chunks."""
    ticket = forwarded(team_tag="search").ticket
    copy = AnswerCopy(ticket, ResponseHead(200, content_type, encoding, NOW_US), logging_of())
    for place, chunk in enumerate(chunks):
        copy.add(chunk, end=end and place == len(chunks) - 1)
    return json.loads(copy.line(NOW_US, ("own-credential",)))


def test_a_streamed_answer_is_put_together_before_it_is_searched() -> None:
    """A secret that comes in pieces over several events, and over chunks that cut the events, is taken out."""
    events = b"".join(
        b"data: %s\n\n" % json.dumps({"id": "x", "choices": [{"index": 0, "delta": {"content": piece}}]}).encode()
        for piece in ("The key is s", "k-abcdef", "ghijklmnop", "qrstuvw, ", "card ", "41", "11.")
    )
    record = answered(events[:70], events[70:200], events[200:], content_type="text/event-stream; charset=utf-8")

    assert json.loads(record["body"]) == {"choices[0].delta.content": "The key is [redacted], [redacted]."}
    assert (record["kind"], record["request_id"], record["ended"], record["whole"]) == ("answer", "req_1", True, True)


def test_a_plain_answer_is_kept_to_its_bound_and_a_compressed_one_is_named() -> None:
    """At most what policy allows of the body; what nobody can read is not written."""
    long = answered(b'{"a": "' + b"x" * 700, b"y" * 3_000 + b'"}')
    assert len(long["body"]) <= 200
    assert not long["whole"]

    assert answered(b'{"error": "own-credential is wrong"}')["body"] == '{"error": "[redacted] is wrong"}'
    assert answered(b"\x1f\x8b", encoding="gzip")["not_text"] == "gzip"


def test_of_an_answer_that_was_cut_off_the_end_is_left_out() -> None:
    """What came last may be the beginning of a secret whose rest would have told."""
    record = answered(b'{"text": "' + b"x" * 1_500 + b"sk-abc", end=False)

    assert "x" * 100 in record["body"]
    assert "sk-abc" not in record["body"]
    assert (record["ended"], record["whole"]) == (False, False)
