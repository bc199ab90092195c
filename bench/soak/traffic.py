"""What is sent: every dialect the mock provider speaks, plain and streamed, and what goes wrong with each."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.soak.records import Expected

ID_HEADER = "x-soak-id"
"""Goes through to the provider, so that its bill can be matched."""

DEAR, CHEAP = "soak-dear", "soak-cheap"
RATES = {
    DEAR: {"input": 3_000, "cache_read": 300, "output": 15_000},
    CHEAP: {"input": 150, "cache_read": 75, "output": 600},
}
"""Nano-dollars per token: the private prices of the soak's policies, and what its provider bills."""

CENTERS = ("search", "platform", "mobile", "data")
POOR, TIGHT, HASTY = "poor", "tight", "hasty"
REPOSITORIES = ("ranking", "web", "agents", "infra", "docs")
OUTPUT_TOKENS_MAX = 300

_REFUSED = frozenset({429})
_GATEWAY = frozenset({502, 503})


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request and how often it comes, relative to the others."""

    name: str
    weight: int
    dialect: str
    stream: bool = False
    expected: Expected = Expected.ANSWERED
    statuses: frozenset[int] = frozenset({200})
    behavior: Mapping[str, object] = field(default_factory=dict)
    cost_center: str | None = None  # one of CENTERS, drawn
    model: str = DEAR
    leave_after_bytes: int | None = None  # the client hangs up: after so many bytes, or while it waits for the first
    options: Mapping[str, object] = field(default_factory=dict)  # of the body
    tagged: bool = True


def _kinds() -> Iterator[Kind]:
    for dialect in DIALECTS:
        yield Kind(f"{dialect}, plain", 10, dialect)
        yield Kind(f"{dialect}, streamed", 10, dialect, stream=True)
        slow = {"chunks": 60, "chunk_delay_ms": 40}
        yield Kind(
            f"{dialect}, left in mid-stream",
            2,
            dialect,
            stream=True,
            behavior=slow,
            expected=Expected.LEFT,
            leave_after_bytes=400,
        )
        yield Kind(f"{dialect}, 503", 1, dialect, behavior={"status": 503}, expected=Expected.FAILED, statuses=_GATEWAY)
    yield Kind(
        "chat, streamed with usage", 20, "chat", stream=True, options={"stream_options": {"include_usage": True}}
    )
    odd: dict[str, dict[str, object]] = {
        "compressed": {"gzip": True},
        "CR LF": {"crlf": True},
        "in small pieces": {"split_bytes": 7},
        "slow": {"chunks": 30, "chunk_delay_ms": 100},
    }
    for name, behavior in odd.items():
        yield Kind(f"chat, {name}", 3, "chat", stream=True, behavior=behavior)
    uncounted: dict[str, Any] = {"behavior": {"no_usage": True}, "expected": Expected.UNCOUNTED}
    yield Kind("chat, without usage", 2, "chat", **uncounted)
    yield Kind("messages, streamed without usage", 2, "messages", stream=True, **uncounted)
    yield from _failures()
    yield Kind("untagged", 3, "chat", tagged=False, expected=Expected.REFUSED, statuses=frozenset({400}))
    yield Kind("budget empty", 4, "chat", cost_center=POOR, expected=Expected.REFUSED, statuses=_REFUSED)
    yield Kind("rate limited", 8, "chat", cost_center=HASTY, expected=Expected.LIMITED, statuses=_REFUSED | {200})
    yield Kind("downgraded", 6, "chat", cost_center=TIGHT)
    yield Kind("downgraded, streamed", 6, "messages", cost_center=TIGHT, stream=True)
    yield Kind("failed over", 4, "chat", model="soak-chain")
    yield Kind("failed over, streamed", 4, "chat", model="soak-chain", stream=True)


def _failures() -> Iterator[Kind]:
    failed: dict[str, Any] = {"expected": Expected.FAILED}
    yield Kind("chat, 500", 2, "chat", behavior={"status": 500}, statuses=frozenset({500}), **failed)
    limited = {"status": 429, "retry_after": 1}
    yield Kind("messages, 429", 2, "messages", stream=True, behavior=limited, statuses=_REFUSED, **failed)
    yield Kind("chat, reset", 2, "chat", behavior={"reset": "before_headers"}, statuses=_GATEWAY, **failed)
    cut: dict[str, Any] = {"expected": Expected.CUT, "stream": True}
    yield Kind("chat, cut", 2, "chat", behavior={"chunks": 20, "chunk_delay_ms": 20, "cut_after_chunks": 8}, **cut)
    yield Kind("messages, error event", 2, "messages", behavior={"chunks": 20, "error_event_after_chunks": 5}, **cut)
    left: dict[str, Any] = {"expected": Expected.LEFT, "leave_after_bytes": 0, "statuses": frozenset({0, 200})}
    yield Kind("chat, left before the first byte", 2, "chat", behavior={"first_byte_delay_ms": 4_000}, **left)
    yield Kind("messages, left before the first byte", 2, "messages", behavior={"first_byte_delay_ms": 4_000}, **left)


DIALECTS = ("chat", "responses", "messages", "gemini", "bedrock", "cohere")
KINDS = tuple(_kinds())


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to be sent."""

    id: str
    kind: Kind
    cost_center: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def requests(seed: int) -> Iterator[Request]:
    """Endless, and the same for the same seed."""
    draw = random.Random(seed)
    weights = [kind.weight for kind in KINDS]
    number = 0
    while True:
        number += 1
        yield _request(f"s{number}", draw.choices(KINDS, weights)[0], draw)


def _request(name: str, kind: Kind, draw: random.Random) -> Request:
    cost_center = kind.cost_center or draw.choice(CENTERS)
    words = draw.randint(20, 400)  # a token each
    cached = draw.randrange(words) if kind.dialect != "cohere" and draw.random() < 0.3 else 0
    usage = {"input": words - cached, "cache_read": cached, "output": draw.randint(1, OUTPUT_TOKENS_MAX)}
    path, body = _body(kind, "word " * words)
    headers = {
        "content-type": "application/json",
        ID_HEADER: name,
        "x-mock-usage": json.dumps(usage),
        "x-mock-behavior": json.dumps(dict(kind.behavior)),
    }
    if kind.tagged:
        tags = {"cost_center": cost_center, "repo": draw.choice(REPOSITORIES), "run": name}
        headers["x-tfy-metadata"] = json.dumps(tags)
    return Request(name, kind, cost_center, path, headers, json.dumps(body).encode())


def _body(kind: Kind, text: str) -> tuple[str, dict[str, Any]]:
    """Where a request of the dialect goes, and its body."""
    said = [{"role": "user", "content": text}]
    model, stream, limit = kind.model, kind.stream, OUTPUT_TOKENS_MAX
    match kind.dialect:
        case "chat":
            name = model if model == "soak-chain" else f"openai-main/{model}"
            body = {"model": name, "max_tokens": limit, "messages": said, "stream": stream, **kind.options}
            return "/v1/chat/completions", body
        case "responses":
            body = {"model": f"openai-main/{model}", "max_output_tokens": limit, "input": text, "stream": stream}
            return "/v1/responses", body
        case "messages":
            body = {"model": f"anthropic-main/{model}", "max_tokens": limit, "messages": said, "stream": stream}
            return "/v1/messages", body
        case "gemini":
            method = "streamGenerateContent?alt=sse" if stream else "generateContent"
            body = {"contents": [{"parts": [{"text": text}]}], "generationConfig": {"maxOutputTokens": limit}}
            return f"/v1beta/models/{model}:{method}", body
        case "bedrock":
            message = {"role": "user", "content": [{"text": text}]}
            body = {"messages": [message], "inferenceConfig": {"maxTokens": limit}}
            return f"/model/{model}/converse{'-stream' if stream else ''}", body
        case "cohere":
            return "/v2/chat", {
                "model": f"cohere-main/{model}",
                "max_tokens": limit,
                "messages": said,
                "stream": stream,
            }
        case other:
            raise AssertionError(other)
