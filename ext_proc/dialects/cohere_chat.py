"""Cohere chat, version 2. What is billed stands in `billed_units`, apart from the tokens the model really saw."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ext_proc.dialects import error_body, jsonbody
from ext_proc.dialects.base import BaseDialect
from ext_proc.dialects.content import PromptSize
from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.tally import Needle, ResponseShape, object_at, text_keys
from ext_proc.dialects.usage_paths import UsageTable, paths
from ext_proc.pricing.usage import Usage
from ext_proc.refusal import Refusal

_TOKENS = {"input": "input_tokens", "output": "output_tokens"}
_BILLED = {**_TOKENS, "searches": "search_units"}

USAGE_TABLE = UsageTable(
    root="usage",
    counts=(
        *paths(_TOKENS, below="delta.usage.tokens"),
        *paths(_TOKENS, below="usage.tokens"),
        *paths(_BILLED, below="delta.usage.billed_units"),
        *paths(_BILLED, below="usage.billed_units"),
    ),
    served_model=(),
)


def usage_from_counts(counts: Mapping[str, int]) -> Usage:
    """Billed counts are disjoint already."""
    return Usage(
        input_uncached=counts.get("input", 0),
        output=counts.get("output", 0),
        searches=counts.get("searches", 0),
        requests=1,
    )


SHAPE = ResponseShape(
    table=USAGE_TABLE,
    usage_from_counts=usage_from_counts,
    output_count="output",
    text=text_keys("text", "thinking", "arguments", "tool_plan"),
    terminal=Needle(b"message-end", re.compile(rb'"type"\s*:\s*"message-end"')),
    watched=object_at("usage"),
)


class CohereChat(BaseDialect):
    """`POST /v2/chat`."""

    name = "cohere-chat"
    default_account = "cohere-main"
    shape = SHAPE

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body. Documents given as text are read by the model, connectors bring their own."""
        del path  # the model is in the body
        messages = jsonbody.required_items(document, "messages")
        size = PromptSize()
        size.add_content(messages)
        for field in ("tools", "documents", "response_format"):
            size.add_schema(document.get(field))
        return RequestFacts(
            model=jsonbody.required_text(document, "model", "command-a-03-2025"),
            stream=jsonbody.optional_flag(document, "stream"),
            output_limit=jsonbody.optional_count(document, "max_tokens", least=0),
            choices=1,
            prompt_bytes=size.text_bytes,
            overhead_tokens=512 + 8 * len(messages),  # its templates open with a preamble of some hundred tokens
            external_inputs=size.external_inputs + len(jsonbody.optional_items(document, "connectors")),
            wants_usage=True,
            document=document,
        )

    def limit_changes(self, facts: RequestFacts, limit: int, provider: str) -> Mapping[str, object]:
        """`max_tokens`."""
        del facts, provider
        return {"max_tokens": limit}

    def error_body(self, refusal: Refusal) -> dict[str, object]:
        """The refusal in Cohere's shape."""
        return error_body.message(refusal)
