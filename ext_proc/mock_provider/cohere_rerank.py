"""Cohere rerank: a score for each document, billed by search units."""

from __future__ import annotations

from collections.abc import Mapping

from ext_proc.mock_provider.cohere_chat import CohereChat
from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.shape import Call, exactly


class CohereRerank(CohereChat):
    """`POST /v2/rerank`."""

    path = exactly("/v2/rerank")

    def check(self, document: Mapping[str, object]) -> None:
        """A request needs a model, a query and documents."""
        for name in ("model", "query", "documents"):
            if not document.get(name):
                raise MockRequestError(f"invalid request: {name} is required")

    def output_limit(self, document: Mapping[str, object]) -> int | None:
        """Nothing is generated."""
        del document
        return 0

    def plain(self, call: Call) -> dict[str, object]:
        """The documents, the last one first; a search unit where no number of searches was asked of the mock."""
        documents = call.document["documents"]
        number = len(documents) if isinstance(documents, list) else 1
        answer: dict[str, object] = {
            "id": call.id,
            "results": [{"index": at, "relevance_score": (at + 1) / number} for at in reversed(range(number))],
            "meta": {"api_version": {"version": "2"}},
        }
        if not call.behavior.no_usage:
            billed = {"search_units": max(1, call.counts.searches)}
            answer["meta"] = {"api_version": {"version": "2"}, "billed_units": billed}
        return answer
