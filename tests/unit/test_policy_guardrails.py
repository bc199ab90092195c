"""Guardrails: each bound refuses what is past it, passes what is at it, and says how to pass."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus

import pytest

from ext_proc.identity.caller import Caller
from ext_proc.policy.snapshot import GuardedRequest, MatchFacts, Snapshot
from ext_proc.refusal import RefusalType
from tests import policy_kit


def guarded(*rules: str) -> Snapshot:
    """A snapshot with these guardrails, each written as a flow mapping."""
    text = "name: g\ntype: gateway-guardrail-config\nrules:\n" + "".join(f"  - {rule}\n" for rule in rules)
    return policy_kit.snapshot(text)


def facts(target: str = "openai-main/gpt-4o", requested: str = "gpt-4o", **tags: str) -> MatchFacts:
    """A request's caller and model."""
    return MatchFacts(Caller(tags=tags), requested, target)


def request_(
    body_bytes: int = 100, input_tokens: int = 10, output_tokens: int | None = 10, text: str = "hello"
) -> GuardedRequest:
    """A request's size and text."""
    document = {"model": "gpt-4o", "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}
    return GuardedRequest(body_bytes, input_tokens, output_tokens, document)


@pytest.mark.parametrize(
    ("rule", "good", "bad", "status", "message", "mitigation"),
    [
        (
            "{id: r, when: {}, max_body_bytes: 1000}",
            request_(body_bytes=1000),
            request_(body_bytes=1001),
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "The request body of 1,001 bytes is larger than the 1,000 allowed (guardrail 'r').",
            "Send a smaller body: shorten the prompt, or attach files by reference.",
        ),
        (
            "{id: r, when: {}, max_input_tokens: 50}",
            request_(input_tokens=50),
            request_(input_tokens=51),
            HTTPStatus.BAD_REQUEST,
            "The input of about 51 tokens is larger than the 50 allowed (guardrail 'r').",
            "Shorten the prompt, or split the work into several requests.",
        ),
        (
            "{id: r, when: {}, max_output_tokens: 4096}",
            request_(output_tokens=4096),
            request_(output_tokens=4097),
            HTTPStatus.BAD_REQUEST,
            "The output limit of 4,097 tokens is larger than the 4,096 allowed (guardrail 'r').",
            "Ask for at most 4,096 output tokens, all choices together.",
        ),
        (
            "{id: r, when: {}, denied_patterns: [{name: card number, pattern: '\\b4[0-9]{15}\\b'}]}",
            request_(text="order 41111111111111112"),
            request_(text="pay with 4111111111111111"),
            HTTPStatus.BAD_REQUEST,
            "The request holds something that is denied here: card number (guardrail 'r').",
            "Remove the card number from the request.",
        ),
    ],
)
def test_a_bound_refuses_what_is_past_it(
    *, rule: str, good: GuardedRequest, bad: GuardedRequest, status: HTTPStatus, message: str, mitigation: str
) -> None:
    """At the bound a request passes; past it the refusal has the number and the cure, and is not to be retried."""
    snapshot = guarded(rule)
    assert snapshot.guard(facts(), good) == ()

    (finding,) = snapshot.guard(facts(), bad)

    assert (finding.rule_id, finding.enforced) == ("r", True)
    assert (finding.refusal.type, finding.refusal.status) == (RefusalType.GUARDRAIL, status)
    assert (finding.refusal.message, finding.refusal.mitigation) == (message, mitigation)
    assert finding.refusal.should_retry is False
    assert finding.refusal.rule == "r"


def test_a_denied_text_is_never_repeated_to_the_caller() -> None:
    """The refusal names the pattern, not what it found."""
    snapshot = guarded("{id: r, when: {}, denied_patterns: [{name: key, pattern: 'sk-[a-z]+'}]}")

    (finding,) = snapshot.guard(facts(), request_(text="my key is sk-secret"))

    assert "sk-secret" not in repr(finding)


def test_a_model_that_is_not_on_the_allow_list_is_refused() -> None:
    """The refusal names the models that are allowed."""
    snapshot = guarded("{id: staging, when: {environments: [staging]}, allow_models: [openai-main/gpt-4o-mini, chat]}")

    (finding,) = snapshot.guard(facts(environment="staging"), request_())

    assert (finding.refusal.type, finding.refusal.status) == (RefusalType.NOT_ALLOWED, HTTPStatus.FORBIDDEN)
    assert finding.refusal.mitigation == "Use one of: chat, openai-main/gpt-4o-mini."
    assert snapshot.guard(facts(environment="production"), request_()) == ()
    assert snapshot.guard(facts("openai-main/gpt-4o-mini", environment="staging"), request_()) == ()
    assert snapshot.guard(facts("openai-main/o4-mini", "chat", environment="staging"), request_()) == ()


def test_a_denied_model_is_refused_even_if_it_is_allowed_too() -> None:
    """Denying wins."""
    snapshot = guarded("{id: r, when: {}, allow_models: [a/b], deny_models: [a/b]}")

    (finding,) = snapshot.guard(facts("a/b"), request_())

    assert finding.refusal.mitigation == "Use another model."


@pytest.mark.parametrize(
    ("rule", "passes", "refused"),
    [
        ("allow_paths: [/v1/chat]", ["/v1/chat", "/v1/chat/completions"], ["/v1/chats", "/v1", "/v1/embeddings"]),
        ("deny_paths: [/v1/embeddings]", ["/v1/chat/completions", "/v1/embeddingsx"], ["/v1/embeddings"]),
        ("allow_paths: [/v1], deny_paths: [/v1/responses]", ["/v1/messages"], ["/v1/responses", "/v1/responses/x"]),
        ("allow_paths: []", [], ["/v1/messages"]),
    ],
)
def test_a_path_is_allowed_by_tag(rule: str, passes: list[str], refused: list[str]) -> None:
    """A rule about a tag binds those who have it: a path and what lies below it; also where no body is read."""
    snapshot = guarded(f"{{id: r, when: {{metadata: {{pipeline: nightly}}}}, {rule}}}")
    tagged = facts(pipeline="nightly")

    for path in passes:
        assert snapshot.guard(tagged, replace(request_(), path=path)) == ()
        assert snapshot.guardrails.unread_refusal(tagged, None, path) is None
    for path in refused:
        (finding,) = snapshot.guard(tagged, replace(request_(), path=path))
        assert (finding.refusal.type, finding.refusal.status) == (RefusalType.NOT_ALLOWED, HTTPStatus.FORBIDDEN)
        assert finding.refusal.context["path"] == path
        assert snapshot.guardrails.unread_refusal(tagged, None, path) == finding.refusal
        assert snapshot.guard(facts(), replace(request_(), path=path)) == ()


def test_every_broken_guardrail_is_found_in_order() -> None:
    """One request can break several; audit rules are found and not enforced."""
    snapshot = guarded(
        "{id: a, when: {}, max_body_bytes: 1}",
        "{id: b, when: {}, max_input_tokens: 1, audit_mode: true}",
        "{id: c, when: {}, max_input_tokens: 1, mitigation: Use the batch queue.}",
        "{id: d, when: {metadata: {pipeline: nightly}}, max_input_tokens: 1}",
    )

    findings = snapshot.guard(facts(), request_())

    assert [(finding.rule_id, finding.enforced) for finding in findings] == [("a", True), ("b", False), ("c", True)]
    assert findings[2].refusal.mitigation == "Use the batch queue."


def test_the_output_cap_is_the_tightest_enforced_one() -> None:
    """A request without a limit gets this one; audit rules and rules that do not match have no say."""
    snapshot = guarded(
        "{id: a, when: {}, max_output_tokens: 1000}",
        "{id: b, when: {metadata: {pipeline: nightly}}, max_output_tokens: 100}",
        "{id: c, when: {}, max_output_tokens: 10, audit_mode: true}",
    )

    assert snapshot.output_cap(facts()) == 1000
    assert snapshot.output_cap(facts(pipeline="nightly")) == 100
    assert guarded("{id: c, when: {}, max_body_bytes: 10}").output_cap(facts()) is None
    assert snapshot.guard(facts(), request_(output_tokens=None)) == ()


def test_a_hostile_pattern_and_text_end_in_linear_time() -> None:
    """A pattern that takes for ever in a backtracking engine is answered at once on a megabyte of its worst text."""
    snapshot = guarded("{id: r, when: {}, denied_patterns: [{name: loop, pattern: '^(a+)+$'}]}")

    assert snapshot.guard(facts(), request_(text="a" * 1_000_000 + "b")) == ()
    assert len(snapshot.guard(facts(), request_(text="a" * 1_000_000))) == 1
