"""OpenAI embeddings: one vector per text, as numbers or as base64, and a usage of prompt tokens alone."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping

from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.openai_chat import OpenAIChat
from ext_proc.mock_provider.shape import Call, exactly

_DIMENSIONS = 8
_DIMENSIONS_MAX = 4_096


class OpenAIEmbeddings(OpenAIChat):
    """`POST /v1/embeddings`."""

    path = exactly("/v1/embeddings")

    def check(self, document: Mapping[str, object]) -> None:
        """A request needs a model and an input."""
        if not isinstance(document.get("model"), str):
            raise MockRequestError("you must provide a model parameter")
        if not document.get("input"):
            raise MockRequestError("'input' must be a text or a list of texts")
        if document.get("stream"):
            raise MockRequestError("embeddings cannot be streamed")

    def output_limit(self, document: Mapping[str, object]) -> int | None:
        """Nothing is generated."""
        del document
        return 0

    def plain(self, call: Call) -> dict[str, object]:
        """A `list` of vectors."""
        answer: dict[str, object] = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _vector(call, index)}
                for index in range(_texts(call.document))
            ],
            "model": call.model,
        }
        if not call.behavior.no_usage:
            answer["usage"] = {"prompt_tokens": call.counts.input, "total_tokens": call.counts.input}
        return answer


def _texts(document: Mapping[str, object]) -> int:
    """How many texts: a list of numbers is one text, as tokens."""
    given = document["input"]
    is_batch = isinstance(given, list) and not isinstance(given[0], int)
    return len(given) if is_batch and isinstance(given, list) else 1


def _vector(call: Call, index: int) -> object:
    asked = call.document.get("dimensions")
    size = min(asked, _DIMENSIONS_MAX) if isinstance(asked, int) else _DIMENSIONS
    numbers = [(index + 1) / (place + 1) / 16 for place in range(size)]
    if call.document.get("encoding_format") == "base64":
        return base64.b64encode(struct.pack(f"<{size}f", *numbers)).decode()
    return numbers
