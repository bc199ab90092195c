"""Bedrock converse and converse-stream, whose stream is binary.

Facts from the Bedrock API reference: inputTokens excludes cache reads and writes, totalTokens includes them; the
`metadata` event comes last and carries the usage. A frame: total and headers length (4 bytes each), CRC-32 of both,
the headers (name, type 7, value), the payload, CRC-32 of everything before.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping

import orjson

from ext_proc.mock_provider.counts import Counts
from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.shape import Call, StreamEvent, output_text, text_pieces
from ext_proc.mock_provider.tools import ARGUMENTS, ToolCall, names_in, tool_calls

CONTENT_TYPE = "application/vnd.amazon.eventstream"

_STRING_HEADER = 7
_PRELUDE_BYTES = 12
_CRC_BYTES = 4
_LATENCY_MS = 1
_SIGNATURE = "bW9jaw=="

_ERROR_TYPES = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}


def usage(counts: Counts) -> dict[str, object]:
    """The usage object, in the provider's exclusive counts."""
    write = counts.cache_write + counts.cache_write_1h
    lifetimes = {"5m": counts.cache_write, "1h": counts.cache_write_1h}
    return {
        "inputTokens": counts.input,
        "outputTokens": counts.output,
        "totalTokens": counts.input + counts.cache_read + write + counts.output,
        "cacheReadInputTokens": counts.cache_read,
        "cacheWriteInputTokens": write,
        **(
            {"cacheDetails": [{"ttl": ttl, "inputTokens": count} for ttl, count in lifetimes.items() if count]}
            if write
            else {}
        ),
    }


def frame(document: Mapping[str, object], headers: Mapping[str, str]) -> bytes:
    """One frame of an event stream."""
    packed = b"".join(_header(name, value) for name, value in headers.items())
    payload = orjson.dumps(document)
    lengths = struct.pack(">II", _PRELUDE_BYTES + len(packed) + len(payload) + _CRC_BYTES, len(packed))
    message = lengths + struct.pack(">I", zlib.crc32(lengths)) + packed + payload
    return message + struct.pack(">I", zlib.crc32(message))


class BedrockConverse:
    """`POST /model/{modelId}/converse` and `/converse-stream`."""

    path = re.compile(r"/model/(?P<model>[^?]+)/converse(?P<stream>-stream)?")

    def check(self, document: Mapping[str, object]) -> None:
        """A request needs messages."""
        if not document.get("messages"):
            raise MockRequestError("1 validation error detected: 'messages' must have at least one entry")

    def output_limit(self, document: Mapping[str, object]) -> int | None:
        """`inferenceConfig.maxTokens`."""
        config = document.get("inferenceConfig")
        limit = config.get("maxTokens") if isinstance(config, Mapping) else None
        return limit if isinstance(limit, int) and not isinstance(limit, bool) else None

    def plain(self, call: Call) -> dict[str, object]:
        """A `ConverseResponse`."""
        content = [
            *(
                {"reasoningContent": {"reasoningText": {"text": text, "signature": _SIGNATURE}}}
                for text in _thoughts(call)
            ),
            {"text": output_text(call.visible_tokens)},
            *({"toolUse": {**_tool_use(tool), "input": ARGUMENTS}} for tool in _tools(call)),
        ]
        return {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": self._stop_reason(call),
            "metrics": {"latencyMs": _LATENCY_MS},
            **({} if call.behavior.no_usage else {"usage": usage(call.counts)}),
        }

    def stream(self, call: Call) -> list[StreamEvent]:
        """`messageStart` … `metadata`."""
        end = {
            "metrics": {"latencyMs": _LATENCY_MS},
            **({} if call.behavior.no_usage else {"usage": usage(call.counts)}),
        }
        return [
            _event("messageStart", {"role": "assistant"}),
            *(made for index, block in enumerate(_blocks(call)) for made in _block_events(index, *block)),
            _event("messageStop", {"stopReason": self._stop_reason(call)}),
            _event("metadata", end),
        ]

    def error(self, status: int, message: str) -> dict[str, object]:
        """`{"message"}`; the kind of error stands in a header."""
        return {"message": message, "__type": _ERROR_TYPES.get(status, "InternalServerException")}

    def error_event(self, call: Call, message: str) -> StreamEvent:
        """An exception in the stream."""
        del call
        headers = {
            ":exception-type": "throttlingException",
            ":content-type": "application/json",
            ":message-type": "exception",
        }
        return StreamEvent(frame({"message": message}, headers), framed=True)

    def stream_type(self, call: Call) -> str:
        """Binary frames."""
        del call
        return CONTENT_TYPE

    def headers(self, call_id: str) -> dict[str, str]:
        """The id support asks for."""
        return {"x-amzn-requestid": call_id}

    def _stop_reason(self, call: Call) -> str:
        if call.behavior.tool_calls:
            return "tool_use"
        limit = self.output_limit(call.document)
        return "max_tokens" if limit is not None and call.counts.output >= limit else "end_turn"


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return bytes([len(key)]) + key + bytes([_STRING_HEADER]) + struct.pack(">H", len(text)) + text


def _event(kind: str, document: Mapping[str, object], *, text: bool = False) -> StreamEvent:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return StreamEvent(frame(document, headers), text=text, framed=True)


def _thoughts(call: Call) -> list[str]:
    """The text of the reasoning block, where the request asks the model for thinking."""
    extra = call.document.get("additionalModelRequestFields")
    asked = isinstance(extra, Mapping) and bool(extra.get("thinking"))
    return [output_text(call.counts.reasoning)] if asked and call.counts.reasoning else []


def _tools(call: Call) -> list[ToolCall]:
    config = call.document.get("toolConfig")
    tools = config.get("tools") if isinstance(config, Mapping) else None
    return tool_calls(call, names_in(tools, "toolSpec", "name"))


def _tool_use(tool: ToolCall) -> dict[str, object]:
    return {"toolUseId": f"tooluse_{tool.id}", "name": tool.name}


_Block = tuple[dict[str, object] | None, list[dict[str, object]]]
"""How a block starts (text does not say so), and its deltas."""


def _blocks(call: Call) -> list[_Block]:
    blocks: list[_Block] = [
        (None, [{"reasoningContent": {"text": text}}, {"reasoningContent": {"signature": _SIGNATURE}}])
        for text in _thoughts(call)
    ]
    pieces = text_pieces(call.visible_tokens, call.behavior.chunks)
    blocks.append((None, [{"text": piece} for piece in pieces]))
    for tool in _tools(call):
        deltas: list[dict[str, object]] = [{"toolUse": {"input": piece}} for piece in tool.argument_pieces()]
        blocks.append(({"toolUse": _tool_use(tool)}, deltas))
    return blocks


def _block_events(index: int, start: dict[str, object] | None, deltas: list[dict[str, object]]) -> list[StreamEvent]:
    return [
        *([_event("contentBlockStart", {"start": start, "contentBlockIndex": index})] if start else []),
        *(
            _event("contentBlockDelta", {"delta": delta, "contentBlockIndex": index}, text="text" in delta)
            for delta in deltas
        ),
        _event("contentBlockStop", {"contentBlockIndex": index}),
    ]
