"""What requests for pictures, recordings and speech are held at and charged."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ext_proc.dialects import registry
from ext_proc.exchange import charging
from ext_proc.exchange.effects import Forward, Refuse
from ext_proc.exchange.events import RequestHead, ResponseHead
from ext_proc.exchange.explain import Explanation, explain
from ext_proc.exchange.terms import Terms
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger.interface import Basis, Resolution
from tests.policy_kit import snapshot

NOW_US = 1_779_000_000_000_000
BUDGETS = "name: b\ntype: gateway-budget-config\nrules:\n  - {{id: all, when: {{}}, limit_to: 10, unit: {}{}}}\n"
PROVIDERS = """
name: providers
type: gateway-provider-config
accounts:
  - {name: openai-main, provider: openai}
  - name: own
    provider: openai-compatible
    endpoint: http://llm.internal:8000
    models: [{name: painter, cost: {per_image: 0.04}}, {name: ear, cost: {per_minute_of_audio: 0.006}}]
"""
SPEAK = {"model": "tts-1", "voice": "alloy", "input": "x" * 1_000}
PAINT = {"model": "own/painter", "prompt": "A quay.", "n": 3}
DRAW = {"model": "gpt-image-1.5", "prompt": "A quay.", "quality": "low", "size": "1024x1024"}


def admitted(path: str, body: dict[str, Any], *, unit: str = "cost_per_day", rule: str = "") -> Explanation:
    terms = Terms.of(snapshot(BUDGETS.format(unit, rule), PROVIDERS), lease_ms=1_000)
    head = RequestHead("POST", path, (("content-type", "application/json"),), NOW_US)
    return asyncio.run(explain(head, json.dumps(body).encode(), terms))


def held_nanodollars(found: Explanation) -> int:
    (asked,) = found.ways[0].asked
    return asked.amount


def answered(found: Explanation, body: bytes, content_type: str, *, whole: bool = True) -> Resolution:
    """The request's answer, read and charged."""
    assert isinstance(found.outcome, Forward)
    ticket = Ticket.decode(found.outcome.ticket.encode())
    head = ResponseHead(200, content_type, "", NOW_US)
    meter = registry.dialect(ticket.dialect).meter(content_type=content_type, content_encoding="", hide_usage=False)
    meter.feed(body, end=whole)
    return charging.by_reading(ticket, head, meter.reading(), NOW_US, cut=not whole)


def test_speech_by_characters_is_held_and_charged_exactly() -> None:
    """A thousand characters at $15 a million are held and charged, and the charge counts as reported."""
    found = admitted("/v1/audio/speech", SPEAK)
    resolution = answered(found, b"ID3" + bytes(10_000), "audio/mpeg")

    assert held_nanodollars(found) == 15_000_000
    assert resolution.charge.cost_nanodollars == 15_000_000
    assert resolution.basis is Basis.REPORTED
    assert json.loads(resolution.detail)["usage"]["characters"] == 1_000


def test_speech_by_tokens_is_estimated_from_its_recording() -> None:
    """Without usage the size of the recording tells the tokens; a cut one is charged for what passed."""
    found = admitted("/v1/audio/speech", {**SPEAK, "model": "gpt-4o-mini-tts"})
    whole = answered(found, bytes(768_000), "audio/mpeg")
    cut = answered(found, bytes(76_800), "audio/mpeg", whole=False)

    assert whole.basis is cut.basis is Basis.ESTIMATED
    assert json.loads(whole.detail)["usage"]["audio_out"] == 1_000
    assert json.loads(cut.detail)["usage"]["audio_out"] == 100
    assert whole.charge.input_tokens > 0


def test_pictures_by_the_piece_are_charged_for_those_that_came() -> None:
    """Three were asked for and held; two came and are charged; of an answer that does not list them, three are."""
    found = admitted("/v1/images/generations", PAINT)
    two = b'{"created": 1, "data": [{"url": "https://example.com/1"}, {"url": "https://example.com/2"}]}'
    large = b'{"created": 1, "data": [{"b64_json": "' + b"A" * (5 << 20) + b'"}]}'

    assert held_nanodollars(found) == 120_000_000
    assert answered(found, two, "application/json").charge.cost_nanodollars == 80_000_000
    assert answered(found, large, "application/json").charge.cost_nanodollars == 120_000_000
    assert answered(found, two, "application/json").basis is Basis.REPORTED


def test_a_picture_that_tells_no_tokens_is_charged_what_was_held() -> None:
    """No text passed that would tell, so the estimate of the hold is the charge, at the rate of pictures."""
    found = admitted("/v1/images/generations", DRAW)
    resolution = answered(found, b'{"created": 1, "data": [{"b64_json": "AAAA"}]}', "application/json")

    assert resolution.basis is Basis.ESTIMATED
    assert json.loads(resolution.detail)["usage"]["image_out"] == 273
    assert 273 * 32_000 <= resolution.charge.cost_nanodollars <= held_nanodollars(found)


@pytest.mark.parametrize(
    ("path", "body", "unit", "admissible"),
    [
        ("/v1/images/generations", DRAW, "cost_per_day", False),
        ("/v1/images/generations", PAINT, "cost_per_day", True),
        ("/v1/audio/speech", SPEAK, "cost_per_day", True),
        ("/v1/audio/speech", SPEAK, "tokens_per_day", False),
        ("/v1/audio/speech", SPEAK, "requests_per_day", True),
    ],
)
def test_strict_admission_takes_only_what_is_bounded(
    path: str, body: dict[str, Any], unit: str, admissible: bool
) -> None:
    """An estimate is no bound: a strict rule refuses it, unless what it counts is told by the request."""
    outcome = admitted(path, body, unit=unit, rule=", admission: strict").outcome

    assert isinstance(outcome, Forward if admissible else Refuse)


def test_what_cannot_be_shortened_is_not_clamped() -> None:
    """A picture has no output limit to write into the request: it fits or it is refused."""
    rule = ", on_insufficient: clamp, min_output_tokens: 1"
    found = admitted("/v1/images/generations", {**DRAW, "quality": "high", "n": 10, "size": "3840x2160"}, rule=rule)

    assert isinstance(found.outcome, Refuse)
    assert found.ways[0].candidate.bounds.output_min == found.ways[0].candidate.bounds.output_max


def test_a_chat_is_not_free_at_a_price_by_the_minute() -> None:
    """A price that the API at hand cannot count makes its model an unpriced one, held and charged at the ceiling."""
    body = {"model": "own/ear", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
    found = admitted("/v1/chat/completions", body)

    assert found.ways[0].candidate.target.unpriced
    assert held_nanodollars(found) > 0
