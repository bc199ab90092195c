"""OpenAI responses: bodies as the provider makes them.

Facts from the provider's published SDK types: every event has a running `sequence_number`; the terminal event
(`response.completed`, or `.incomplete` at the output limit) repeats the whole response with its usage, which is in no
other event; reasoning is an item of its own, whose text stays with the provider.
"""

from __future__ import annotations

from collections.abc import Mapping

from ext_proc.mock_provider.counts import Counts
from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.openai_chat import OpenAIChat
from ext_proc.mock_provider.shape import CREATED, Call, StreamEvent, event, exactly, output_text, text_pieces
from ext_proc.mock_provider.tools import ToolCall, names_in, tool_calls

Json = dict[str, object]


def usage(counts: Counts) -> Json:
    """The usage object, in the provider's inclusive counts."""
    cache_write = counts.cache_write + counts.cache_write_1h
    read = counts.input + counts.cache_read + cache_write + counts.audio_in
    written = counts.output + counts.audio_out
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": counts.cache_read,
            **({"cache_write_tokens": cache_write} if cache_write else {}),
        },
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": read + written,
    }


class OpenAIResponses(OpenAIChat):
    """`POST /v1/responses`."""

    path = exactly("/v1/responses")

    def check(self, document: Mapping[str, object]) -> None:
        """A request needs a model and an input."""
        if not isinstance(document.get("model"), str):
            raise MockRequestError("Missing required parameter: 'model'.")
        if not document.get("input"):
            raise MockRequestError("Missing required parameter: 'input'.")

    def output_limit(self, document: Mapping[str, object]) -> int | None:
        """`max_output_tokens`."""
        limit = document.get("max_output_tokens")
        return limit if isinstance(limit, int) and not isinstance(limit, bool) else None

    def plain(self, call: Call) -> Json:
        """A `response`."""
        items = [
            *([_reasoning(call)] if call.counts.reasoning else []),
            *(_search(call, index) for index in range(call.counts.searches)),
            _message(call, [_text(output_text(call.visible_tokens))]),
            *(_function_call(tool, tool.arguments) for tool in _tools(call)),
        ]
        answer = {**self._response(call), "status": self._status(call), "output": items}
        if self._status(call) == "incomplete":
            answer["incomplete_details"] = {"reason": "max_output_tokens"}
        if not call.behavior.no_usage:
            answer["usage"] = usage(call.counts)
        return answer

    def stream(self, call: Call) -> list[StreamEvent]:
        """`response.created` … `response.completed`."""
        whole, start = self.plain(call), self._response(call)
        made: list[Json] = [
            {"type": "response.created", "response": start},
            {"type": "response.in_progress", "response": start},
        ]
        items = whole["output"]
        assert isinstance(items, list), "plain() has just made it"
        for index, item in enumerate(items):
            made += _item_events(index, item, call)
        made.append({"type": f"response.{self._status(call)}", "response": whole})
        return [
            event(
                {**one, "sequence_number": number},
                name=str(one["type"]),
                text=one["type"] == "response.output_text.delta",
            )
            for number, one in enumerate(made)
        ]

    def error_event(self, call: Call, message: str) -> StreamEvent:
        """An `error` event."""
        del call
        return event(
            {"type": "error", "code": "server_error", "message": message, "param": None, "sequence_number": 0},
            name="error",
        )

    def _response(self, call: Call) -> Json:
        """The response as it stands before anything is generated."""
        document = call.document
        return {
            "id": f"resp_{call.id}",
            "object": "response",
            "created_at": CREATED,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": document.get("instructions"),
            "max_output_tokens": self.output_limit(document),
            "model": call.model,
            "output": [],
            "parallel_tool_calls": True,
            "service_tier": call.behavior.service_tier or "default",
            "temperature": 1.0,
            "tool_choice": document.get("tool_choice", "auto"),
            "tools": document.get("tools", []),
            "top_p": 1.0,
            "usage": None,
        }

    def _status(self, call: Call) -> str:
        limit = self.output_limit(call.document)
        return "incomplete" if limit is not None and call.counts.output >= limit else "completed"


def _tools(call: Call) -> list[ToolCall]:
    return tool_calls(call, names_in(call.document.get("tools"), "name"))


def _reasoning(call: Call) -> Json:
    return {"type": "reasoning", "id": f"rs_{call.id}", "summary": []}


def _search(call: Call, index: int) -> Json:
    action = {"type": "search", "query": "amber"}
    return {"type": "web_search_call", "id": f"ws_{call.id}{index:02x}", "status": "completed", "action": action}


def _text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(call: Call, content: list[Json], status: str = "completed") -> Json:
    return {"type": "message", "id": f"msg_{call.id}", "role": "assistant", "status": status, "content": content}


def _function_call(tool: ToolCall, arguments: str, status: str = "completed") -> Json:
    return {
        "type": "function_call",
        "id": f"fc_{tool.id}",
        "call_id": f"call_{tool.id}",
        "name": tool.name,
        "arguments": arguments,
        "status": status,
    }


def _item_events(index: int, item: Json, call: Call) -> list[Json]:
    """How one item of the output is streamed: added, its text in pieces, done."""
    place: Json = {"item_id": item["id"], "output_index": index}
    match item["type"]:
        case "message":
            begun, between = _message(call, [], "in_progress"), _text_events(place, call)
        case "function_call":
            begun, between = {**item, "arguments": "", "status": "in_progress"}, _argument_events(place, item)
        case _:
            begun, between = item, []
    return [
        {"type": "response.output_item.added", "output_index": index, "item": begun},
        *between,
        {"type": "response.output_item.done", "output_index": index, "item": item},
    ]


def _text_events(place: Json, call: Call) -> list[Json]:
    place = {**place, "content_index": 0}
    text = output_text(call.visible_tokens)
    pieces = text_pieces(call.visible_tokens, call.behavior.chunks)
    return [
        {"type": "response.content_part.added", **place, "part": _text("")},
        *({"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []} for piece in pieces),
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": _text(text)},
    ]


def _argument_events(place: Json, item: Json) -> list[Json]:
    text = str(item["arguments"])
    pieces = (text[: len(text) // 2], text[len(text) // 2 :])
    return [
        *({"type": "response.function_call_arguments.delta", **place, "delta": piece} for piece in pieces),
        {"type": "response.function_call_arguments.done", **place, "name": item["name"], "arguments": text},
    ]
