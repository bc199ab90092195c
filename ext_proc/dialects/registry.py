"""Which dialect speaks at which path. A path that is not here is not understood, and refused by default."""

from __future__ import annotations

from ext_proc.dialects.anthropic_messages import AnthropicMessages
from ext_proc.dialects.interface import Dialect, Endpoint
from ext_proc.dialects.openai_chat import OpenAIChat

BASE_PATHS = ("/api/llm/api/inference/openai", "/api/inference/openai", "/api/llm")
"""TrueFoundry's base paths, longest first: clients that come from there keep them."""

_OPENAI_CHAT = OpenAIChat()
_ANTHROPIC_MESSAGES = AnthropicMessages()

_DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (_OPENAI_CHAT, _ANTHROPIC_MESSAGES)}

_POST: dict[str, Dialect] = {
    "/v1/chat/completions": _OPENAI_CHAT,
    "/v1/messages": _ANTHROPIC_MESSAGES,
}


def resolve(method: str, path: str) -> Endpoint | None:
    """The endpoint of a request, None when it is not understood. `path` is Envoy's `:path`, query string included."""
    if method != "POST":
        return None
    plain, question, query = path.partition("?")
    upstream = _without_base(plain)
    dialect = _POST.get(upstream)
    return Endpoint(dialect, upstream + question + query) if dialect else None


def dialect(name: str) -> Dialect:
    """The dialect of a ticket. Raises KeyError for a name that none has."""
    return _DIALECTS[name]


def dialect_names() -> tuple[str, ...]:
    """Every dialect."""
    return tuple(_DIALECTS)


def dialect_for_path(path: str) -> Dialect:
    """The best guess at what a caller of this path speaks: for shaping errors only."""
    return _ANTHROPIC_MESSAGES if "/messages" in path.partition("?")[0] else _OPENAI_CHAT


def _without_base(path: str) -> str:
    """The provider's own path: a base path is taken off, and the `/v1` it stands for put in its place."""
    for base in BASE_PATHS:
        if path.startswith(base + "/"):
            rest = path.removeprefix(base)
            return rest if rest.startswith("/v1/") else "/v1" + rest
    return path
