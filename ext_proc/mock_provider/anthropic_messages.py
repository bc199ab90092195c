"""Anthropic messages: bodies as the provider makes them.

Facts from the provider's published SDK types: input_tokens excludes cache reads and writes; usage in a stream is
cumulative, `message_start` carries the input side with a placeholder output of 1 and the 5 m / 1 h split of cache
writes, `message_delta` the final counts; `ping` may come anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from ext_proc.mock_provider.counts import Counts
from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.shape import SSE, Call, StreamEvent, event, exactly, output_text, text_pieces
from ext_proc.mock_provider.tools import ARGUMENTS, ToolCall, names_in, tool_calls

_PLACEHOLDER_OUTPUT_TOKENS = 1
_SIGNATURE = "bW9jaw=="  # real ones are opaque base64, too

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def usage(counts: Counts, *, service_tier: str | None = None) -> dict[str, object]:
    """The usage object of a whole answer, in the provider's exclusive counts."""
    return {
        "input_tokens": counts.input + counts.audio_in,
        "cache_creation_input_tokens": counts.cache_write + counts.cache_write_1h,
        "cache_read_input_tokens": counts.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": counts.cache_write,
            "ephemeral_1h_input_tokens": counts.cache_write_1h,
        },
        "output_tokens": counts.output + counts.audio_out,
        "service_tier": service_tier or "standard",
        **({"server_tool_use": {"web_search_requests": counts.searches}} if counts.searches else {}),
    }


class AnthropicMessages:
    """`POST /v1/messages`."""

    path = exactly("/v1/messages")

    def check(self, document: Mapping[str, object]) -> None:
        """A request needs a model, messages and an output limit."""
        if not isinstance(document.get("model"), str):
            raise MockRequestError("model: Field required")
        if not isinstance(document.get("max_tokens"), int) or isinstance(document.get("max_tokens"), bool):
            raise MockRequestError("max_tokens: Field required")
        messages = document.get("messages")
        if not isinstance(messages, list) or not messages:
            raise MockRequestError("messages: at least one message is required")

    def output_limit(self, document: Mapping[str, object]) -> int | None:
        """`max_tokens`, which every request has."""
        limit = document.get("max_tokens")
        return limit if isinstance(limit, int) else None

    def plain(self, call: Call) -> dict[str, object]:
        """A `message`."""
        answer = self._message(call)
        answer["content"] = [
            *({"type": "thinking", "thinking": text, "signature": _SIGNATURE} for text in _thoughts(call)),
            {"type": "text", "text": output_text(call.visible_tokens)},
            *({**_tool_use(tool), "input": ARGUMENTS} for tool in _tools(call)),
        ]
        answer["stop_reason"] = self._stop_reason(call)
        if not call.behavior.no_usage:
            answer["usage"] = usage(call.counts, service_tier=call.behavior.service_tier)
        return answer

    def stream(self, call: Call) -> list[StreamEvent]:
        """`message_start` … `message_stop`, one block after the other."""
        start, delta = self._message(call), {"stop_reason": self._stop_reason(call), "stop_sequence": None}
        end: dict[str, object] = {"type": "message_delta", "delta": delta}
        if not call.behavior.no_usage:
            start["usage"] = _usage_at_start(call)
            end["usage"] = _usage_at_end(call.counts)
        blocks = [block for index, made in enumerate(_blocks(call)) for block in _block_events(index, *made)]
        return [
            event({"type": "message_start", "message": start}, name="message_start"),
            blocks[0],
            event({"type": "ping"}, name="ping"),
            *blocks[1:],
            event(end, name="message_delta"),
            event({"type": "message_stop"}, name="message_stop"),
        ]

    def error(self, status: int, message: str) -> dict[str, object]:
        """`{"type": "error", "error": {type, message}}`."""
        return {"type": "error", "error": {"type": _ERROR_TYPES.get(status, "api_error"), "message": message}}

    def error_event(self, call: Call, message: str) -> StreamEvent:
        """What an overloaded provider sends in mid-stream."""
        del call
        return event(self.error(529, message), name="error")

    def stream_type(self, call: Call) -> str:
        """Server-sent events."""
        del call
        return SSE

    def headers(self, call_id: str) -> dict[str, str]:
        """The id support asks for."""
        return {"request-id": f"req_{call_id}"}

    def _message(self, call: Call) -> dict[str, object]:
        return {
            "id": f"msg_{call.id}",
            "type": "message",
            "role": "assistant",
            "model": call.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _stop_reason(self, call: Call) -> str:
        if call.behavior.tool_calls:
            return "tool_use"
        limit = self.output_limit(call.document)
        return "max_tokens" if limit is not None and call.counts.output >= limit else "end_turn"


def _thoughts(call: Call) -> list[str]:
    """The text of the thinking block, where the request asks for thinking."""
    thinking = call.document.get("thinking")
    asked = isinstance(thinking, Mapping) and thinking.get("type") in {"enabled", "adaptive"}
    return [output_text(call.counts.reasoning)] if asked and call.counts.reasoning else []


def _tools(call: Call) -> list[ToolCall]:
    return tool_calls(call, names_in(call.document.get("tools"), "name"))


def _tool_use(tool: ToolCall) -> dict[str, object]:
    return {"type": "tool_use", "id": f"toolu_{tool.id}", "name": tool.name, "input": {}}


_Block = tuple[dict[str, object], list[dict[str, object]]]
"""A content block as its stream begins it, and its deltas."""


def _blocks(call: Call) -> list[_Block]:
    blocks: list[_Block] = []
    for _ in _thoughts(call):
        pieces = text_pieces(call.counts.reasoning, call.behavior.chunks)
        deltas: list[dict[str, object]] = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
        deltas.append({"type": "signature_delta", "signature": _SIGNATURE})
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, deltas))
    pieces = text_pieces(call.visible_tokens, call.behavior.chunks)
    blocks.append(({"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]))
    for tool in _tools(call):
        parts = ("", *tool.argument_pieces())
        blocks.append((_tool_use(tool), [{"type": "input_json_delta", "partial_json": part} for part in parts]))
    return blocks


def _block_events(index: int, start: dict[str, object], deltas: list[dict[str, object]]) -> list[StreamEvent]:
    return [
        event({"type": "content_block_start", "index": index, "content_block": start}, name="content_block_start"),
        *(
            event(
                {"type": "content_block_delta", "index": index, "delta": delta},
                name="content_block_delta",
                text=delta["type"] == "text_delta",
            )
            for delta in deltas
        ),
        event({"type": "content_block_stop", "index": index}, name="content_block_stop"),
    ]


def _usage_at_start(call: Call) -> dict[str, object]:
    whole = usage(call.counts, service_tier=call.behavior.service_tier)
    whole.pop("server_tool_use", None)
    return {**whole, "output_tokens": _PLACEHOLDER_OUTPUT_TOKENS}


def _usage_at_end(counts: Counts) -> dict[str, object]:
    whole = usage(counts)
    del whole["cache_creation"], whole["service_tier"]  # told at the start only
    return whole
