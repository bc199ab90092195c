"""OpenAI embeddings, and the servers that speak it. There is no output to bill; usage is a prompt count alone."""

from __future__ import annotations

from ext_proc.dialects import jsonbody
from ext_proc.dialects.base import BaseDialect
from ext_proc.dialects.content import read_text_input
from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.openai_usage import usage_from_counts
from ext_proc.dialects.tally import NEVER, ResponseShape, object_at
from ext_proc.dialects.usage_paths import UsageTable, paths

USAGE_TABLE = UsageTable(root="usage", counts=paths({"prompt": "prompt_tokens"}, below="usage"))

SHAPE = ResponseShape(
    table=USAGE_TABLE,
    usage_from_counts=usage_from_counts,
    output_count=None,
    text=(),
    terminal=NEVER,
    watched=object_at("usage"),
)


_VECTOR_MAX = 4096
"""Elements of the longest vectors in use; OpenAI's have 3072."""

_BYTES_PER_ELEMENT = 24  # of JSON: a double with its sign, exponent and comma


class OpenAIEmbeddings(BaseDialect):
    """`POST /v1/embeddings`."""

    name = "openai-embeddings"
    operation = "embeddings"
    default_account = "openai-main"
    shape = SHAPE

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body."""
        del path  # the model is in the body
        texts = read_text_input(document, "input")
        return RequestFacts(
            model=jsonbody.required_text(document, "model", "text-embedding-3-small"),
            stream=False,
            output_limit=0,
            choices=1,
            prompt_bytes=texts.text_bytes,
            overhead_tokens=texts.tokens + 2 * texts.texts,
            external_inputs=0,
            wants_usage=True,
            document=document,
        )

    def native_answer_bytes(self, facts: RequestFacts, output_limit: int) -> int | None:
        """A vector for each text."""
        del output_limit
        texts = read_text_input(facts.document, "input").texts
        return texts * max(_VECTOR_MAX, jsonbody.optional_count(facts.document, "dimensions") or 0) * _BYTES_PER_ELEMENT
