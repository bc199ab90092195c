"""The OpenAI SDK's clients, tagging by themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import openai

from tollgate_client.tags import headers


def _with_tags(arguments: dict[str, Any], tags: Mapping[str, str] | None) -> dict[str, Any]:
    own = dict(arguments.pop("default_headers", None) or {})
    url, key = os.environ.get("TOLLGATE_URL"), os.environ.get("TOLLGATE_KEY")
    if url and arguments.get("base_url") is None:
        arguments["base_url"] = f"{url.rstrip('/')}/v1"
    if key and arguments.get("api_key") is None:
        arguments["api_key"] = key
    return {**arguments, "default_headers": {**headers(**(tags or {})), **own}}


class OpenAI(openai.OpenAI):
    """`openai.OpenAI` with `tags`; where to call and the key also from TOLLGATE_URL and TOLLGATE_KEY."""

    def __init__(self, *, tags: Mapping[str, str] | None = None, **arguments: Any) -> None:  # noqa: ANN401  (the SDK's)
        super().__init__(**_with_tags(arguments, tags))


class AsyncOpenAI(openai.AsyncOpenAI):
    """`openai.AsyncOpenAI`, as `OpenAI`."""

    def __init__(self, *, tags: Mapping[str, str] | None = None, **arguments: Any) -> None:  # noqa: ANN401  (the SDK's)
        super().__init__(**_with_tags(arguments, tags))
