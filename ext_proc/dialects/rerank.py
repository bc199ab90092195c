"""Rerank, as Cohere began it and Jina, Voyage and self-hosted servers follow it: billed per search unit or token."""

from __future__ import annotations

from collections.abc import Mapping

from ext_proc.dialects import error_body, jsonbody
from ext_proc.dialects.base import BaseDialect
from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.tally import NEVER, ResponseShape
from ext_proc.dialects.usage_paths import UsageTable, paths
from ext_proc.pricing.usage import Usage
from ext_proc.refusal import Refusal

USAGE_TABLE = UsageTable(
    root="meta",
    counts=(
        *paths({"tokens": "total_tokens"}, below="usage"),  # Jina, Voyage, vLLM
        *paths({"tokens": "tokens.input_tokens"}, below="meta"),
        *paths({"tokens": "input_tokens", "searches": "search_units"}, below="meta.billed_units"),
    ),
)


def usage_from_counts(counts: Mapping[str, int]) -> Usage:
    """Search units where they are what is billed (the price per request is one unit's), else the tokens read."""
    units = counts.get("searches", 0)
    return Usage(input_uncached=0 if units else counts.get("tokens", 0), requests=max(1, units))


_CHUNKS_PER_UNIT = 100
_CHUNK_BYTES = 1_250
"""Cohere's search unit is one query with up to 100 documents; a document that passes 500 tokens with its query is cut
into chunks that count each. So many tokens are at least so many bytes of nearly all text."""


def _chunks(query: str, document: object) -> int:
    text = document if isinstance(document, str) else str(document)
    return -(-(jsonbody.utf8_bytes(query) + jsonbody.utf8_bytes(text)) // _CHUNK_BYTES)


class Rerank(BaseDialect):
    """`POST /v1/rerank` and `/v2/rerank`."""

    name = "rerank"
    operation = "rerank"
    default_account = "cohere-main"
    shape = ResponseShape(
        table=USAGE_TABLE,
        usage_from_counts=usage_from_counts,
        output_count=None,
        text=(),
        terminal=NEVER,
        watched=NEVER,
    )

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body. The query is read once with every document."""
        del path  # the model is in the body
        query = jsonbody.required_text(document, "query", "what is the capital of Switzerland?")
        documents = jsonbody.required_items(document, "documents")
        read = len(jsonbody.dump({"": documents})) + len(documents) * jsonbody.utf8_bytes(query)
        units = -(-sum(_chunks(query, one) for one in documents) // _CHUNKS_PER_UNIT)
        return RequestFacts(
            model=jsonbody.required_text(document, "model", "rerank-v3.5"),
            stream=False,
            output_limit=0,
            choices=1,
            prompt_bytes=read,
            overhead_tokens=4 * len(documents),
            external_inputs=0,
            wants_usage=True,
            document=document,
            units=Usage(requests=units - 1),  # the first is held with the request itself
        )

    def error_body(self, refusal: Refusal) -> dict[str, object]:
        """The refusal in Cohere's shape."""
        return error_body.message(refusal)
