"""Which providers speak which dialects: a request is never sent to an API of another shape."""

from __future__ import annotations

from typing import Final

OPENAI_COMPATIBLE: Final = frozenset(
    {
        "openai",
        "azure-openai",
        "mistral",
        "groq",
        "together",
        "deepseek",
        "xai",
        "fireworks",
        "openrouter",
        "openai-compatible",
    }
)

_SPOKEN_BY: Final = {
    "openai": OPENAI_COMPATIBLE,
    "anthropic": frozenset({"anthropic"}),
    "azure": frozenset({"azure-openai"}),
    "gemini": frozenset({"gemini", "vertex"}),
    "vertex": frozenset({"vertex"}),
    "bedrock": frozenset({"bedrock"}),
    "mistral": frozenset({"mistral"}),
    "cohere": frozenset({"cohere"}),
    "rerank": frozenset({"cohere", "openai-compatible"}),
}
"""By the family a dialect's name starts with: `openai-chat`, `anthropic-messages`, …"""


def speaks(provider: str, dialect_name: str) -> bool:
    """Whether accounts of this provider understand this dialect."""
    return provider in _SPOKEN_BY.get(dialect_name.partition("-")[0], frozenset())


def families(provider: str) -> frozenset[str]:
    """The dialect families that accounts of this provider understand."""
    return frozenset(family for family, speakers in _SPOKEN_BY.items() if provider in speakers)
