"""`GET /v1/models`: a short catalogue. Requests may name any model at all."""

from __future__ import annotations

from ext_proc.mock_provider.shape import CREATED

OPENAI_MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "o4-mini")
ANTHROPIC_MODELS = ("claude-opus-4-7", "claude-sonnet-4-6", "claude-haiku-4-5")


def openai_model(model: str) -> dict[str, object]:
    """One model as OpenAI describes it."""
    return {"id": model, "object": "model", "created": CREATED, "owned_by": "tollgate-mock"}


def anthropic_model(model: str) -> dict[str, object]:
    """One model as Anthropic describes it."""
    return {"type": "model", "id": model, "display_name": model, "created_at": "2026-01-01T00:00:00Z"}


def models(*, anthropic: bool) -> dict[str, object]:
    """The list, in the shape of the asking SDK (Anthropic's sends `anthropic-version`)."""
    if anthropic:
        return {
            "data": [anthropic_model(model) for model in ANTHROPIC_MODELS],
            "has_more": False,
            "first_id": ANTHROPIC_MODELS[0],
            "last_id": ANTHROPIC_MODELS[-1],
        }
    return {"object": "list", "data": [openai_model(model) for model in OPENAI_MODELS]}
