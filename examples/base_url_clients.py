"""Clients that take a base URL, a key and headers: LangChain, LlamaIndex, LiteLLM and their like.

from langchain_openai import ChatOpenAI
model = ChatOpenAI(model="gpt-4o-mini", **openai_style())

from langchain_anthropic import ChatAnthropic
model = ChatAnthropic(model="claude-sonnet-4-6", **anthropic_style())
"""

from __future__ import annotations

import os
from typing import Any

from tollgate_client import headers


def openai_style(**tags: str) -> dict[str, Any]:
    """For clients that speak OpenAI's dialect."""
    return {
        "base_url": f"{os.environ['TOLLGATE_URL']}/v1",
        "api_key": os.environ["TOLLGATE_KEY"],
        "default_headers": headers(**tags),
    }


def anthropic_style(**tags: str) -> dict[str, Any]:
    """For clients that speak Anthropic's dialect."""
    return {
        "base_url": os.environ["TOLLGATE_URL"],
        "api_key": os.environ["TOLLGATE_KEY"],
        "default_headers": headers(**tags),
    }


if __name__ == "__main__":
    import httpx

    arguments = openai_style(cost_center="search")
    answer = httpx.post(
        f"{arguments['base_url']}/chat/completions",
        headers={"authorization": f"Bearer {arguments['api_key']}", **arguments["default_headers"]},
        json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]},
    )
    print(answer.raise_for_status().json()["choices"][0]["message"]["content"])
