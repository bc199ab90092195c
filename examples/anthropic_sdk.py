"""The Anthropic SDK through Tollgate: a base URL and a key, and nothing else changed; or with tags by themselves."""

from __future__ import annotations

import os

from anthropic import Anthropic

from tollgate_client import Anthropic as TaggingAnthropic

url, key = os.environ["TOLLGATE_URL"], os.environ["TOLLGATE_KEY"]
question = [{"role": "user", "content": "Say hello."}]

plain = Anthropic(base_url=url, api_key=key)
print(plain.messages.create(model="claude-sonnet-4-6", max_tokens=64, messages=question).content[0].text)

tagging = TaggingAnthropic(tags={"cost_center": "search", "agent_step": "greet"})
with tagging.messages.stream(model="claude-sonnet-4-6", max_tokens=64, messages=question) as stream:
    for text in stream.text_stream:
        print(text, end="")
print()
