"""Batches at admission: what is read of them, what is held, what is refused and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ext_proc.batches.calls import Api, Step, file_key, read_call
from ext_proc.batches.summary import REQUESTS_MAX
from ext_proc.batches.ticket import LEASE_MS, BatchTicket
from ext_proc.exchange.effects import AdmissionEffect, AskHold, Forward, PassUnmetered, Recall, Refuse
from ext_proc.exchange.events import HoldAnswered, Recalled
from ext_proc.exchange.terms import Terms
from ext_proc.ledger.interface import Code, HoldReply, Measure, Stamp
from ext_proc.refusal import RefusalType
from tests.batch_kit import (
    BOUNDARY,
    BUDGET,
    FORM,
    NOW_US,
    admission,
    batch_ticket,
    begun,
    chat_line,
    form,
    inline,
    jsonl,
    terms,
)

SETTINGS = "name: settings\ntype: gateway-settings\n"
FILES, BATCHES, MESSAGES = "/v1/files", "/v1/batches", "/v1/messages/batches"
CREATE = b'{"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}'


def refused(effects: tuple[AdmissionEffect, ...]) -> Refuse:
    effect = effects[-1]
    assert isinstance(effect, Refuse), effects
    return effect


def uploaded(of: Terms, file: bytes, **headers: str) -> tuple[AdmissionEffect, ...]:
    """What becomes of an uploaded file."""
    return begun(admission(of), "POST", FILES, form(file), content_type=FORM, **headers)


def remembered(of: Terms, file: bytes, **headers: str) -> BatchTicket:
    """What is remembered of an uploaded file."""
    effect = uploaded(of, file, **headers)[-1]
    assert isinstance(effect, PassUnmetered)
    assert effect.batch is not None
    return BatchTicket.decode(effect.batch)


def asked(of: Terms, file: bytes, body: bytes = CREATE, **headers: str) -> tuple[AdmissionEffect, ...]:
    """A batch is made of a file."""
    text = remembered(of, file, **headers).encode()
    request = admission(of)
    effects = begun(request, "POST", BATCHES, body, **headers)
    assert effects[-1] == Recall(file_key("openai-main", "file-1"))
    return request.receive(Recalled(text))


def amounts(effects: tuple[AdmissionEffect, ...]) -> dict[Measure, int]:
    """What the hold asks of each account, all output included."""
    effect = effects[-1]
    assert isinstance(effect, AskHold), effects
    (plan,) = effect.request.plans
    assert plan.output_min == plan.output_max, "a batch is not shrunk"
    return {
        posting.account.measure: posting.fixed + -(-posting.per_output_milli * plan.output_max // 1_000)
        for posting in plan.postings
    }


def test_a_file_is_summed_up_and_passes() -> None:
    """Figures alone travel and are remembered; the content does not."""
    effect = uploaded(terms(), jsonl(chat_line(0, messages=[{"role": "user", "content": "secret"}]), chat_line(1)))[-1]

    assert isinstance(effect, PassUnmetered)
    assert (effect.account, effect.path) == ("openai-main", FILES)
    summary = BatchTicket.decode(effect.batch or "").summary
    assert summary is not None
    assert (summary.requests, summary.model, summary.limited_output) == (2, "gpt-4o-mini", 40)
    assert "secret" not in (effect.batch or "")
    assert len(effect.batch or "") < 1_024


def test_a_batch_is_held_whole_at_batch_rates_for_as_long_as_it_may_run() -> None:
    """Twenty requests hold twenty times what one holds, at half the standard rate of gpt-4o-mini's output."""
    one, twenty = (asked(terms(), jsonl(*map(chat_line, range(count)))) for count in (1, 20))

    assert amounts(twenty)[Measure.COST] == pytest.approx(20 * amounts(one)[Measure.COST], rel=0.02)
    assert amounts(one)[Measure.COST] > 20 * 300
    effect = twenty[-1]
    assert isinstance(effect, AskHold)
    assert effect.request.lease_ms == LEASE_MS


def test_every_measure_counts_but_what_is_in_flight() -> None:
    """Tokens and requests are those of all requests; a batch waits in a queue of the provider's."""
    rates = """
name: rates
type: gateway-rate-limiting-config
rules:
  - {id: requests, when: {}, limit_to: 1000, unit: requests_per_day}
  - {id: tokens, when: {}, limit_to: 1000000, unit: tokens_per_day}
  - {id: flight, when: {}, limit_to: 5, unit: concurrent_requests}
"""
    found = amounts(asked(terms(rates), jsonl(*map(chat_line, range(7)))))

    assert found[Measure.REQUESTS] == 7
    assert found[Measure.TOKENS] > 7 * 20
    assert found[Measure.CONCURRENT] == 0


def test_a_granted_batch_is_sent_as_it_is_with_its_own_ticket() -> None:
    """Its ticket takes the place of the other one, so that no end record settles it."""
    request = admission(terms())
    effects = begun(request, "POST", MESSAGES, inline({}, {}))
    amounts(effects)
    effect = request.receive(HoldAnswered(HoldReply(Code.HELD, Stamp(NOW_US, "1", 1), 0, 40)))[-1]

    assert isinstance(effect, Forward)
    assert effect.body is None
    assert effect.path == MESSAGES
    call = BatchTicket.decode(effect.batch or "")
    assert (call.step, call.requests, call.api) == (Step.CREATE, 2, Api.ANTHROPIC)
    assert call.ticket == effect.ticket
    assert not effect.ticket.native


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (chat_line(url="/v1/images/generations"), "cannot be metered"),
        (chat_line(url="/v1/messages"), "cannot be metered"),
        (chat_line(max_tokens=-1), "line 1.body.max_tokens"),
        ({**chat_line(), "body": 3}, "is no batch request"),
        ({**chat_line(), "method": "GET"}, "is no batch request"),
        ({**chat_line(), "modle": 1}, "line 1.modle: is not known"),
        ("text", "is a string"),
    ],
)
def test_a_line_that_cannot_be_read_is_refused_by_its_number(line: object, problem: str) -> None:
    """The answer names the line, the field and the cure."""
    refusal = refused(uploaded(terms(), jsonl(line))).refusal

    assert refusal.status == 400
    assert problem in refusal.message


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (b"", "holds no request"),
        (b"\n  \n", "holds no request"),
        (jsonl(chat_line(0), chat_line(1, model="gpt-4o")), "line 2.body.model"),
        (jsonl(chat_line(0), chat_line(1, url="/v1/responses", input="x")), "line 2.body.url"),
        (b'{"custom_id": "a", "custom_id": "b"}', "appears twice"),
        (jsonl(chat_line()) * (REQUESTS_MAX + 1), "split it"),
    ],
)
def test_a_file_that_is_no_batch_is_refused(file: bytes, problem: str) -> None:
    """Nothing in it is left to what another reader makes of it."""
    assert problem in refused(uploaded(terms(), file)).refusal.message


@pytest.mark.parametrize(
    ("body", "content_type", "problem"),
    [
        (form(jsonl(chat_line()), "assistants"), FORM, "purpose"),
        (form(jsonl(chat_line()), unknown="1"), FORM, "unknown"),
        (form(jsonl(chat_line())).replace(b'name="purpose"', b'name="file"'), FORM, "given twice"),
        (form(jsonl(chat_line()))[:-8], FORM, "does not end"),
        (b"x" + form(jsonl(chat_line())), FORM, "does not begin"),
        (form(jsonl(chat_line())), "application/json", "multipart/form-data"),
        (
            form(jsonl(chat_line())).replace(b"Content-Type:", b"Content-Transfer-Encoding: base64\r\nX:"),
            FORM,
            "Content-Transfer-Encoding",
        ),
    ],
)
def test_a_form_that_readers_could_disagree_about_is_refused(body: bytes, content_type: str, problem: str) -> None:
    """What we read must be what the provider will read."""
    effects = begun(admission(terms()), "POST", FILES, body, content_type=content_type)

    assert problem in refused(effects).refusal.message


def test_a_file_with_its_boundary_inside_a_line_is_read_whole() -> None:
    """Only a delimiter on a line of its own ends a part."""
    text = f"--{BOUNDARY} and --{BOUNDARY}--"
    summary = remembered(terms(), jsonl(chat_line(0, messages=[{"role": "user", "content": text}]))).summary

    assert summary is not None
    assert summary.requests == 1


def test_a_file_that_nobody_knows_is_refused() -> None:
    """So is a batch, as long as the store does not say."""
    request = admission(terms())
    begun(request, "POST", BATCHES, CREATE)
    refusal = refused(request.receive(Recalled(None))).refusal
    assert (refusal.status, refusal.type) == (403, RefusalType.NOT_ALLOWED)
    assert "batch: allow" in refusal.mitigation

    silent = admission(terms())
    begun(silent, "POST", BATCHES, CREATE)
    assert refused(silent.receive(Recalled(None, failed=True))).refusal.type is RefusalType.STORE_UNAVAILABLE


def test_the_endpoint_must_be_that_of_the_file() -> None:
    """Requests for one endpoint are not sent to another, whose prices and limits they were not read by."""
    body = CREATE.replace(b"/v1/chat/completions", b"/v1/embeddings")

    assert "endpoint" in refused(asked(terms(), jsonl(chat_line()), body)).refusal.message


@pytest.mark.parametrize(
    "line",
    [
        {"max_tokens": None},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}]}]},
    ],
)
def test_a_strict_budget_refuses_what_it_cannot_bound(line: dict[str, Any]) -> None:
    """Nothing can be written into a file any more."""
    strict = BUDGET.replace("unit:", "admission: strict, unit:")

    assert "cannot be bounded" in refused(asked(terms(strict), jsonl(chat_line(**line)))).refusal.message
    assert isinstance(asked(terms(), jsonl(chat_line(**line)))[-1], AskHold)


def test_a_name_of_the_gateways_is_no_model_of_a_batch() -> None:
    """A batch is sent as it is: an account's prefix would reach the provider."""
    refusal = refused(asked(terms(), jsonl(chat_line(model="openai-main/gpt-4o-mini")))).refusal

    assert "is sent as it is" in refusal.message


def test_guardrails_look_at_every_request() -> None:
    """A pattern that is denied is found in the second line of a file, and in an inline request."""
    denied = """
name: guards
type: gateway-guardrail-config
rules:
  - {id: no-names, when: {}, denied_patterns: [{name: codename, pattern: zebra}]}
"""
    message = {"messages": [{"role": "user", "content": "the zebra"}]}
    for effects, place in (
        (uploaded(terms(denied), jsonl(chat_line(0), chat_line(1, **message))), "line 2"),
        (begun(admission(terms(denied)), "POST", MESSAGES, inline({}, message)), "requests[1]"),
    ):
        refusal = refused(effects).refusal
        assert refusal.type is RefusalType.GUARDRAIL
        assert place in refusal.message


@pytest.mark.parametrize("path", ["/v1/messages/batches", "/v1/messages"])
def test_a_path_that_a_guardrail_denies_is_denied_in_a_batch_too(path: str) -> None:
    """Neither the batch's own path nor that of its requests gets around it."""
    denied = f"""
name: guards
type: gateway-guardrail-config
rules: [{{id: no-path, when: {{}}, deny_paths: [{path}]}}]
"""
    effects = begun(admission(terms(denied)), "POST", MESSAGES, inline({}))

    assert refused(effects).refusal.type is RefusalType.NOT_ALLOWED


def test_tags_are_required_of_batches_too() -> None:
    """A batch that says not for whom it is does not begin."""
    tagging = """
name: tags
type: gateway-tagging-config
rules: [{id: tagged, when: {}, required: [team], mode: enforce}]
"""
    effects = begun(admission(terms(tagging)), "POST", MESSAGES, inline({}))

    assert refused(effects).refusal.type is RefusalType.NOT_TAGGED


@pytest.mark.parametrize(
    ("method", "path", "step"),
    [
        ("GET", "/v1/batches/batch_1", Step.STATUS),
        ("POST", "/v1/batches/batch_1/cancel", Step.STATUS),
        ("GET", "/v1/files/file-9/content", Step.RESULTS),
    ],
)
def test_calls_about_a_known_batch_carry_its_ticket(method: str, path: str, step: Step) -> None:
    """They pass without a hold of their own, their answers are read, and nothing partial is asked for."""
    request = admission(terms())
    recall = begun(request, method, path, None if method == "GET" else b"", range="bytes=0-1")[-1]
    assert isinstance(recall, Recall)
    effect = request.receive(Recalled(batch_ticket(Api.OPENAI, Step.CREATE).encode()))[-1]

    assert isinstance(effect, PassUnmetered)
    assert BatchTicket.decode(effect.batch or "") == batch_ticket(Api.OPENAI, step)
    assert "range" in effect.remove_headers


def test_an_unknown_batch_is_a_path_like_any_other() -> None:
    """Refused unless policy lets the path pass; so is another caller's, known or not."""
    theirs = replace(batch_ticket(Api.OPENAI, Step.CREATE), payer=("acme", None, None, None)).encode()
    for text in (None, theirs):
        request = admission(terms())
        begun(request, "GET", "/v1/batches/batch_1")
        assert refused(request.receive(Recalled(text))).refusal.status == 404
    open_path = admission(terms(BUDGET, SETTINGS + "unmetered_paths: [/v1/batches]"))
    begun(open_path, "GET", "/v1/batches/batch_1")
    effect = open_path.receive(Recalled(None))[-1]
    assert isinstance(effect, PassUnmetered)
    assert effect.batch is None


@pytest.mark.parametrize(
    "path",
    ["/v1/batches/../files", "/v1/%62atches", "/v1/batches/a%2Fb", "/v1/batches/", "/v1/batches/a/b", "/v1/uploads"],
)
def test_other_paths_are_none_of_these_calls(path: str) -> None:
    """Paths are taken as they are written."""
    assert read_call("GET", path) is None
    assert read_call("POST", path) is None


@pytest.mark.parametrize("wish", ["refuse", "allow"])
def test_policy_may_refuse_or_allow_all_batches(wish: str) -> None:
    """Then nothing is read or held."""
    request = admission(terms(BUDGET, SETTINGS + f"batch: {wish}"))
    effect = begun(request, "POST", MESSAGES)[-1]
    if wish == "allow":
        assert isinstance(effect, PassUnmetered)
        assert effect.batch is None
    else:
        assert "batch: allow" in refused((effect,)).refusal.mitigation
