"""Which dialect speaks at which path. A path that is not here is not understood, and refused by default."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

from ext_proc.dialects.anthropic_messages import AnthropicCountTokens, AnthropicMessages
from ext_proc.dialects.azure import AzureChat, AzureCompletions, AzureEmbeddings
from ext_proc.dialects.bedrock_converse import BedrockConverse
from ext_proc.dialects.bedrock_invoke import BedrockInvoke
from ext_proc.dialects.cohere_chat import CohereChat
from ext_proc.dialects.gemini import Gemini, GeminiCountTokens
from ext_proc.dialects.interface import Dialect, Endpoint
from ext_proc.dialects.openai_chat import OpenAIChat
from ext_proc.dialects.openai_completions import OpenAICompletions
from ext_proc.dialects.openai_embeddings import OpenAIEmbeddings
from ext_proc.dialects.openai_images import OpenAIImages
from ext_proc.dialects.openai_responses import OpenAIResponses
from ext_proc.dialects.openai_speech import OpenAISpeech
from ext_proc.dialects.openai_transcriptions import OpenAITranscriptions
from ext_proc.dialects.rerank import Rerank
from ext_proc.dialects.usage_paths import UsageTable
from ext_proc.dialects.vertex import VertexAnthropic, VertexGemini

BASE_PATHS = ("/api/llm/api/inference/openai", "/api/inference/openai", "/api/llm")
"""TrueFoundry's base paths, longest first: clients that come from there keep them."""

_RERANK, _IMAGES, _TRANSCRIPTIONS = Rerank(), OpenAIImages(), OpenAITranscriptions()

_AT: dict[str, Dialect] = {
    "/v1/chat/completions": OpenAIChat(),
    "/v1/responses": OpenAIResponses(),
    "/v1/completions": OpenAICompletions(),
    "/v1/embeddings": OpenAIEmbeddings(),
    "/v1/images/generations": _IMAGES,
    "/v1/images/edits": _IMAGES,
    "/v1/audio/transcriptions": _TRANSCRIPTIONS,
    "/v1/audio/translations": _TRANSCRIPTIONS,
    "/v1/audio/speech": OpenAISpeech(),
    "/v1/messages": AnthropicMessages(),
    "/v1/messages/count_tokens": AnthropicCountTokens(),
    "/v2/chat": CohereChat(),
    "/v1/rerank": _RERANK,
    "/v2/rerank": _RERANK,
}
"""Every POST path whose model stands in the body."""

_VERTEX = r"/v1(?:beta1)?/projects/[^/]+/locations/[^/]+"

_LIKE: tuple[tuple[re.Pattern[str], Dialect], ...] = tuple(
    (re.compile(pattern), speaker)
    for pattern, speaker in (
        (r"/v1(?:alpha|beta)?/(?:models|tunedModels)/[^:]+:(?:stream)?[gG]enerateContent", Gemini()),
        (r"/v1(?:alpha|beta)?/(?:models|tunedModels)/[^:]+:countTokens", GeminiCountTokens()),
        (_VERTEX + r"/(?:publishers/google/models|endpoints)/[^:]+:(?:stream)?[gG]enerateContent", VertexGemini()),
        (_VERTEX + r"/publishers/anthropic/models/[^:]+:(?:stream)?[rR]awPredict", VertexAnthropic()),
        (r"/model/.+/converse(?:-stream)?", BedrockConverse()),
        (r"/model/.+/invoke(?:-with-response-stream)?", BedrockInvoke()),
        (r"/openai/deployments/[^/]+/chat/completions", AzureChat()),
        (r"/openai/deployments/[^/]+/completions", AzureCompletions()),
        (r"/openai/deployments/[^/]+/embeddings", AzureEmbeddings()),
    )
)
"""Every POST path that names the model itself, to be matched as a whole."""

_DIALECTS: dict[str, Dialect] = {
    speaker.name: speaker for speaker in (*_AT.values(), *(speaker for _, speaker in _LIKE))
}

_PATHS_KEPT = 1_024
_VERSIONED = re.compile(r"/(?:v\d|model/|openai/)")
_ODD = re.compile(r"//|/\.{1,2}(?:/|$)|%2e|\\", re.IGNORECASE)  # what another reader could resolve to another path
_KEY_PARAMETER = re.compile(r"(?:^|&)key=[^&]*")


def resolve(method: str, path: str) -> Endpoint | None:
    """The endpoint of a request, None when it is not understood. `path` is Envoy's `:path`, query string included.

    Google's clients may send their credential as the parameter `key`: it goes no further.
    """
    if method != "POST":
        return None
    plain, _, query = path.partition("?")
    found = _found(plain)
    if found is None:
        return None
    speaker, upstream = found
    query = _KEY_PARAMETER.sub("", query).lstrip("&")
    return Endpoint(speaker, f"{upstream}?{query}" if query else upstream)


@lru_cache(maxsize=_PATHS_KEPT)
def _found(plain: str) -> tuple[Dialect, str] | None:
    """Who speaks at a path without its query, and the provider's own path."""
    upstream = without_base(plain)
    if _ODD.search(upstream):
        return None
    speaker = _AT.get(upstream) or next((found for like, found in _LIKE if like.fullmatch(upstream)), None)
    return None if speaker is None else (speaker, upstream)


def upstream_of(path: str) -> str:
    """The provider's own path of any request, as the provider reads it: no base path, no query, escapes undone."""
    return unquote(without_base(path.partition("?")[0])).rstrip("/")


def dialect(name: str) -> Dialect:
    """The dialect of a ticket. Raises KeyError for a name that none has."""
    return _DIALECTS[name]


def dialect_names() -> tuple[str, ...]:
    """Every dialect."""
    return tuple(_DIALECTS)


def native_tables() -> tuple[UsageTable, ...]:
    """The usage tables of all dialects whose answers Envoy's own parsers can read."""
    return tuple(dict.fromkeys(speaker.usage_table for speaker in _DIALECTS.values() if speaker.is_native))


def dialect_for_path(path: str) -> Dialect:
    """The best guess at what a caller of this path speaks: for shaping errors only."""
    endpoint = resolve("POST", path)
    if endpoint is not None:
        return endpoint.dialect
    plain = without_base(path.partition("?")[0])
    if "/messages" in plain:
        return _DIALECTS["anthropic-messages"]
    if re.match(r"/v1(?:alpha|beta)\d?/|/v1/(?:models/[^/]+:|projects/)", plain):
        return _DIALECTS["gemini"]
    if plain.startswith("/model/"):
        return _DIALECTS["bedrock-converse"]
    return _DIALECTS["openai-chat"]


def without_base(path: str) -> str:
    """The provider's own path: a base path is taken off, and the `/v1` it stands for put in its place."""
    for base in BASE_PATHS:
        if path.startswith(base + "/"):
            rest = path.removeprefix(base)
            return rest if _VERSIONED.match(rest) else "/v1" + rest
    return path
