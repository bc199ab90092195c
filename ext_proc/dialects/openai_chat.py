"""OpenAI chat completions, and the many servers that speak it (Azure, Mistral, vLLM, Ollama, Groq, DeepSeek, …).

Reported counts are inclusive: `prompt_tokens` holds cached, written and audio tokens, `completion_tokens` holds
reasoning, audio and rejected predictions (which are billed). Source: the `openai` SDK's types `CompletionUsage`,
`PromptTokensDetails` and `CompletionTokensDetails`.

`hide_usage` drops the chunk that holds usage and no choice. The `"usage": null` that OpenAI then writes into all other
chunks stays as sent: every SDK reads absent and null alike, and rewriting each chunk would cost more than it gives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ext_proc.dialects import jsonbody
from ext_proc.dialects.base import BaseDialect
from ext_proc.dialects.content import PromptSize, count_server_tools
from ext_proc.dialects.ending import CutPoint, Ending
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.openai_usage import usage_from_counts
from ext_proc.dialects.sse import written
from ext_proc.dialects.tally import Needle, ResponseShape, object_at, text_keys
from ext_proc.dialects.usage_paths import UsageTable, paths

_USAGE = {
    "prompt": "prompt_tokens",
    "cache_read": "prompt_tokens_details.cached_tokens",
    "cache_write": "prompt_tokens_details.cache_write_tokens",
    "audio_in": "prompt_tokens_details.audio_tokens",
    "image_in": "prompt_tokens_details.image_tokens",
    "completion": "completion_tokens",
    "reasoning": "completion_tokens_details.reasoning_tokens",
    "audio_out": "completion_tokens_details.audio_tokens",
    "total": "total_tokens",
}

USAGE_TABLE = UsageTable(
    root="usage",
    counts=(
        *paths(_USAGE, below="x_groq.usage"),  # Groq's streams
        *paths({"cache_read": "prompt_cache_hit_tokens"}, below="usage"),  # DeepSeek
        *paths({"cache_read": "cached_tokens"}, below="usage"),  # Moonshot
        *paths(_USAGE, below="usage"),
    ),
    service_tier=(("service_tier",),),
)

LIMIT_FIELDS = ("max_completion_tokens", "max_tokens")
"""Both are in use; where a request has neither, OpenAI and those that follow it closely get the first."""

KNOWS_MAX_COMPLETION_TOKENS = frozenset({"", "openai", "azure-openai", "groq", "xai", "openrouter"})
USAGE_UNASKED = frozenset({"mistral"})
"""Providers whose streams end with usage anyway and that refuse `stream_options` as an unknown field."""

OVERHEAD_PER_REQUEST = 8
OVERHEAD_PER_MESSAGE = 8  # three or four on every model that publishes it, and one per name; doubled for templates
OVERHEAD_PER_TOOL = 16
LOCAL_TOOLS = frozenset({"function", "custom"})


def usage_only(document: Mapping[str, object]) -> bool:
    """The chunk OpenAI adds for `include_usage`: usage and not one choice."""
    return bool(document.get("usage")) and not document.get("choices")


DONE = Needle(b"[DONE]", re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]"))

_OF_EVERY_CHUNK = ("id", "object", "created", "model", "system_fingerprint", "service_tier")


def _end(point: CutPoint) -> bytes | None:
    """Every choice finishes with `length`; then the usage, where the client asked for it, and `[DONE]`."""
    latest = point.latest.get("choices")
    choices = [choice for choice in latest if isinstance(choice, dict)] if isinstance(latest, list) else []
    if not choices or any(choice.get("finish_reason") for choice in choices):
        return None
    head = {name: point.latest[name] for name in _OF_EVERY_CHUNK if name in point.latest}
    empty: dict[str, object] = {"delta": {}} if "delta" in choices[0] else {"text": ""}
    finished = [
        {"index": index, **empty, "logprobs": None, "finish_reason": "length"} for index in range(point.choices)
    ]
    usage = {
        "prompt_tokens": point.input_tokens,
        "completion_tokens": point.output_tokens,
        "total_tokens": point.input_tokens + point.output_tokens,
    }
    told = written({**head, "choices": [], "usage": usage}) if point.shows_usage else b""
    return written({**head, "choices": finished}) + told + b"data: [DONE]\n\n"


SHAPE = ResponseShape(
    table=USAGE_TABLE,
    usage_from_counts=usage_from_counts,
    output_count="completion",
    text=text_keys(
        "content", "reasoning_content", "reasoning", "refusal", "arguments", "text", "thinking", "transcript"
    ),
    terminal=DONE,
    watched=object_at("usage"),
    usage_only=usage_only,
    ending=Ending(latest=re.compile(rb'"choices"'), write=_end),
)


class OpenAIChat(BaseDialect):
    """`POST /v1/chat/completions`."""

    name = "openai-chat"
    default_account = "openai-main"
    shape = SHAPE

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body."""
        del path  # the model is in the body
        model = jsonbody.required_text(document, "model", "gpt-4o-mini")
        messages = jsonbody.required_items(document, "messages")
        tools = jsonbody.optional_items(document, "tools")
        size = _prompt_size(document, messages)
        size.external_inputs += count_server_tools(tools, LOCAL_TOOLS)
        size.external_inputs += document.get("web_search_options") is not None
        return RequestFacts(
            model=model,
            stream=jsonbody.optional_flag(document, "stream"),
            output_limit=output_limit(document),
            choices=jsonbody.optional_count(document, "n") or 1,
            prompt_bytes=size.text_bytes,
            overhead_tokens=(
                OVERHEAD_PER_REQUEST + OVERHEAD_PER_MESSAGE * len(messages) + OVERHEAD_PER_TOOL * len(tools)
            ),
            external_inputs=size.external_inputs,
            wants_usage=wants_usage(document),
            document=document,
            service_tier=jsonbody.optional_text(document, "service_tier"),
        )

    def limit_changes(self, facts: RequestFacts, limit: int, provider: str) -> Mapping[str, object]:
        """Every limit the request sets is lowered; one is added only where there is none."""
        present = [field for field in LIMIT_FIELDS if facts.document.get(field) is not None]
        added = LIMIT_FIELDS[0] if provider in KNOWS_MAX_COMPLETION_TOKENS else LIMIT_FIELDS[1]
        return dict.fromkeys(present or [added], limit)

    def usage_changes(self, facts: RequestFacts, provider: str) -> Mapping[str, object]:
        """`stream_options.include_usage`, merged into the client's other options."""
        return ask_for_usage(facts, provider)


def ask_for_usage(facts: RequestFacts, provider: str) -> Mapping[str, object]:
    """`stream_options` with `include_usage`, the client's other options kept; nothing where it would be refused."""
    if provider in USAGE_UNASKED:
        return {}
    options = jsonbody.optional_object(facts.document, "stream_options")
    return {"stream_options": {**options, "include_usage": True}}


def wants_usage(document: Mapping[str, object]) -> bool:
    """Whether the client itself asked for usage in the stream."""
    options = jsonbody.optional_object(document, "stream_options")
    return jsonbody.optional_flag(options, "include_usage", within="stream_options.")


def output_limit(document: Mapping[str, object]) -> int | None:
    """The larger where both are set: which of them a compatible server honours differs."""
    limits = [limit for field in LIMIT_FIELDS if (limit := jsonbody.optional_count(document, field)) is not None]
    return max(limits, default=None)


def _prompt_size(document: Mapping[str, object], messages: list[object]) -> PromptSize:
    size = PromptSize()
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise DialectError(f"messages[{index}]", f"is {jsonbody.kind(message)}; each message must be an object")
        for key, value in message.items():
            if key == "tool_calls":
                size.add_schema(value)
            elif key == "audio":
                size.external_inputs += value is not None
            else:
                size.add_content(value)
    for field in ("tools", "functions", "response_format", "prediction"):
        size.add_schema(document.get(field))
    return size
