"""The rendered configuration on the real Envoy, between a scripted sidecar and a scripted provider."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ext_proc.envoy_config import Limits, Timeouts
from ext_proc.envoy_config.contract import ANSWER_HEADERS
from tests.envoy_kit import Stack

pytestmark = pytest.mark.envoy

ADMITTED = ["admit request_headers", "admit request_body"]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One stack for all tests: each uses an id of its own. The short lease makes Envoy report four times a second."""
    with Stack(hold_lease_seconds=1) as running:
        yield running


# The way of a request


def test_admit_comes_before_the_provider_and_meter_after(stack: Stack) -> None:
    """A metered request passes admit's headers and body on the way in, and meter's on the way out, on a new stream."""
    answer = stack.post("order")

    stack.observed.end_of("order")
    assert answer.json() == {"from": "provider"}
    assert stack.observed.steps_of("order") == [*ADMITTED, "meter response_headers", "meter response_body"]


def test_meter_gets_the_ticket_and_nothing_else(stack: Stack) -> None:
    """What admit puts into the ticket's namespace reaches meter, merged over its two answers; the answer's does not."""
    stack.post("ticket", script={"ticket": "figures", "answer": {"verdict": "pass"}})

    step = stack.observed.steps.wait(lambda step: step.hold_id == "ticket" and step.role == "meter")
    metadata = step.message.metadata_context.filter_metadata
    assert list(metadata) == ["tollgate"]
    assert dict(metadata["tollgate"].items())["ticket"] == "figures"
    assert set(metadata["tollgate"].keys()) == {"id", "worker", "ticket"}


def test_native_answers_pass_no_python(stack: Stack) -> None:
    """On the native route the answer never reaches meter."""
    answer = stack.post("native", script={"meter": "native"})

    record = stack.observed.end_of("native")
    assert answer.status_code == 200
    assert record.entry.common_properties.route_name == "native"
    assert stack.observed.steps_of("native") == ADMITTED


def test_a_request_without_a_body_is_decided_on_its_headers(stack: Stack) -> None:
    """A GET is routed by the answer to its headers: no body message is waited for."""
    request = stack.request("get", "/v1/models")
    answer = stack.client.get("/v1/models", headers={"x-script": request.headers["x-script"]})

    assert answer.json() == {"from": "provider"}
    assert stack.observed.request("get").path == "/v1/models"


def test_http2_clients_are_served(stack: Stack) -> None:
    """A client that speaks HTTP/2 without TLS is served like any other."""
    request = stack.request("h2")
    with httpx.Client(http1=False, http2=True) as client:
        answer = client.send(request)

    assert answer.http_version == "HTTP/2"
    assert answer.json() == {"from": "provider"}


def test_meter_may_see_the_headers_only(stack: Stack) -> None:
    """Meter's mode override is obeyed: an answer it does not want to read costs it one message."""
    stack.post("override", script={"response_headers": {"x-meter": "headers only"}})

    stack.observed.end_of("override")
    assert stack.observed.steps_of("override") == [*ADMITTED, "meter response_headers"]


def test_a_broken_meter_does_not_break_the_answer(stack: Stack) -> None:
    """What was paid for reaches the client, although meter fails on it."""
    answer = stack.post("broken", script={"response_headers": {"x-meter": "abort"}})

    assert answer.status_code == 200
    assert answer.json() == {"from": "provider"}


# What the provider sees


def test_no_control_or_caller_header_reaches_the_provider(stack: Stack) -> None:
    """The provider sees neither what admit set, nor what the client sent to us, nor what Envoy adds."""
    sent = {"x-tfy-metadata": "{}", "X-TFY-Provider-Name": "p", "x-tollgate-anything": "1", "x-envoy-max-retries": "3"}
    stack.post("headers", headers={**sent, "x-forwarded-for": "10.1.2.3", "x-other": "kept"})

    seen = stack.observed.request("headers").headers
    private = [name for name in seen if name.startswith(("x-tollgate-", "x-tfy-", "x-envoy-", "x-forwarded-"))]
    assert private == []
    assert seen["x-other"] == "kept"


def test_admit_sees_the_callers_headers_and_no_forged_control_header(stack: Stack) -> None:
    """What a client sends as a control header is gone before admit and the routes look."""
    forged = {"x-tollgate-cluster": "nobody", "x-tollgate-meter": "native"}
    stack.post("forged", headers={**forged, "x-tfy-metadata": '{"cost_center": "a"}'}, script={"admit": "refuse"})

    record = stack.observed.end_of("forged")
    head = stack.observed.steps.wait(lambda step: step.hold_id == "forged").message.request_headers.headers.headers
    names = {header.key: header.raw_value for header in head}
    assert not [name for name in names if name.startswith("x-tollgate-")]
    assert names["x-tfy-metadata"] == b'{"cost_center": "a"}'
    assert record.entry.common_properties.route_name == "undecided"


@pytest.mark.parametrize(("account", "host"), [("plain", "127.0.0.1"), ("named", "localhost")])
def test_the_provider_is_asked_by_its_own_name(stack: Stack, account: str, host: str) -> None:
    """The Host header is the provider's, whether its account names an address or a host."""
    stack.post(f"host-{account}", script={"account": account}, headers={"host": "gateway.example"})

    assert stack.observed.request(f"host-{account}").headers["host"] == f"{host}:{stack.provider.port}"


def test_admit_may_rewrite_the_path(stack: Stack) -> None:
    """The provider gets the path that admit wants, with its query."""
    stack.post("path", "/api/llm/v1/messages?beta=true", script={"path": "/v1/messages?beta=true"})

    assert stack.observed.request("path").path == "/v1/messages?beta=true"


def test_one_path_has_one_spelling(stack: Stack) -> None:
    """Dots and doubled slashes are resolved before admit looks, and an escaped slash is refused."""
    stack.send_raw(stack.request("spelling"), b"/x/..//v1//chat/%2e/completions")
    refused = stack.send_raw(stack.request("escaped"), b"/x%2f..%2fadmin")

    assert stack.observed.request("spelling").path == "/v1/chat/completions"
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "invalid_request"


# What the client sees


def test_answer_headers_are_what_admit_said(stack: Stack) -> None:
    """Every header of an answer whose key admit set is there, in both metering modes, over the provider's own."""
    values = {key: f"value-{index}" for index, key in enumerate(ANSWER_HEADERS.values())}
    theirs = {"x-ratelimit-limit-tokens": "provider", "x-tollgate-verdict": "forged"}
    for meter in ("stream", "native"):
        script = {"meter": meter, "answer": values, "response_headers": theirs}
        answer = stack.post(f"answer-{meter}", script=script)

        got = {name: answer.headers.get_list(name) for name in ANSWER_HEADERS}
        assert got == {name: [values[key]] for name, key in ANSWER_HEADERS.items()}


def test_a_key_that_admit_did_not_set_makes_no_header(stack: Stack) -> None:
    """Without a value there is no header of ours, not even an empty one, and the provider's own stays."""
    script = {
        "answer": {"verdict": "pass"},
        "response_headers": {"x-ratelimit-limit-tokens": "500", "server": "theirs"},
    }
    answer = stack.post("absent", script=script)

    ours = {name: answer.headers[name] for name in ANSWER_HEADERS if name in answer.headers}
    assert ours == {"x-tollgate-verdict": "pass", "x-ratelimit-limit-tokens": "500"}
    assert answer.headers["server"] == "theirs"
    assert not [name for name in answer.headers if name.startswith("x-envoy-")]


@pytest.mark.parametrize("details", ["", "tollgate_refused"])
@pytest.mark.parametrize("when", ["refuse", "refuse-head"])
@pytest.mark.parametrize("status", [400, 429, 503])
def test_our_refusals_arrive_as_written(stack: Stack, details: str, when: str, status: int) -> None:
    """A refusal keeps its status and its body, whatever it is, and never passes meter."""
    hold_id = f"refusal-{details}-{when}-{status}"
    answer = stack.post(hold_id, "/v1/messages", script={"admit": when, "status": status, "details": details})

    assert answer.status_code == status
    assert answer.text == '{"refused": "by admit"}'
    assert "meter" not in str(stack.observed.steps_of(hold_id))


@pytest.mark.parametrize("status", [400, 413, 429, 500, 503])
def test_a_providers_errors_arrive_as_sent(stack: Stack, status: int) -> None:
    """An error that the provider made keeps its status and its body."""
    answer = stack.post(f"provider-{status}", "/v1/messages", script={"provider_status": status})

    assert answer.status_code == status
    assert answer.json() == {"from": "provider"}


ENVOY_ERRORS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"admit": "abort"}, 503, "admission_unavailable", "overloaded_error"),
    ({"account": "nobody"}, 503, "provider_unavailable", "overloaded_error"),
    ({"account": "unheard-of"}, 503, "provider_unavailable", "overloaded_error"),
    ({"meter": "bogus"}, 503, "provider_unavailable", "overloaded_error"),
    ({"provider": "reset"}, 503, "provider_unavailable", "overloaded_error"),
    ({"meter": "native", "provider": "reset"}, 503, "provider_unavailable", "overloaded_error"),
]


@pytest.mark.parametrize(("script", "status", "code", "anthropic_type"), ENVOY_ERRORS, ids=str)
def test_envoys_own_errors_speak_the_callers_dialect(
    stack: Stack, script: dict[str, Any], status: int, code: str, anthropic_type: str
) -> None:
    """An error that Envoy makes is JSON of the dialect that the path belongs to, and says what to do."""
    openai = stack.post(f"openai-{script}", script=script)
    anthropic = stack.post(f"anthropic-{script}", "/v1/messages?beta=true", script=script)
    threads = stack.post(f"threads-{script}", "/v1/threads/t1/messages", script=script)

    assert [answer.status_code for answer in (openai, anthropic, threads)] == [status] * 3
    assert {answer.headers["content-type"] for answer in (openai, anthropic, threads)} == {"application/json"}
    message = openai.json()["detail"]
    assert openai.json()["error"] == {"type": code, "code": code, "message": message}
    assert threads.json()["error"] == openai.json()["error"]
    assert anthropic.json()["type"] == "error"
    assert anthropic.json()["error"] == {"type": anthropic_type, "code": code, "message": message}
    assert openai.json()["mitigation"]
    assert openai.json()["context"]["request_id"]


def test_an_exception_of_ours_is_not_quoted_to_the_client(stack: Stack) -> None:
    """What admit says when it breaks is for the operator: the record has it, the client's answer does not."""
    answer = stack.post("quoted", script={"admit": "abort"})

    record = stack.observed.end_of_stream(answer.json()["context"]["request_id"])
    assert "scripted" in record.entry.response.response_code_details
    assert "scripted" not in answer.text
    assert answer.headers["retry-after"] == "1"


# Bodies


def test_the_largest_body_passes_whole(stack: Stack) -> None:
    """32 MiB reach admit in one message, and the provider whole."""
    size = 32 << 20
    answer = stack.post("largest", content=bytes(size))

    step = stack.observed.steps.wait(lambda step: step.hold_id == "largest" and step.name == "admit request_body")
    assert answer.status_code == 200
    assert len(step.message.request_body.body) == size
    assert stack.observed.request("largest").body_bytes == size


@pytest.mark.parametrize("excess", [1, 8 << 20])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/embeddings"])
def test_a_larger_body_is_refused_with_a_reason(stack: Stack, excess: int, path: str) -> None:
    """One byte more than 32 MiB, or 40 MiB, is a 413 that names the limit, and no message to admit holds the body."""
    hold_id = f"larger-{excess}-{path}"
    answer = stack.post(hold_id, path, content=bytes((32 << 20) + excess))

    # By Envoy's own id: where the body comes faster than admit answers, the record has none of ours.
    record = stack.observed.end_of_stream(answer.json()["context"]["request_id"])
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "request_too_large"
    assert "32 MiB" in answer.json()["error"]["message"]
    assert record.text("ticket") == ""
    assert "admit request_body" not in stack.observed.steps_of(hold_id)


# The access log


def test_records_reach_the_worker_that_admitted(stack: Stack) -> None:
    """Each end record goes to its own worker, and both workers get some."""
    ids = [f"own-{index}" for index in range(24)]
    for hold_id in ids:
        stack.post(hold_id)

    records = [stack.observed.end_of(hold_id) for hold_id in ids]
    assert [record.worker for record in records] == [record.text("worker") for record in records]
    assert {record.worker for record in records} == {"w0", "w1"}


def test_an_end_record_says_how_far_the_request_came(stack: Stack) -> None:
    """The record of a served request tells the ticket, the status, the bytes, and when each step was done."""
    stack.post("served", script={"ticket": "figures"})

    record = stack.observed.end_of("served")
    common = record.entry.common_properties
    assert record.text("ticket") == "figures"
    assert record.entry.response.response_code.value == 200
    assert record.entry.response.response_code_details == "via_upstream"
    assert record.entry.response.response_body_bytes == len('{"from": "provider"}')
    assert common.upstream_cluster == "plain"
    assert common.upstream_request_attempt_count == 1
    assert common.HasField("time_to_last_upstream_tx_byte")
    assert common.HasField("time_to_first_upstream_rx_byte")


def test_a_request_never_sent_says_so(stack: Stack) -> None:
    """The record of a request whose provider was unreachable has no time of a byte sent upstream."""
    stack.post("unsent", script={"account": "nobody"})

    common = stack.observed.end_of("unsent").entry.common_properties
    assert common.response_flags.upstream_connection_failure
    assert not common.HasField("time_to_first_upstream_tx_byte")
    assert not common.HasField("time_to_first_upstream_rx_byte")


def test_a_running_request_is_reported_to_its_worker(stack: Stack) -> None:
    """While a stream runs, periodic records with its id and ticket reach its own worker: they renew its lease."""
    script = {"provider": "stream", "then": "wait", "ticket": "figures"}
    with stack.stream("running", script=script) as answer:
        chunks = answer.iter_text()
        next(chunks)
        record = stack.observed.records.wait(lambda record: record.hold_id == "running" and not record.ended)
        stack.release("running")
        rest = "".join(chunks)

    assert record.text("ticket") == "figures"
    assert record.worker == record.text("worker")
    assert rest.endswith("data: [DONE]\n\n")


def test_a_client_that_leaves_in_mid_stream_is_flagged(stack: Stack) -> None:
    """The end record of a stream that its client left has the ticket, the flag, and the bytes that passed."""
    with stack.stream("left", script={"provider": "stream", "then": "wait", "ticket": "figures"}) as answer:
        next(answer.iter_text())

    record = stack.observed.end_of("left")
    common = record.entry.common_properties
    assert common.response_flags.downstream_connection_termination
    assert record.text("ticket") == "figures"
    assert record.entry.response.response_body_bytes > 0
    assert common.HasField("time_to_first_upstream_rx_byte")


def test_a_client_that_leaves_before_the_first_byte_is_flagged(stack: Stack) -> None:
    """The end record of a request that its client left unanswered says that the provider had it whole."""
    stack.abandon(
        stack.request("unanswered", script={"provider": "silent"}),
        once=lambda: stack.observed.request("unanswered"),
    )

    record = stack.observed.end_of("unanswered")
    common = record.entry.common_properties
    assert common.response_flags.downstream_connection_termination
    assert common.HasField("time_to_last_upstream_tx_byte")
    assert not common.HasField("time_to_first_upstream_rx_byte")


def test_a_client_that_leaves_during_admission_is_flagged(stack: Stack) -> None:
    """The end record of a request that its client left before admit had decided has the id: it was minted first."""
    stack.abandon(
        stack.request("undecided", script={"admit": "hang-body"}),
        once=lambda: stack.observed.steps.wait(
            lambda step: step.hold_id == "undecided" and step.name == "admit request_body"
        ),
    )

    record = stack.observed.end_of("undecided")
    assert record.entry.common_properties.response_flags.downstream_connection_termination
    assert record.text("worker") == record.worker
    assert record.text("ticket") == ""


def test_a_provider_that_breaks_off_is_flagged(stack: Stack) -> None:
    """The end record of an answer that its provider broke off says so."""
    script = {"provider": "stream", "then": "reset", "meter": "native", "chunks": 1}
    with stack.stream("cut", script={**script, "pause": True}) as answer:
        chunks = answer.iter_text()
        next(chunks)
        stack.release("cut")
        with pytest.raises(httpx.RemoteProtocolError):
            next(chunks)

    flags = stack.observed.end_of("cut").entry.common_properties.response_flags
    assert flags.upstream_protocol_error or flags.upstream_connection_termination or flags.upstream_remote_reset


def test_requests_that_no_worker_saw_go_to_the_first(stack: Stack) -> None:
    """The record of a request that Envoy refused itself reaches the first worker, once."""
    stack.send_raw(stack.request("unseen"), b"/unseen%2fpath")
    stack.post("after-unseen")
    stack.observed.end_of("after-unseen")

    record = stack.observed.records.wait(lambda record: "unseen" in record.entry.request.path)
    assert record.worker == "w0"
    assert record.entry.response.response_code_details == "path_normalization_failed"


def test_the_log_of_a_dead_worker_goes_to_a_living_one() -> None:
    """A worker dies with streams in flight: each answer arrives whole, each end record at the survivor, at once."""
    ids = [f"flight-{index}" for index in range(8)]
    with Stack() as stack:
        answers = [stack.open(hold_id, script={"provider": "stream", "then": "wait"}) for hold_id in ids]
        chunks = [answer.iter_text() for answer in answers]
        begun = [next(text) for text in chunks]
        victim, survivor = stack.admitted_by(ids[0])
        stack.stop_worker(victim)
        stack.wait_until_disconnected(f"tollgate-log-{victim.name}")
        for hold_id in ids:
            stack.release(hold_id)
        texts = [first + "".join(rest) for first, rest in zip(begun, chunks, strict=True)]
        records = [stack.observed.end_of(hold_id) for hold_id in ids]

    assert all(text.endswith("data: [DONE]\n\n") for text in texts)
    assert victim.name in {record.text("worker") for record in records}
    assert {record.worker for record in records} == {survivor.name}


@pytest.fixture(scope="module")
def impatient() -> Iterator[Stack]:
    """A stack whose limits are reached within a test."""
    with Stack(timeouts=Timeouts(admission=0.5, stream_idle=1, request=2, request_headers=1)) as running:
        yield running


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_an_admission_that_takes_too_long_is_a_504(impatient: Stack, path: str) -> None:
    """Admit is not waited for longer than its limit; the client learns that it was not sent on."""
    answer = impatient.post(f"slow-{path}", path, script={"admit": "hang"})

    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "admission_timeout"
    assert "nothing was sent on" in answer.json()["detail"]


@pytest.mark.parametrize("meter", ["stream", "native"])
def test_a_silent_provider_is_a_504_with_a_flag(impatient: Stack, meter: str) -> None:
    """A provider that says nothing for too long is given up, and the record says that it was a limit of ours."""
    answer = impatient.post(f"silent-{meter}", script={"provider": "silent", "meter": meter})

    record = impatient.observed.end_of(f"silent-{meter}")
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "provider_timeout"
    assert record.entry.common_properties.response_flags.stream_idle_timeout
    assert record.entry.common_properties.HasField("time_to_last_upstream_tx_byte")


def test_a_body_that_does_not_come_is_a_408(impatient: Stack) -> None:
    """A client that stops in the middle of its body is told so, in its dialect."""
    request = impatient.request("stalled", "/v1/messages", content=b"0123456789")
    answer = impatient.send_part(request, b"01234")

    assert answer.startswith("HTTP/1.1 408 ")
    assert '"code":"request_timeout"' in answer
    assert '"type":"timeout_error"' in answer


def test_a_stream_that_never_ends_is_cut_with_a_flag() -> None:
    """No stream lasts longer than the limit that holds are planned for, and the record says that it was ours."""
    with Stack(timeouts=Timeouts(stream=1)) as stack:
        before = stack.post("endless-silence", script={"provider": "silent"})
        answer = stack.open("endless", script={"provider": "stream", "then": "wait"})
        with pytest.raises(httpx.RemoteProtocolError):
            answer.read()
        records = [stack.observed.end_of("endless-silence"), stack.observed.end_of("endless")]

    assert before.status_code == 504
    assert before.json()["error"]["code"] == "provider_timeout"
    flags = [record.entry.common_properties.response_flags for record in records]
    assert [flag.upstream_max_stream_duration_reached for flag in flags] == [True, True]


def test_no_worker_at_all_is_a_503_that_says_so() -> None:
    """Without a living worker every request is refused, and none reaches a provider."""
    with Stack() as stack:
        for worker in stack.workers:
            stack.stop_worker(worker)
            stack.wait_until_unhealthy("tollgate-workers", worker)
        answer = stack.post("nobody-home", "/v1/messages")

    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "overloaded_error"
    assert answer.json()["error"]["code"] == "admission_unavailable"
    assert stack.observed.forwarded.all() == []


def test_admission_moves_to_a_living_worker() -> None:
    """When a worker has died, requests are admitted by the other one, whose stream logs them."""
    with Stack() as stack:
        victim, survivor = stack.workers
        stack.stop_worker(victim)
        stack.wait_until_unhealthy("tollgate-workers", victim)
        answers = [stack.post(f"moved-{index}") for index in range(4)]
        records = [stack.observed.end_of(f"moved-{index}") for index in range(4)]

    assert [answer.status_code for answer in answers] == [200] * 4
    assert {record.worker for record in records} == {survivor.name}


def test_an_envoy_out_of_memory_refuses_clearly() -> None:
    """Past its heap limit Envoy refuses new requests with a reason, instead of growing until it is killed."""
    with Stack(limits=Limits(heap_bytes=1 << 20)) as stack:
        stack.wait_until_overloaded()
        answer = stack.post("overloaded", "/v1/messages")

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "gateway_overloaded"
    assert answer.json()["error"]["type"] == "overloaded_error"
    assert answer.headers["retry-after"] == "2"
