"""A small file of public prices in the published form, for the tests that swap it."""

from __future__ import annotations

import json


def catalogue_json(*, input_mtok: object = 0.15, output_mtok: object = 0.6, model: str = "gpt-4o-mini") -> str:
    """One OpenAI model at these dollars per million tokens."""
    entry = {
        "id": model,
        "name": model,
        "match": {"equals": model},
        "context_window": 128_000,
        "prices": {"input_mtok": input_mtok, "output_mtok": output_mtok},
    }
    provider = {"id": "openai", "name": "OpenAI", "api_pattern": "https://api\\.openai\\.com", "models": [entry]}
    return json.dumps([provider])
