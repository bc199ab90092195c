"""OpenAI chat completions: bodies as the provider makes them.

Facts from the provider's published SDK types: prompt_tokens includes cached, cache-write and audio tokens;
completion_tokens includes reasoning and audio. A stream carries usage only if `stream_options.include_usage` asks for
it: then every chunk has `usage: null` and one last chunk, with no choices, has the usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ext_proc.mock_provider.counts import Counts
from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.shape import CREATED, SSE, Call, StreamEvent, event, exactly, output_text, text_pieces
from ext_proc.mock_provider.tools import ToolCall, names_in, tool_calls

DONE: Final = StreamEvent(b"[DONE]")

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}


def usage(counts: Counts) -> dict[str, object]:
    """The usage object, in the provider's inclusive counts."""
    cache_write = counts.cache_write + counts.cache_write_1h
    prompt = counts.input + counts.cache_read + cache_write + counts.audio_in
    completion = counts.output + counts.audio_out
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": counts.cache_read,
            "audio_tokens": counts.audio_in,
            **({"cache_write_tokens": cache_write} if cache_write else {}),
        },
        "completion_tokens_details": {
            "reasoning_tokens": counts.reasoning,
            "audio_tokens": counts.audio_out,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


class OpenAIChat:
    """`POST /v1/chat/completions`."""

    path = exactly("/v1/chat/completions")

    def check(self, document: Mapping[str, object]) -> None:
        """A request needs a model and messages."""
        if not isinstance(document.get("model"), str):
            raise MockRequestError("you must provide a model parameter")
        messages = document.get("messages")
        if not isinstance(messages, list) or not messages:
            raise MockRequestError("'messages' must be a list with at least one message")

    def output_limit(self, document: Mapping[str, object]) -> int | None:
        """`max_completion_tokens`, or the older `max_tokens`, for each of `n` choices."""
        for name in ("max_completion_tokens", "max_tokens"):
            limit = document.get(name)
            if isinstance(limit, int) and not isinstance(limit, bool):
                return limit * _choices(document)
        return None

    def plain(self, call: Call) -> dict[str, object]:
        """A `chat.completion`."""
        answer, tools = head(call, "chat.completion"), _tools(call)
        answer["choices"] = [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": output_text(tokens),
                    "refusal": None,
                    "annotations": [],
                    **({"tool_calls": [_tool_call(tool) for tool in tools]} if tools else {}),
                },
                "logprobs": None,
                "finish_reason": self._finish_reason(call),
            }
            for index, tokens in enumerate(tokens_of_choices(call))
        ]
        if not call.behavior.no_usage:
            answer["usage"] = usage(call.counts)
        return answer

    def stream(self, call: Call) -> list[StreamEvent]:
        """`chat.completion.chunk`s and `[DONE]`."""
        with_usage = wants_usage(call)
        start = head(call, "chat.completion.chunk")
        tail: dict[str, object] = {"usage": None} if with_usage else {}

        def chunk(
            index: int, delta: dict[str, object], finish: str | None = None, *, text: bool = False
        ) -> StreamEvent:
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
            return event({**start, "choices": [choice], **tail}, text=text)

        pieces_of_choices = [text_pieces(tokens, call.behavior.chunks) for tokens in tokens_of_choices(call)]
        choices = range(len(pieces_of_choices))
        events = [chunk(index, {"role": "assistant", "content": "", "refusal": None}) for index in choices]
        for turn in range(max(map(len, pieces_of_choices))):  # the provider interleaves the choices
            for index, pieces in enumerate(pieces_of_choices):
                if turn < len(pieces):
                    events.append(chunk(index, {"content": pieces[turn]}, text=True))
        deltas = [delta for place, tool in enumerate(_tools(call)) for delta in _tool_deltas(call, place, tool)]
        events += [chunk(index, {"tool_calls": [delta]}) for index in choices for delta in deltas]
        if call.behavior.like_mistral and not call.behavior.no_usage:
            tail = {"usage": usage(call.counts)}
        events += [chunk(index, {}, self._finish_reason(call)) for index in choices]
        if with_usage:
            events.append(event({**start, "choices": [], "usage": usage(call.counts)}))
        return [*events, DONE]

    def error(self, status: int, message: str) -> dict[str, object]:
        """`{"error": {message, type, param, code}}`."""
        code = "rate_limit_exceeded" if status == 429 else None  # noqa: PLR2004  (the status the provider names)
        return {
            "error": {"message": message, "type": _ERROR_TYPES.get(status, "server_error"), "param": None, "code": code}
        }

    def error_event(self, call: Call, message: str) -> StreamEvent:
        """The error body as an event."""
        del call
        return event(self.error(500, message))

    def stream_type(self, call: Call) -> str:
        """Server-sent events."""
        del call
        return SSE

    def headers(self, call_id: str) -> dict[str, str]:
        """The id support asks for."""
        return {"x-request-id": f"req_{call_id}", "openai-version": "2020-10-01", "openai-processing-ms": "1"}

    def _finish_reason(self, call: Call) -> str:
        if call.behavior.tool_calls:
            return "tool_calls"
        limit = self.output_limit(call.document)
        return "length" if limit is not None and call.counts.output >= limit else "stop"


def head(call: Call, kind: str, prefix: str = "chatcmpl") -> dict[str, object]:
    """What every body and every chunk begins with."""
    return {
        "id": f"{prefix}-{call.id}",
        "object": kind,
        "created": CREATED,
        "model": call.model,
        "service_tier": call.behavior.service_tier or "default",
        "system_fingerprint": "fp_tollgate_mock",
    }


def _choices(document: Mapping[str, object]) -> int:
    number = document.get("n")
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else 1


def tokens_of_choices(call: Call) -> list[int]:
    """The visible output tokens, spread over the choices."""
    choices, visible = _choices(call.document), call.visible_tokens
    return [visible * (index + 1) // choices - visible * index // choices for index in range(choices)]


def wants_usage(call: Call) -> bool:
    """Whether the stream is to end with a chunk of usage alone."""
    options = call.document.get("stream_options")
    asked = isinstance(options, Mapping) and options.get("include_usage") is True
    return asked and not call.behavior.no_usage and not call.behavior.like_mistral


def _tools(call: Call) -> list[ToolCall]:
    return tool_calls(call, names_in(call.document.get("tools"), "function", "name"))


def _tool_call(tool: ToolCall) -> dict[str, object]:
    return {"id": f"call_{tool.id}", "type": "function", "function": {"name": tool.name, "arguments": tool.arguments}}


def _tool_deltas(call: Call, place: int, tool: ToolCall) -> list[dict[str, object]]:
    """The first has id and name, the others pieces of the arguments."""
    if call.behavior.like_mistral:
        return [{**_tool_call(tool), "index": place}]
    first = {**_tool_call(tool), "index": place, "function": {"name": tool.name, "arguments": ""}}
    return [first, *({"index": place, "function": {"arguments": piece}} for piece in tool.argument_pieces())]
