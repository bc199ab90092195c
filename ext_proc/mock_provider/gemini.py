"""Gemini: generateContent and streamGenerateContent, as events (`alt=sse`) or as one JSON array.

Facts from the provider's published SDK types: promptTokenCount includes what was cached, candidatesTokenCount excludes
thoughts, and every part of a stream repeats the usage so far.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import orjson

from ext_proc.mock_provider.counts import Counts
from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.shape import SSE, Call, StreamEvent, event, output_text, text_pieces
from ext_proc.mock_provider.tools import ARGUMENTS, names_in, tool_calls

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}

_OVERLOADED = 503


def usage(counts: Counts, *, output: int | None = None) -> dict[str, object]:
    """The usage object; `output` is how much of the output without thoughts has been sent so far, None for all."""
    candidates = counts.output - counts.reasoning if output is None else output
    prompt = counts.input + counts.cache_read + counts.audio_in
    modalities = {"TEXT": counts.input + counts.cache_read, "AUDIO": counts.audio_in}
    return {
        "promptTokenCount": prompt,
        **({"cachedContentTokenCount": counts.cache_read} if counts.cache_read else {}),
        "candidatesTokenCount": candidates,
        **({"thoughtsTokenCount": counts.reasoning} if counts.reasoning else {}),
        "totalTokenCount": prompt + candidates + counts.reasoning,
        "promptTokensDetails": [
            {"modality": modality, "tokenCount": count} for modality, count in modalities.items() if count
        ],
    }


class Gemini:
    """`POST /v1beta/models/{model}:generateContent` and `:streamGenerateContent`."""

    path = re.compile(
        r"/v1(?:alpha|beta)?/models/(?P<model>[^:?]+):(?P<stream>stream)?[gG]enerateContent(?P<query>\?.*)?"
    )

    def check(self, document: Mapping[str, object]) -> None:
        """A request needs contents."""
        if not document.get("contents"):
            raise MockRequestError("* GenerateContentRequest.contents: contents is not specified")

    def output_limit(self, document: Mapping[str, object]) -> int | None:
        """`generationConfig.maxOutputTokens`."""
        limit = _config(document).get("maxOutputTokens")
        return limit if isinstance(limit, int) and not isinstance(limit, bool) else None

    def plain(self, call: Call) -> dict[str, object]:
        """A `GenerateContentResponse`."""
        parts: list[dict[str, object]] = [
            *_thoughts(call),
            {"text": output_text(call.visible_tokens)},
            *_function_calls(call),
        ]
        return self._part(call, parts, usage(call.counts), finish=self._finish_reason(call))

    def stream(self, call: Call) -> list[StreamEvent]:
        """One part per piece of text; the last has the function calls and the finish reason."""
        pieces = text_pieces(call.visible_tokens, call.behavior.chunks)
        documents: list[tuple[dict[str, object], bool]] = []
        if thoughts := _thoughts(call):
            documents.append((self._part(call, thoughts, usage(call.counts, output=0)), False))
        for number, piece in enumerate(pieces, 1):
            so_far = call.visible_tokens * number // len(pieces)
            documents.append((self._part(call, [{"text": piece}], usage(call.counts, output=so_far)), True))
        end = _function_calls(call) or [{"text": ""}]
        documents.append((self._part(call, end, usage(call.counts), finish=self._finish_reason(call)), False))
        if _is_sse(call):
            return [event(document, text=text) for document, text in documents]
        opened = b"["
        parts: list[StreamEvent] = []
        for document, text in documents:
            parts.append(StreamEvent(opened + orjson.dumps(document), text=text, framed=True))
            opened = b",\r\n"
        return [*parts, StreamEvent(b"]", framed=True)]

    def error(self, status: int, message: str) -> dict[str, object]:
        """`{"error": {code, message, status}}`."""
        return {"error": {"code": status, "message": message, "status": _STATUSES.get(status, "INTERNAL")}}

    def error_event(self, call: Call, message: str) -> StreamEvent:
        """The error body in the place of a part."""
        error = self.error(_OVERLOADED, message)
        if _is_sse(call):
            return event(error)
        return StreamEvent(b",\r\n" + orjson.dumps(error) + b"]", framed=True)

    def stream_type(self, call: Call) -> str:
        """Events where the path asks for them, else one JSON array."""
        return SSE if _is_sse(call) else "application/json; charset=UTF-8"

    def headers(self, call_id: str) -> dict[str, str]:
        """Google's answers name no request."""
        del call_id
        return {"x-content-type-options": "nosniff", "vary": "Origin, X-Origin, Referer"}

    def _part(
        self, call: Call, parts: list[dict[str, object]], used: dict[str, object], *, finish: str | None = None
    ) -> dict[str, object]:
        candidate = {
            "content": {"parts": parts, "role": "model"},
            **({"finishReason": finish} if finish else {}),
            "index": 0,
            **({"groundingMetadata": {"webSearchQueries": _queries(call)}} if finish and call.counts.searches else {}),
        }
        return {
            "candidates": [candidate],
            **({} if call.behavior.no_usage else {"usageMetadata": used}),
            "modelVersion": call.model,
            "responseId": call.id,
        }

    def _finish_reason(self, call: Call) -> str:
        limit = self.output_limit(call.document)
        return "MAX_TOKENS" if limit is not None and call.counts.output >= limit else "STOP"


def _config(document: Mapping[str, object]) -> Mapping[str, object]:
    config = document.get("generationConfig")
    return config if isinstance(config, Mapping) else {}


def _is_sse(call: Call) -> bool:
    return "alt=sse" in str(call.document.get("query"))


def _queries(call: Call) -> list[str]:
    return [f"query {number}" for number in range(call.counts.searches)]


def _thoughts(call: Call) -> list[dict[str, object]]:
    """A part of thoughts, where the request asks to see them."""
    config = _config(call.document).get("thinkingConfig")
    asked = isinstance(config, Mapping) and config.get("includeThoughts") is True
    return [{"text": output_text(call.counts.reasoning), "thought": True}] if asked and call.counts.reasoning else []


def _function_calls(call: Call) -> list[dict[str, object]]:
    tools = call.document.get("tools")
    declared = [
        name
        for tool in (tools if isinstance(tools, list) else [])
        if isinstance(tool, Mapping)
        for name in names_in(tool.get("functionDeclarations"), "name")
    ]
    return [{"functionCall": {"name": tool.name, "args": ARGUMENTS}} for tool in tool_calls(call, declared)]
