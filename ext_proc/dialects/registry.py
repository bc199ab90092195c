"""Which dialect speaks at which path. A path that is not here is not understood, and refused by default."""

from __future__ import annotations

import re

from ext_proc.dialects.anthropic_messages import AnthropicCountTokens, AnthropicMessages
from ext_proc.dialects.interface import Dialect, Endpoint
from ext_proc.dialects.openai_chat import OpenAIChat
from ext_proc.dialects.openai_completions import OpenAICompletions
from ext_proc.dialects.openai_embeddings import OpenAIEmbeddings
from ext_proc.dialects.openai_responses import OpenAIResponses

BASE_PATHS = ("/api/llm/api/inference/openai", "/api/inference/openai", "/api/llm")
"""TrueFoundry's base paths, longest first: clients that come from there keep them."""

_AT: dict[str, Dialect] = {
    "/v1/chat/completions": OpenAIChat(),
    "/v1/responses": OpenAIResponses(),
    "/v1/completions": OpenAICompletions(),
    "/v1/embeddings": OpenAIEmbeddings(),
    "/v1/messages": AnthropicMessages(),
    "/v1/messages/count_tokens": AnthropicCountTokens(),
}
"""Every POST path whose model stands in the body."""

_DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in _AT.values()}

_VERSIONED = re.compile(r"/v\d+(?:alpha|beta)?\d*/")


def resolve(method: str, path: str) -> Endpoint | None:
    """The endpoint of a request, None when it is not understood. `path` is Envoy's `:path`, query string included."""
    if method != "POST":
        return None
    plain, question, query = path.partition("?")
    upstream = _without_base(plain)
    dialect = _AT.get(upstream)
    return Endpoint(dialect, upstream + question + query) if dialect else None


def dialect(name: str) -> Dialect:
    """The dialect of a ticket. Raises KeyError for a name that none has."""
    return _DIALECTS[name]


def dialect_names() -> tuple[str, ...]:
    """Every dialect."""
    return tuple(_DIALECTS)


def dialect_for_path(path: str) -> Dialect:
    """The best guess at what a caller of this path speaks: for shaping errors only."""
    plain = path.partition("?")[0]
    return _DIALECTS["anthropic-messages" if "/messages" in plain else "openai-chat"]


def _without_base(path: str) -> str:
    """The provider's own path: a base path is taken off, and the `/v1` it stands for put in its place."""
    for base in BASE_PATHS:
        if path.startswith(base + "/"):
            rest = path.removeprefix(base)
            return rest if _VERSIONED.match(rest) else "/v1" + rest
    return path
