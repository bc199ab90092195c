"""The batch APIs: paths at which many requests are handed in at once, to be answered and billed later.

What a batch will cost stands in what is handed in, and it is billed when no request is under way. The batches that can
be held are those of `batches.calls`; no other path here must pass by the way that harmless ones do.
"""

from __future__ import annotations

import re

from ext_proc.dialects.registry import upstream_of

_MODEL = r"[^/:]+"
_MADE_AT = (
    r"(?:/v1/(?:files|uploads|batches|messages/batches)"  # OpenAI and who follows it, Anthropic
    r"|/v1/(?:batch/jobs|embed-jobs|datasets)"  # Mistral, Cohere
    rf"|/v1(?:alpha|beta)?/models/{_MODEL}:(?:batch|asyncBatch)[A-Za-z]+"  # Gemini
    r"|(?:/upload)?/v1(?:alpha|beta)?/(?:files|batches)"
    r"|/v1(?:beta1)?/projects/[^/]+/locations/[^/]+/batchPredictionJobs"  # Vertex
    r"|/openai/(?:v1/)?(?:files|batches)"  # Azure
    r"|/model-invocation-job|/async-invoke)"  # Bedrock
)
_BATCH, _BELOW = re.compile(_MADE_AT), re.compile(_MADE_AT + r"(?:/.*)?")
_READING = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


def starts_batch(method: str, path: str) -> bool:
    """Whether a request hands in a batch, or a file for one. `path` is Envoy's `:path`."""
    return method not in _READING and _BATCH.fullmatch(upstream_of(path)) is not None


def belongs_to_batch(path: str) -> bool:
    """Whether a path is one of a batch API: where batches are made, or below."""
    return _BELOW.fullmatch(upstream_of(path)) is not None
