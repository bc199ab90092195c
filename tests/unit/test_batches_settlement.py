"""What the answers to calls about a batch make known, and when its hold is resolved."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ext_proc.batches.calls import Api, Step, batch_key, file_key
from ext_proc.batches.settlement import BatchSettlement
from ext_proc.batches.ticket import BatchTicket
from ext_proc.exchange.effects import PassChunk, Remember, Resolve, SettlementEffect
from ext_proc.exchange.errors import IllegalTransitionError
from ext_proc.exchange.events import EndRecord, ResponseChunk, ResponseHead, StreamEnded
from ext_proc.ledger.interface import Basis
from ext_proc.pricing.price import Price, Tier
from ext_proc.pricing.usage import Rates
from tests.batch_kit import HOLD_ID, NOW_US, batch_ticket, chat_result, jsonl, message_result

CANCELED = {"custom_id": "r9", "result": {"type": "canceled"}}
ERRORED = {"custom_id": "r8", "result": {"type": "errored", "error": {"type": "error"}}}


def head(status: int = 200, encoding: str = "") -> ResponseHead:
    return ResponseHead(status, "application/json", encoding, NOW_US)


def answered(call: BatchTicket, body: bytes, *, status: int = 200, step: int = 7) -> tuple[SettlementEffect, ...]:
    """Everything that follows an answer but the chunks, which must pass as they are."""
    observer = BatchSettlement(call)
    effects = list(observer.receive(head(status)))
    for start in range(0, len(body), step):
        if observer.state.name == "READING":
            effects += observer.receive(ResponseChunk(body[start : start + step], end=False, now_us=NOW_US))
    effects += observer.receive(ResponseChunk(b"", end=True, now_us=NOW_US))
    assert all(effect.replacement is None for effect in effects if isinstance(effect, PassChunk))
    return tuple(effect for effect in effects if not isinstance(effect, PassChunk))


def resolved(effects: tuple[SettlementEffect, ...]) -> Resolve:
    (effect,) = effects
    assert isinstance(effect, Resolve)
    assert effect.resolution.hold_id == HOLD_ID
    return effect


def record(**changes: object) -> EndRecord:
    plain = EndRecord(
        status=200,
        sent_upstream=True,
        answered=True,
        client_gone=False,
        timed_out=False,
        upstream_failed=False,
        upstream_body_bytes=100,
        duration_us=1_000,
        first_byte_us=500,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # a test names the fields it changes


def test_a_batch_that_was_made_is_remembered_by_its_id() -> None:
    """Its hold stays; any worker finds the ticket again."""
    call = batch_ticket(Api.ANTHROPIC, Step.CREATE, batch_id="")
    (effect,) = answered(call, json.dumps({"id": "msgbatch_7", "processing_status": "in_progress"}).encode())

    assert isinstance(effect, Remember)
    assert effect.key == batch_key("anthropic-main", "msgbatch_7")
    assert BatchTicket.decode(effect.text) == replace(call, batch_id="msgbatch_7")


def test_a_batch_that_was_refused_gives_its_hold_back() -> None:
    """The provider's error means that there is no batch, whoever sees it: the meter, or the record alone."""
    call = batch_ticket(Api.OPENAI, Step.CREATE, batch_id="")

    assert resolved(BatchSettlement(call).receive(head(400))).resolution.basis is Basis.RELEASED
    for ended in (record(status=400), record(sent_upstream=False, answered=False, status=503, client_gone=True)):
        assert resolved(BatchSettlement(call).receive(ended)).resolution.basis is Basis.RELEASED


@pytest.mark.parametrize(
    "ended",
    [
        record(),
        record(client_gone=True, status=0),
        record(status=502, upstream_failed=True),
        record(status=504, answered=False, timed_out=True),
    ],
)
def test_a_batch_that_may_run_keeps_its_hold(ended: EndRecord) -> None:
    """An answer that nobody has read may have made it: its lease charges it."""
    assert BatchSettlement(batch_ticket(Api.OPENAI, Step.CREATE)).receive(ended) == ()
    cut = BatchSettlement(batch_ticket(Api.OPENAI, Step.CREATE))
    cut.receive(head())
    assert cut.receive(StreamEnded(NOW_US)) == ()


def test_only_an_ended_batch_makes_its_file_of_results_known() -> None:
    """The file's id leads to the batch's hold."""
    call = batch_ticket(Api.OPENAI, Step.STATUS)
    status = {"id": "batch_1", "status": "in_progress", "output_file_id": None, "request_counts": {"completed": 0}}
    assert answered(call, json.dumps(status).encode()) == ()

    ended = {**status, "status": "completed", "output_file_id": "file-9", "request_counts": {"completed": 3}}
    (effect,) = answered(call, json.dumps(ended).encode())
    assert isinstance(effect, Remember)
    assert effect.key == file_key("openai-main", "file-9")
    assert answered(call, json.dumps({**ended, "id": "batch_2"}).encode()) == (), "another batch says nothing of it"


@pytest.mark.parametrize(
    ("api", "status"),
    [
        (Api.OPENAI, {"status": "failed", "request_counts": {"total": 0, "completed": 0, "failed": 0}}),
        (Api.OPENAI, {"status": "cancelled", "output_file_id": None, "request_counts": {"completed": 0}}),
        (Api.ANTHROPIC, {"processing_status": "ended", "request_counts": {"succeeded": 0, "canceled": 3}}),
    ],
)
def test_a_batch_that_ended_without_an_answer_gives_its_hold_back(api: Api, status: dict[str, object]) -> None:
    """Its status says it all."""
    found = resolved(answered(batch_ticket(api, Step.STATUS), json.dumps({"id": "batch_1", **status}).encode()))

    assert (found.resolution.basis, found.resolution.charge.cost_nanodollars) == (Basis.RELEASED, 0)


@pytest.mark.parametrize(
    ("api", "status"),
    [
        (Api.OPENAI, {"status": "completed"}),
        (Api.OPENAI, {"status": "expired", "request_counts": {"completed": 2}}),
        (Api.ANTHROPIC, {"processing_status": "ended", "request_counts": {"succeeded": 2}}),
        (Api.ANTHROPIC, {"processing_status": "canceling", "request_counts": {"succeeded": 0}}),
    ],
)
def test_an_unclear_status_settles_nothing(api: Api, status: dict[str, object]) -> None:
    """What is not certainly nothing waits for the results."""
    assert answered(batch_ticket(api, Step.STATUS), json.dumps({"id": "batch_1", **status}).encode()) == ()


def test_results_are_summed_at_batch_rates() -> None:
    """$1.50 and $7.50 per million; the cached part and the surcharge of a place by their own rates; errors are free."""
    lines = [
        message_result(0, 1_000, 10),
        message_result(1, 0, 1, cache_read_input_tokens=1_000),
        message_result(2, 1_000, 0, inference_geo="us"),
        ERRORED,
        CANCELED,
    ]
    found = resolved(answered(batch_ticket(Api.ANTHROPIC, Step.RESULTS, requests=5), jsonl(*lines)))
    detail = json.loads(found.resolution.detail)

    expected = (1_500_000 + 75_000) + (150_000 + 7_500) + 1_650_000
    assert found.resolution.charge.cost_nanodollars == expected
    assert found.resolution.basis is Basis.REPORTED
    assert found.resolution.charge.requests == 4
    assert detail["batch"] == "batch_1"
    assert detail["batch_counts"] == {"requests": 5, "succeeded": 3, "failed": 1}


def test_halves_of_a_nanodollar_add_up_before_they_are_rounded() -> None:
    """Three answers of one token at 37.5 nano-dollars each are 112.5: 113, not 114."""
    call = batch_ticket(Api.OPENAI, Step.RESULTS)
    assert call.ticket is not None
    ticket = replace(call.ticket, price=Price((Tier(0, Rates(input_uncached=37_500)),), "test"))

    found = resolved(answered(replace(call, ticket=ticket), jsonl(*(chat_result(index, 1, 0) for index in range(3)))))

    assert found.resolution.charge.cost_nanodollars == 113


def test_an_answer_without_usage_is_estimated_and_told() -> None:
    """Its share of the input that was held, and the text that stands in it."""
    silent = message_result(0, 0, 0)
    del silent["result"]["message"]["usage"]
    found = resolved(answered(batch_ticket(Api.ANTHROPIC, Step.RESULTS), jsonl(silent, message_result(1, 10, 1))))

    assert found.usage_missing
    assert found.resolution.basis is Basis.ESTIMATED
    assert found.resolution.charge.input_tokens == 100 + 10


@pytest.mark.parametrize("status", [206, 304, 404, 500])
def test_part_of_the_results_or_none_settles_nothing(status: int) -> None:
    """Only the whole file says what the batch cost."""
    body = jsonl(message_result(0, 1_000, 10))
    assert answered(batch_ticket(Api.ANTHROPIC, Step.RESULTS), body, status=status) == ()


def test_cut_or_unreadable_results_settle_nothing() -> None:
    """They can be fetched again."""
    call, body = batch_ticket(Api.ANTHROPIC, Step.RESULTS), jsonl(message_result(0, 1_000, 10))
    cut = BatchSettlement(call)
    cut.receive(head())
    cut.receive(ResponseChunk(body, end=False, now_us=NOW_US))
    assert cut.receive(StreamEnded(NOW_US)) == ()
    assert answered(call, body + b"[1]\n") == ()
    assert answered(call, body + b'{"custom_id"') == ()
    packed = BatchSettlement(call)
    packed.receive(head(encoding="gzip"))
    assert packed.state.name == "LEFT"


def test_what_no_state_expects_is_an_error() -> None:
    """A body without a head changes nothing."""
    observer = BatchSettlement(batch_ticket(Api.OPENAI, Step.STATUS))
    with pytest.raises(IllegalTransitionError):
        observer.receive(ResponseChunk(b"{}", end=True, now_us=NOW_US))
