"""Bedrock converse and converse-stream.

`inputTokens` excludes cache reads and writes, `totalTokens` includes them. A stream is a binary event stream whose last
event, `metadata`, carries the usage. Responses do not name the model: the request's is what served. Source: the Bedrock
API reference, `TokenUsage` and `ConverseStreamMetadataEvent`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ext_proc.dialects import error_body, jsonbody
from ext_proc.dialects.anthropic_messages import unreachable_kinds, usage_from_counts
from ext_proc.dialects.base import BaseDialect
from ext_proc.dialects.content import PromptSize
from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.tally import Needle, ResponseShape, object_at, text_keys
from ext_proc.dialects.usage_paths import UsageTable, paths
from ext_proc.refusal import Refusal

USAGE_TABLE = UsageTable(
    root="usage",
    counts=paths(
        {
            "input": "inputTokens",
            "cache_read": "cacheReadInputTokens",
            "cache_write": "cacheWriteInputTokens",
            "cache_write_5m": "cacheDetails.ttl=5m.inputTokens",
            "cache_write_1h": "cacheDetails.ttl=1h.inputTokens",
            "output": "outputTokens",
        },
        below="usage",
    ),
    served_model=(),
    service_tier=(("serviceTier", "type"),),
)

SHAPE = ResponseShape(
    table=USAGE_TABLE,
    usage_from_counts=usage_from_counts,
    output_count="output",
    text=text_keys("text", "input"),
    terminal=Needle(b"metadata", re.compile(rb":event-type\x07\x00\x08metadata")),
    watched=object_at("usage"),
)

MODEL_IN_PATH = re.compile(r"/model/(?P<model>[^?]+)/(?:converse|invoke|count-tokens)")

_OVERHEAD_PER_REQUEST = 16
_OVERHEAD_PER_MESSAGE = 8
_OVERHEAD_OF_TOOLS = 530  # as for Anthropic, whose models are the dearest there


class BedrockConverse(BaseDialect):
    """`POST /model/{modelId}/converse` and `/converse-stream`."""

    name = "bedrock-converse"
    default_account = "bedrock-main"
    shape = SHAPE
    path_model = MODEL_IN_PATH

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body."""
        config = jsonbody.optional_object(document, "inferenceConfig")
        extra = jsonbody.optional_object(document, "additionalModelRequestFields")
        messages = jsonbody.optional_items(document, "messages")
        tools = jsonbody.optional_items(jsonbody.optional_object(document, "toolConfig"), "tools")
        size = PromptSize()
        for content in (document.get("system"), document.get("promptVariables"), *messages):
            size.add_content(content)
        size.add_schema(tools)
        size.external_inputs += document.get("promptVariables") is not None  # the prompt itself is stored
        limits = (
            jsonbody.optional_count(config, "maxTokens", within="inferenceConfig."),
            jsonbody.optional_count(extra, "max_tokens", within="additionalModelRequestFields."),
        )
        return RequestFacts(
            model=self.model_in_path(path),
            stream=path.partition("?")[0].endswith("/converse-stream"),
            output_limit=max((limit for limit in limits if limit is not None), default=None),
            choices=1,
            prompt_bytes=size.text_bytes,
            overhead_tokens=(
                _OVERHEAD_PER_REQUEST + _OVERHEAD_PER_MESSAGE * len(messages) + (_OVERHEAD_OF_TOOLS if tools else 0)
            ),
            external_inputs=size.external_inputs,
            wants_usage=True,
            document=document,
        )

    def unreachable_kinds(self, body: bytes) -> frozenset[str]:
        """Cache writes that the body does not ask for."""
        return unreachable_kinds(body, b'"cachePoint"')

    def limit_changes(self, facts: RequestFacts, limit: int, provider: str) -> Mapping[str, object]:
        """`inferenceConfig.maxTokens`, and the model's own field where the request sets that too."""
        del provider
        config = jsonbody.optional_object(facts.document, "inferenceConfig")
        extra = jsonbody.optional_object(facts.document, "additionalModelRequestFields")
        changes: dict[str, object] = {"inferenceConfig": {**config, "maxTokens": limit}}
        if extra.get("max_tokens") is not None:
            changes["additionalModelRequestFields"] = {**extra, "max_tokens": limit}
        return changes

    def error_body(self, refusal: Refusal) -> dict[str, object]:
        """The refusal in AWS's shape."""
        return error_body.message(refusal)
