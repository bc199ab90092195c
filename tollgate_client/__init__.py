"""Tags for requests through Tollgate, and the official SDKs' clients that send them by themselves.

    from tollgate_client import headers

    requests.post(url, headers=headers(cost_center="search"), json=…)

    from tollgate_client import OpenAI          # or Anthropic: drop-in, needs the `openai` or `anthropic` package

    client = OpenAI(tags={"cost_center": "search"})

Tags come from, low to high: the CI system the process runs in, the variable TOLLGATE_TAGS (a JSON object, or
`key=value,key=value`), and the caller. `run_id` is this process's own where CI has none, and `workflow_id` is the run's
where nobody names one. TOLLGATE_URL and TOLLGATE_KEY say where to call and with which key.

Only the standard library is imported until a client class is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tollgate_client.tags import HEADER, header_value, headers, tags

if TYPE_CHECKING:
    from tollgate_client.anthropic_client import Anthropic, AsyncAnthropic
    from tollgate_client.openai_client import AsyncOpenAI, OpenAI

__all__ = ["HEADER", "Anthropic", "AsyncAnthropic", "AsyncOpenAI", "OpenAI", "header_value", "headers", "tags"]

_CLIENTS = {
    "OpenAI": "tollgate_client.openai_client",
    "AsyncOpenAI": "tollgate_client.openai_client",
    "Anthropic": "tollgate_client.anthropic_client",
    "AsyncAnthropic": "tollgate_client.anthropic_client",
}


def __getattr__(name: str) -> object:
    """The client classes, imported when they are asked for: each needs its SDK."""
    module = _CLIENTS.get(name)
    if module is None:
        raise AttributeError(f"module 'tollgate_client' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  (most users of this package need no SDK)

    return getattr(import_module(module), name)
