"""The OpenAI SDK through Tollgate: a base URL and a key, and nothing else changed; or with tags by themselves."""

from __future__ import annotations

import os

from openai import OpenAI

from tollgate_client import OpenAI as TaggingOpenAI
from tollgate_client import headers

url, key = os.environ["TOLLGATE_URL"], os.environ["TOLLGATE_KEY"]
question = [{"role": "user", "content": "Say hello."}]

# The key says who pays.
plain = OpenAI(base_url=f"{url}/v1", api_key=key)
print(plain.chat.completions.create(model="gpt-4o-mini", messages=question).choices[0].message.content)

# The key, and what this is for; per request, where one process serves several purposes.
answer = plain.chat.completions.create(
    model="gpt-4o-mini", messages=question, extra_headers=headers(agent_step="greet", workflow_id="order-4711")
)
print(answer.choices[0].message.content)

# A drop-in client that reads TOLLGATE_URL and TOLLGATE_KEY and tags every request.
tagging = TaggingOpenAI(tags={"cost_center": "search"})
for event in tagging.chat.completions.create(model="gpt-4o-mini", messages=question, stream=True):
    if event.choices:
        print(event.choices[0].delta.content or "", end="")
print()
