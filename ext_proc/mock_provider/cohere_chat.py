"""Cohere chat, version 2: typed events, and a usage that tells billed units from tokens."""

from __future__ import annotations

from collections.abc import Mapping

from ext_proc.mock_provider.counts import Counts
from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.shape import SSE, Call, StreamEvent, event, exactly, output_text, text_pieces
from ext_proc.mock_provider.tools import ToolCall, names_in, tool_calls

_PREAMBLE_TOKENS = 100
"""What the model sees beyond what is billed: the provider's own preamble."""


def usage(counts: Counts) -> dict[str, object]:
    """The usage object. Only `billed_units` is charged for."""
    billed = {"input_tokens": counts.input, "output_tokens": counts.output}
    return {
        "billed_units": {**billed, **({"search_units": counts.searches} if counts.searches else {})},
        "tokens": {**billed, "input_tokens": counts.input + _PREAMBLE_TOKENS},
    }


class CohereChat:
    """`POST /v2/chat`."""

    path = exactly("/v2/chat")

    def check(self, document: Mapping[str, object]) -> None:
        """A request needs a model and messages."""
        if not isinstance(document.get("model"), str):
            raise MockRequestError("invalid request: model is required")
        if not document.get("messages"):
            raise MockRequestError("invalid request: all elements in messages must not be empty")

    def output_limit(self, document: Mapping[str, object]) -> int | None:
        """`max_tokens`."""
        limit = document.get("max_tokens")
        return limit if isinstance(limit, int) and not isinstance(limit, bool) else None

    def plain(self, call: Call) -> dict[str, object]:
        """A chat response."""
        tools = _tools(call)
        message: dict[str, object] = {"role": "assistant"}
        if tools:
            message |= {"tool_plan": output_text(call.visible_tokens), "tool_calls": [_tool_call(t) for t in tools]}
        else:
            message["content"] = [{"type": "text", "text": output_text(call.visible_tokens)}]
        return {
            "id": call.id,
            "finish_reason": self._finish_reason(call),
            "message": message,
            **({} if call.behavior.no_usage else {"usage": usage(call.counts)}),
        }

    def stream(self, call: Call) -> list[StreamEvent]:
        """`message-start` … `message-end`."""
        start = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        end: dict[str, object] = {"finish_reason": self._finish_reason(call)}
        if not call.behavior.no_usage:
            end["usage"] = usage(call.counts)
        return [
            _event("message-start", {"message": start}, id=call.id),
            *(_tool_events(call) if call.behavior.tool_calls else _text_events(call)),
            _event("message-end", end),
        ]

    def error(self, status: int, message: str) -> dict[str, object]:
        """`{"message"}`."""
        del status
        return {"message": message}

    def error_event(self, call: Call, message: str) -> StreamEvent:
        """The stream ends with an error as its finish reason."""
        del call
        return _event("message-end", {"finish_reason": "ERROR", "error": message})

    def stream_type(self, call: Call) -> str:
        """Server-sent events."""
        del call
        return SSE

    def headers(self, call_id: str) -> dict[str, str]:
        """The id support asks for."""
        return {"x-debug-trace-id": call_id}

    def _finish_reason(self, call: Call) -> str:
        if call.behavior.tool_calls:
            return "TOOL_CALL"
        limit = self.output_limit(call.document)
        return "MAX_TOKENS" if limit is not None and call.counts.output >= limit else "COMPLETE"


def _tools(call: Call) -> list[ToolCall]:
    return tool_calls(call, names_in(call.document.get("tools"), "function", "name"))


def _tool_call(tool: ToolCall) -> dict[str, object]:
    return {
        "id": f"{tool.name}_{tool.id}",
        "type": "function",
        "function": {"name": tool.name, "arguments": tool.arguments},
    }


def _event(kind: str, delta: dict[str, object], *, text: bool = False, **more: object) -> StreamEvent:
    return event({"type": kind, **more, "delta": delta}, name=kind, text=text)


def _text_events(call: Call) -> list[StreamEvent]:
    pieces = text_pieces(call.visible_tokens, call.behavior.chunks)
    return [
        _event("content-start", {"message": {"content": {"type": "text", "text": ""}}}, index=0),
        *(_event("content-delta", {"message": {"content": {"text": piece}}}, text=True, index=0) for piece in pieces),
        event({"type": "content-end", "index": 0}, name="content-end"),
    ]


def _tool_events(call: Call) -> list[StreamEvent]:
    pieces = text_pieces(call.visible_tokens, call.behavior.chunks)
    events = [_event("tool-plan-delta", {"message": {"tool_plan": piece}}, text=True) for piece in pieces]
    for index, tool in enumerate(_tools(call)):
        begun = {**_tool_call(tool), "function": {"name": tool.name, "arguments": ""}}
        events += [
            _event("tool-call-start", {"message": {"tool_calls": begun}}, index=index),
            *(
                _event("tool-call-delta", {"message": {"tool_calls": {"function": {"arguments": piece}}}}, index=index)
                for piece in tool.argument_pieces()
            ),
            event({"type": "tool-call-end", "index": index}, name="tool-call-end"),
        ]
    return events
