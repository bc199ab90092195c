"""The tag header: where its tags come from, and how they are made to fit what the gateway accepts."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping

from tollgate_client.ci import ci_tags

HEADER = "x-tfy-metadata"
TAGS_VARIABLE = "TOLLGATE_TAGS"

_VALUE_CHARS = 128
_PROCESS_RUN = f"run-{secrets.token_hex(6)}"
"""The run of this process, where no CI system names one: all its requests are one workflow."""


def tags(**own: str | None) -> dict[str, str]:
    """The tags of this process: CI system < TOLLGATE_TAGS < `own`; None leaves one out. Raises ValueError for a
    TOLLGATE_TAGS that cannot be read.
    """
    return {"run_id": _PROCESS_RUN, "workflow_id": _PROCESS_RUN, **merged_tags(os.environ, own)}


def merged_tags(environment: Mapping[str, str], own: Mapping[str, str | None]) -> dict[str, str]:
    """As `tags`, of any environment, and without a run of the process's own."""
    merged = {**ci_tags(environment), **_written(environment.get(TAGS_VARIABLE, "")), **own}
    return {name: _fitting(value) for name, value in merged.items() if value}


def header_value(found: Mapping[str, str]) -> str:
    """Tags as the header's value: ASCII, so that every HTTP client can send it."""
    return json.dumps(dict(found), separators=(", ", ": "))


def headers(**own: str | None) -> dict[str, str]:
    """The header to send with every request: `headers(cost_center="search")`."""
    return {HEADER: header_value(tags(**own))}


def _written(text: str) -> dict[str, str]:
    text = text.strip()
    if not text:
        return {}
    if text.startswith("{"):
        document = json.loads(text)
        if not all(isinstance(value, str) for value in document.values()):
            raise ValueError(f"{TAGS_VARIABLE}: every value must be a text")
        return dict(document)
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(key.strip() and equals for key, equals, _ in pairs):
        raise ValueError(f"{TAGS_VARIABLE}: expected a JSON object, or key=value,key=value")
    return {key.strip(): value.strip() for key, _, value in pairs}


def _fitting(value: str) -> str:
    """A value the gateway takes: branch and step names may be longer, or hold what cannot be printed."""
    return "".join(char if char.isprintable() else " " for char in value)[:_VALUE_CHARS]
