"""OpenAI chat completions, and the many servers that speak it (Azure, Mistral, vLLM, Ollama, Groq, DeepSeek, …).

Reported counts are inclusive: `prompt_tokens` holds cached, written and audio tokens, `completion_tokens` holds
reasoning, audio and rejected predictions (which are billed). Source: the `openai` SDK's types `CompletionUsage`,
`PromptTokensDetails` and `CompletionTokensDetails`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ext_proc.dialects import error_body, jsonbody
from ext_proc.dialects.content import PromptSize, count_tools_of_type
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import Meter, RequestFacts, Rewrite
from ext_proc.dialects.meter import make_meter
from ext_proc.dialects.tally import ResponseShape, key_pattern, text_pattern
from ext_proc.dialects.usage_paths import UsageTable, paths
from ext_proc.pricing.usage import Usage
from ext_proc.refusal import Refusal

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

_OVERHEAD_PER_REQUEST = 8
_OVERHEAD_PER_MESSAGE = 8  # three or four on every model that publishes it, and one per name; doubled for templates
_OVERHEAD_PER_TOOL = 16
_LOCAL_TOOLS = ("function", "custom")


class OpenAIChat:
    """`POST /v1/chat/completions`."""

    name = "openai-chat"
    operation = "chat"
    default_account = "openai-main"
    usage_table = USAGE_TABLE

    def read_request(self, body: bytes, *, path: str = "") -> RequestFacts:  # noqa: ARG002  # the model is in the body
        """Parse a request body. Raises `DialectError` naming the field and the cure."""
        document = jsonbody.parse(body)
        model = jsonbody.required_text(document, "model", "gpt-4o-mini")
        size = _prompt_size(document)
        tools, server_tools = count_tools_of_type(jsonbody.optional_items(document, "tools"), _LOCAL_TOOLS)
        searches = 1 if document.get("web_search_options") is not None else 0
        options = jsonbody.optional_object(document, "stream_options")
        messages = jsonbody.required_items(document, "messages")
        return RequestFacts(
            model=model,
            stream=jsonbody.optional_flag(document, "stream"),
            output_limit=_output_limit(document),
            choices=jsonbody.optional_count(document, "n") or 1,
            prompt_bytes=size.text_bytes,
            overhead_tokens=(
                _OVERHEAD_PER_REQUEST + _OVERHEAD_PER_MESSAGE * len(messages) + _OVERHEAD_PER_TOOL * tools
            ),
            external_inputs=size.external_inputs + server_tools + searches,
            wants_usage=jsonbody.optional_flag(options, "include_usage", within="stream_options."),
            document=document,
            service_tier=jsonbody.optional_text(document, "service_tier"),
        )

    def rewrite(self, facts: RequestFacts, rewrite: Rewrite) -> bytes | None:
        """The body with the changes applied, everything else preserved; None when nothing changes."""
        changes: dict[str, object] = {}
        if rewrite.model is not None and rewrite.model != facts.model:
            changes["model"] = rewrite.model
        if rewrite.output_limit is not None and rewrite.output_limit != facts.output_limit:
            present = [field for field in _LIMITS if facts.document.get(field) is not None]
            changes.update(dict.fromkeys(present or _LIMITS[:1], rewrite.output_limit))
        if rewrite.include_usage and facts.stream and not facts.wants_usage:
            options = jsonbody.optional_object(facts.document, "stream_options")
            changes["stream_options"] = {**options, "include_usage": True}
        return jsonbody.dump({**facts.document, **changes}) if changes else None

    def meter(self, *, content_type: str, content_encoding: str, hide_usage: bool) -> Meter:
        """A meter for one response.

        `hide_usage` drops the chunk that holds usage and no choice. The `"usage": null` that OpenAI then writes into
        all other chunks stays as sent: every SDK reads absent and null alike, and rewriting each chunk would cost more
        than it gives.
        """
        return make_meter(
            RESPONSE_SHAPE, content_type=content_type, content_encoding=content_encoding, hide_usage=hide_usage
        )

    def usage_from_counts(self, counts: Mapping[str, int]) -> Usage:
        """The normal form of what the paths of `usage_table` report."""
        return usage_from_counts(counts)

    def error_body(self, refusal: Refusal) -> dict[str, object]:
        """The refusal in OpenAI's shape."""
        return error_body.openai(refusal)


_LIMITS = ("max_completion_tokens", "max_tokens")


def usage_from_counts(counts: Mapping[str, int]) -> Usage:
    """Split inclusive counts into disjoint ones; every remainder is clamped at 0.

    `cache_write_tokens` is documented as unadjusted, so it may not exceed what is left of the prompt; audio and images
    are billed inside the uncached part only. xAI reports reasoning beside `completion_tokens`, not inside: its total
    gives it away.
    """
    prompt = counts.get("prompt", 0)
    total = counts.get("total", 0)
    completion = counts.get("completion", max(0, total - prompt) if total else 0)
    reasoning = counts.get("reasoning", 0)
    if reasoning and total == prompt + completion + reasoning:
        completion += reasoning
    cache_read = min(counts.get("cache_read", 0), prompt)
    cache_write = min(counts.get("cache_write", 0), prompt - cache_read)
    uncached = prompt - cache_read - cache_write
    audio_in = min(counts.get("audio_in", 0), uncached)
    image_in = min(counts.get("image_in", 0), uncached - audio_in)
    audio_out = min(counts.get("audio_out", 0), completion)
    output = completion - audio_out
    return Usage(
        input_uncached=uncached - audio_in - image_in,
        cache_read=cache_read,
        cache_write_5m=cache_write,
        audio_in=audio_in,
        image_in=image_in,
        output=output,
        reasoning=min(reasoning, output),
        audio_out=audio_out,
        requests=1,
    )


def _usage_only(document: Mapping[str, object]) -> bool:
    """The chunk OpenAI adds for `include_usage`: usage and not one choice."""
    return bool(document.get("usage")) and not document.get("choices")


RESPONSE_SHAPE = ResponseShape(
    table=USAGE_TABLE,
    usage_from_counts=usage_from_counts,
    output_count="completion",
    text=text_pattern(
        "content", "reasoning_content", "reasoning", "refusal", "arguments", "text", "thinking", "transcript"
    ),
    terminal=re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]"),
    watched=key_pattern("usage"),
    usage_only=_usage_only,
)


def _output_limit(document: Mapping[str, object]) -> int | None:
    """The larger where both are set: which of them a compatible server honours differs."""
    limits = [limit for field in _LIMITS if (limit := jsonbody.optional_count(document, field)) is not None]
    return max(limits, default=None)


def _prompt_size(document: Mapping[str, object]) -> PromptSize:
    size = PromptSize()
    for index, message in enumerate(jsonbody.required_items(document, "messages")):
        if not isinstance(message, dict):
            raise DialectError(f"messages[{index}]", f"is {jsonbody.kind(message)}; each message must be an object")
        size.add_content([value for key, value in message.items() if key not in {"audio", "tool_calls"}])
        if message.get("audio") is not None:
            size.external_inputs += 1
        size.add_schema(message.get("tool_calls"))
    for field in ("tools", "functions", "response_format", "prediction"):
        size.add_schema(document.get(field))
    return size
