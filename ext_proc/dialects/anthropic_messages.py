"""Anthropic messages.

Reported counts are exclusive: `input_tokens` holds neither cache reads nor cache writes. In a stream all counts are
cumulative: `message_delta` overwrites what `message_start` said, null or absent leaves it. The `output_tokens` of
`message_start` is a placeholder (often 1) and is not read at all. The split of cache writes by lifetime comes only with
`message_start`. Source: the `anthropic` SDK's types `Usage`, `MessageDeltaUsage` and `CacheCreation`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ext_proc.dialects import error_body, jsonbody
from ext_proc.dialects.anthropic_iterations import parts
from ext_proc.dialects.base import BaseDialect
from ext_proc.dialects.content import PromptSize
from ext_proc.dialects.ending import CutPoint, Ending
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.sse import written
from ext_proc.dialects.tally import NEVER, Needle, ResponseShape, object_at, text_keys
from ext_proc.dialects.usage_paths import UsageTable, paths
from ext_proc.pricing.usage import Usage
from ext_proc.refusal import Refusal

_INPUT = {
    "input": "input_tokens",
    "cache_read": "cache_read_input_tokens",
    "cache_write": "cache_creation_input_tokens",
    "cache_write_5m": "cache_creation.ephemeral_5m_input_tokens",
    "cache_write_1h": "cache_creation.ephemeral_1h_input_tokens",
    "searches": "server_tool_use.web_search_requests",
}

USAGE_TABLE = UsageTable(
    root="usage",
    counts=(
        *paths(_INPUT, below="message.usage"),  # message_start; its output count is a placeholder
        *paths({**_INPUT, "output": "output_tokens"}, below="usage"),  # message_delta, and the plain body
    ),
    served_model=(("message", "model"), ("model",)),
    service_tier=(
        ("message", "usage", "speed"),  # `fast` has a price of its own, and precedes
        ("usage", "speed"),
        ("message", "usage", "service_tier"),
        ("usage", "service_tier"),
    ),
    geo=(("message", "usage", "inference_geo"), ("usage", "inference_geo")),
)

_OVERHEAD_PER_REQUEST = 16
_OVERHEAD_PER_MESSAGE = 8
_OVERHEAD_OF_TOOLS = 530  # the largest published system prompt for tool use (Claude 3 Opus; later models need 313–346)
_OVERHEAD_PER_TOOL = 16
_OVERHEAD_PER_CLIENT_TOOL = 735  # the largest published size of a tool Anthropic defines: computer use
_CLIENT_TOOLS = ("bash_", "computer_", "memory_", "text_editor_")


def usage_from_counts(counts: Mapping[str, int]) -> Usage:
    """Cache writes are split by lifetime; a total that moved on from the split is divided in its proportion."""
    short, long = counts.get("cache_write_5m", 0), counts.get("cache_write_1h", 0)
    split = short + long
    written = counts.get("cache_write", split)
    if split and written != split:
        long = written * long // split
    return Usage(
        input_uncached=counts.get("input", 0),
        cache_read=counts.get("cache_read", 0),
        cache_write_5m=written - long,
        cache_write_1h=long,
        output=counts.get("output", 0),
        searches=counts.get("searches", 0),
        requests=1,
    )


def _end(point: CutPoint) -> bytes | None:
    """The open block stops, then the message, with `max_tokens`."""
    kind, index = point.latest.get("type"), point.latest.get("index")
    if kind not in {"content_block_start", "content_block_delta", "content_block_stop"}:
        return None
    stop = written({"type": "content_block_stop", "index": index}, "content_block_stop")
    delta = {
        "type": "message_delta",
        "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
        "usage": {"output_tokens": point.output_tokens},
    }
    block = b"" if kind == "content_block_stop" else stop
    return block + written(delta, "message_delta") + written({"type": "message_stop"}, "message_stop")


SHAPE = ResponseShape(
    table=USAGE_TABLE,
    usage_from_counts=usage_from_counts,
    output_count="output",
    text=text_keys("text", "thinking", "partial_json"),
    terminal=Needle(b"message_stop", re.compile(rb'"type"\s*:\s*"message_stop"')),
    watched=object_at("usage"),
    parts=lambda document: parts(document, usage_from_counts),
    ending=Ending(latest=re.compile(rb'"type"\s*:\s*"(?:content_block_|message_delta)'), write=_end),
)


def unreachable_kinds(body: bytes, mark: bytes) -> frozenset[str]:
    """Nothing is written to a cache unless the body asks for it, and nothing for an hour unless it says so."""
    if mark not in body:
        return frozenset({"cache_write_5m", "cache_write_1h"})
    return frozenset() if b'"1h"' in body else frozenset({"cache_write_1h"})


class AnthropicMessages(BaseDialect):
    """`POST /v1/messages`. There is never anything to hide: usage is part of every stream."""

    name = "anthropic-messages"
    default_account = "anthropic-main"
    shape = SHAPE

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body."""
        del path  # the model is in the body
        model = jsonbody.required_text(document, "model", "claude-sonnet-4-5")
        stream = jsonbody.optional_flag(document, "stream")
        facts = messages_facts(document, model=model, limit=required_limit(document), stream=stream)
        return replace(facts, geo=jsonbody.optional_text(document, "inference_geo"))

    def unreachable_kinds(self, body: bytes) -> frozenset[str]:
        """Cache writes that the body does not ask for."""
        return unreachable_kinds(body, b'"cache_control"')

    def limit_changes(self, facts: RequestFacts, limit: int, provider: str) -> Mapping[str, object]:
        """`max_tokens`."""
        del facts, provider
        return {"max_tokens": limit}

    def error_body(self, refusal: Refusal) -> dict[str, object]:
        """The refusal in Anthropic's shape."""
        return error_body.anthropic(refusal)


class AnthropicCountTokens(AnthropicMessages):
    """`POST /v1/messages/count_tokens`: free of charge, so nothing is held and nothing is charged but the request."""

    name = "anthropic-count-tokens"
    operation = "count_tokens"
    shape = ResponseShape(
        table=UsageTable(root="input_tokens", counts=paths({"counted": "input_tokens"}, below="")),
        usage_from_counts=lambda _: Usage(requests=1),
        output_count="counted",
        text=(),
        terminal=NEVER,
        watched=NEVER,
    )

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body: what is counted is not read by a model."""
        del path  # the model is in the body
        model = jsonbody.required_text(document, "model", "claude-sonnet-4-5")
        counted = messages_facts(document, model=model, limit=0, stream=False)
        return replace(counted, prompt_bytes=0, overhead_tokens=0, external_inputs=0)

    def limit_changes(self, facts: RequestFacts, limit: int, provider: str) -> Mapping[str, object]:
        """Nothing is generated."""
        del facts, limit, provider
        return {}


def required_limit(document: Mapping[str, object]) -> int:
    """`max_tokens`, without which Anthropic answers nothing. 0 fills the cache and generates nothing."""
    limit = jsonbody.optional_count(document, "max_tokens", least=0)
    if limit is None:
        raise DialectError("max_tokens", "is missing; Anthropic requires it: set the most tokens you want back")
    return limit


def messages_facts(document: jsonbody.Document, *, model: str, limit: int, stream: bool) -> RequestFacts:
    """The facts of a messages body, wherever it stands (Anthropic, Bedrock, Vertex)."""
    messages = jsonbody.required_items(document, "messages")
    size = PromptSize()
    size.add_content(document.get("system"))
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise DialectError(f"messages[{index}]", f"is {jsonbody.kind(message)}; each message must be an object")
        size.add_content(message.get("content"))
    for field in ("tools", "output_format", "output_config"):
        size.add_schema(document.get(field))
    tool_overhead, server_tools = _tools(jsonbody.optional_items(document, "tools"))
    remote = len(jsonbody.optional_items(document, "mcp_servers")) + (document.get("container") is not None)
    return RequestFacts(
        model=model,
        stream=stream,
        output_limit=limit,
        choices=1,
        prompt_bytes=size.text_bytes,
        overhead_tokens=_OVERHEAD_PER_REQUEST + _OVERHEAD_PER_MESSAGE * len(messages) + tool_overhead,
        external_inputs=size.external_inputs + server_tools + remote,
        wants_usage=True,
        document=document,
        service_tier=jsonbody.optional_text(document, "service_tier"),
    )


def _tools(tools: list[object]) -> tuple[int, int]:
    """(overhead tokens, tools that run at Anthropic and bring input of their own)."""
    if not tools:
        return 0, 0
    overhead, server = _OVERHEAD_OF_TOOLS, 0
    for tool in tools:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if not isinstance(kind, str) or kind == "custom":
            overhead += _OVERHEAD_PER_TOOL
        elif kind.startswith(_CLIENT_TOOLS):
            overhead += _OVERHEAD_PER_CLIENT_TOOL
        else:
            server += 1
    return overhead, server
