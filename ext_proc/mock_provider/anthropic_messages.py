"""Anthropic messages: bodies as the provider makes them.

Facts from the provider's published SDK types: input_tokens excludes cache reads and writes; usage in a stream is
cumulative, `message_start` carries the input side with a placeholder output of 1 and the 5 m / 1 h split of cache
writes, `message_delta` the final counts; `ping` may come anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from ext_proc.mock_provider.counts import Counts
from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.shape import Call, StreamEvent, event, output_text, text_pieces

_PLACEHOLDER_OUTPUT_TOKENS = 1

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

    path = "/v1/messages"

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
        answer["content"] = [{"type": "text", "text": output_text(_visible(call))}]
        answer["stop_reason"] = self._stop_reason(call)
        if not call.behavior.no_usage:
            answer["usage"] = usage(call.counts, service_tier=call.behavior.service_tier)
        return answer

    def stream(self, call: Call) -> list[StreamEvent]:
        """`message_start` … `message_stop`."""
        start, delta = self._message(call), {"stop_reason": self._stop_reason(call), "stop_sequence": None}
        end: dict[str, object] = {"type": "message_delta", "delta": delta}
        if not call.behavior.no_usage:
            start["usage"] = _usage_at_start(call)
            end["usage"] = _usage_at_end(call.counts)
        pieces = text_pieces(_visible(call), call.behavior.chunks)
        return [
            event({"type": "message_start", "message": start}, name="message_start"),
            event(
                {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
                name="content_block_start",
            ),
            event({"type": "ping"}, name="ping"),
            *(
                event(
                    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}},
                    name="content_block_delta",
                    text=True,
                )
                for piece in pieces
            ),
            event({"type": "content_block_stop", "index": 0}, name="content_block_stop"),
            event(end, name="message_delta"),
            event({"type": "message_stop"}, name="message_stop"),
        ]

    def error(self, status: int, message: str) -> dict[str, object]:
        """`{"type": "error", "error": {type, message}}`."""
        return {"type": "error", "error": {"type": _ERROR_TYPES.get(status, "api_error"), "message": message}}

    def error_event(self, message: str) -> StreamEvent:
        """What an overloaded provider sends in mid-stream."""
        return event(self.error(529, message), name="error")

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
        limit = self.output_limit(call.document)
        return "max_tokens" if limit is not None and call.counts.output >= limit else "end_turn"


def _visible(call: Call) -> int:
    return max(0, call.counts.output - call.counts.reasoning)


def _usage_at_start(call: Call) -> dict[str, object]:
    whole = usage(call.counts, service_tier=call.behavior.service_tier)
    whole.pop("server_tool_use", None)
    return {**whole, "output_tokens": _PLACEHOLDER_OUTPUT_TOKENS}


def _usage_at_end(counts: Counts) -> dict[str, object]:
    whole = usage(counts)
    del whole["cache_creation"], whole["service_tier"]  # told at the start only
    return whole
