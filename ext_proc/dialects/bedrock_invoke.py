"""Bedrock invoke and invoke-with-response-stream: each model family's own bodies.

Anthropic's are read as messages; other families' requests are bounded by their whole body and the limit they set.
Every stream's last event carries `amazon-bedrock-invocationMetrics`, whatever the family; its counts fill what the
family itself does not report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ext_proc.dialects import anthropic_messages, error_body, jsonbody
from ext_proc.dialects.anthropic_messages import unreachable_kinds
from ext_proc.dialects.base import BaseDialect
from ext_proc.dialects.bedrock_converse import MODEL_IN_PATH
from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.tally import Needle, ResponseShape, text_keys
from ext_proc.dialects.usage_paths import UsageTable, dig, paths
from ext_proc.refusal import Refusal

_METRICS = {
    "input": "inputTokenCount",
    "output": "outputTokenCount",
    "cache_read": "cacheReadInputTokenCount",
    "cache_write": "cacheWriteInputTokenCount",
}
_NOVA = {
    "input": "inputTokens",
    "output": "outputTokens",
    "cache_read": "cacheReadInputTokenCount",
    "cache_write": "cacheWriteInputTokenCount",
}
_LLAMA = {"input": "prompt_token_count", "output": "generation_token_count"}
_OPENAI = {"input": "prompt_tokens", "output": "completion_tokens"}

USAGE_TABLE = UsageTable(
    root="usage",
    counts=(
        *paths({"input": "inputTextTokenCount"}, below=""),  # Titan
        *paths(_METRICS, below="amazon-bedrock-invocationMetrics"),
        *paths(_LLAMA, below=""),
        *paths(_NOVA, below="usage"),
        *paths(_NOVA, below="metadata.usage"),
        *paths(_OPENAI, below="usage"),
        *anthropic_messages.USAGE_TABLE.counts,
    ),
    served_model=anthropic_messages.USAGE_TABLE.served_model,
    service_tier=anthropic_messages.USAGE_TABLE.service_tier,
)

SHAPE = ResponseShape(
    table=USAGE_TABLE,
    usage_from_counts=anthropic_messages.usage_from_counts,
    output_count="output",
    text=text_keys("text", "thinking", "partial_json", "generation", "outputText", "content", "reasoning_content"),
    terminal=Needle(b'"', re.compile(rb'"amazon-bedrock-invocationMetrics"\s*:|"type"\s*:\s*"message_stop"')),
    watched=Needle(
        b'"', re.compile(rb'"(?:usage|amazon-bedrock-invocationMetrics)"\s*:\s*\{|"prompt_token_count"\s*:\s*\d')
    ),
)

_LIMITS = (
    ("max_tokens",),
    ("max_gen_len",),
    ("max_tokens_to_sample",),
    ("max_completion_tokens",),
    ("inferenceConfig", "maxTokens"),
    ("inferenceConfig", "max_new_tokens"),
    ("textGenerationConfig", "maxTokenCount"),
)


class BedrockInvoke(BaseDialect):
    """`POST /model/{modelId}/invoke` and `/invoke-with-response-stream`."""

    name = "bedrock-invoke"
    default_account = "bedrock-main"
    shape = SHAPE
    path_model = MODEL_IN_PATH
    speaks_json = False  # streams are binary, and every family of models has a shape of its own

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body."""
        model = self.model_in_path(path)
        stream = path.partition("?")[0].endswith("-stream")
        if "anthropic_version" in document and "messages" in document:
            most = anthropic_messages.required_limit(document)
            return anthropic_messages.messages_facts(document, model=model, limit=most, stream=stream)
        limits = [limit for place in _LIMITS if (limit := _limit_at(document, place)) is not None]
        return RequestFacts(
            model=model,
            stream=stream,
            output_limit=max(limits, default=None),
            choices=1,
            prompt_bytes=len(jsonbody.dump(document)),
            overhead_tokens=16,
            external_inputs=0,
            wants_usage=True,
            document=document,
        )

    def unreachable_kinds(self, body: bytes) -> frozenset[str]:
        """Cache writes that the body does not ask for."""
        return unreachable_kinds(body, b'"cache')

    def limit_changes(self, facts: RequestFacts, limit: int, provider: str) -> Mapping[str, object]:
        """Every limit the request sets is lowered. Where it sets none, which field its family knows is not guessed."""
        del provider
        changes: dict[str, object] = {}
        for place in _LIMITS:
            if dig(facts.document, place) is None:
                continue
            if len(place) == 1:
                changes[place[0]] = limit
            else:
                held = changes.get(place[0], facts.document[place[0]])
                assert isinstance(held, dict), "the limit was found inside it"
                changes[place[0]] = {**held, place[1]: limit}
        return changes

    def error_body(self, refusal: Refusal) -> dict[str, object]:
        """The refusal in AWS's shape."""
        return error_body.message(refusal)


def _limit_at(document: Mapping[str, object], place: tuple[str, ...]) -> int | None:
    holder = dig(document, place[:-1])
    if not isinstance(holder, dict):
        return None
    return jsonbody.optional_count(holder, place[-1], within="".join(f"{key}." for key in place[:-1]), least=0)
