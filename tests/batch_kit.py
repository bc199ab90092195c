"""Batches in a line: their requests, and what a provider answers, for tests without a provider."""

from __future__ import annotations

import json
from typing import Any

from ext_proc.batches.calls import Api, Step
from ext_proc.batches.ticket import BatchTicket
from ext_proc.exchange.admission import Admission
from ext_proc.exchange.effects import AdmissionEffect
from ext_proc.exchange.events import RequestBody, RequestHead
from ext_proc.exchange.terms import Terms
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger import ids
from ext_proc.pricing.book import PriceBook
from ext_proc.pricing.price import BATCH_TIER
from tests.policy_kit import snapshot

NOW_US = 1_795_000_000_000_000  # when the catalogue knows batch rates
HOLD_ID = ids.mint(NOW_US, b"12345678")
BUDGET = """
name: budgets
type: gateway-budget-config
rules: [{id: all, when: {}, limit_to: 100, unit: cost_per_month}]
"""
BOUNDARY = "xYzZY"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def terms(*documents: str) -> Terms:
    """The terms of a policy set; of one budget that everything falls on, where none is given."""
    return Terms.of(snapshot(*(documents or (BUDGET,))), lease_ms=60_000)


def chat_line(index: int = 0, *, url: Any = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    """A line of an OpenAI batch file."""
    document = {"model": "gpt-4o-mini", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}], **body}
    return {"custom_id": f"r{index}", "method": "POST", "url": url, "body": document}


def jsonl(*lines: object) -> bytes:
    """Lines of JSON."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def form(file: bytes, purpose: str = "batch", **more: str) -> bytes:
    """An uploaded file."""
    fields = {"purpose": purpose, **more}
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    head = b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\nContent-Type: application/jsonl\r\n\r\n'
    sections = b"".join(b"--" + BOUNDARY.encode() + b"\r\n" + part + b"\r\n" for part in (*parts, head + file))
    return sections + b"--" + BOUNDARY.encode() + b"--\r\n"


def inline(*params: dict[str, Any]) -> bytes:
    """The body of an Anthropic batch; each request is a small one with these changes."""
    plain = {"model": "claude-sonnet-4-6", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]}
    requests = [{"custom_id": f"r{index}", "params": {**plain, **one}} for index, one in enumerate(params)]
    return json.dumps({"requests": requests}).encode()


def admission(of: Terms) -> Admission:
    """A request that nothing is known of yet."""
    return Admission(of, HOLD_ID, "req_1")


def begun(
    of: Admission, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[AdmissionEffect, ...]:
    """Its head and body have come: what is to be done."""
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    effects = of.receive(RequestHead(method, path, pairs, NOW_US, has_body=body is not None))
    return effects if body is None else of.receive(RequestBody(body, NOW_US))


def batch_ticket(api: Api, step: Step, *, requests: int = 3, batch_id: str = "batch_1") -> BatchTicket:
    """What a call about a batch carries."""
    openai = api is Api.OPENAI
    provider, model = ("openai", "gpt-4o-mini") if openai else ("anthropic", "claude-sonnet-4-6")
    price = PriceBook().price(provider, model, NOW_US)
    assert price is not None
    ticket = Ticket(
        hold_id=HOLD_ID,
        dialect="openai-chat" if openai else "anthropic-messages",
        operation="chat",
        requested_model=model,
        target=f"{provider}-main/{model}",
        price=price.served_by(BATCH_TIER),
        input_tokens=300,
        output_limit=60,
        verdict="pass",
        stream=False,
        hide_usage=False,
    )
    account = f"{provider}-main"
    return BatchTicket(api, step, account, (None,) * 4, ticket=ticket, batch_id=batch_id, requests=requests)


def chat_result(index: int, prompt: int, completion: int, **answer: object) -> dict[str, Any]:
    """A line of OpenAI's results."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    body = {"id": "c", "object": "chat.completion", "model": "gpt-4o-mini", "choices": [], "usage": usage, **answer}
    return {"id": f"b{index}", "custom_id": f"r{index}", "response": {"status_code": 200, "body": body}, "error": None}


def message_result(index: int, prompt: int, output: int, **usage: object) -> dict[str, Any]:
    """A line of Anthropic's results."""
    message = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-6",
        "content": [{"type": "text", "text": "hello"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": prompt, "output_tokens": output, **usage},
    }
    return {"custom_id": f"r{index}", "result": {"type": "succeeded", "message": message}}
