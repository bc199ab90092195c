"""What the end-to-end tests share: requests through the gateway, and polling of the books until they say something."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import anthropic
import httpx
import openai
import pytest

from tests.canary import CLIENT_KEY
from tests.stack_fixture import RunningStack

PATIENCE_SECONDS = 30.0
"""How long a poll waits before it calls the outcome missing. Nothing is asserted about how fast it came."""

CROWD_SECONDS = 120.0
"""How long one of many callers at once waits for its answer."""

OutcomeT = TypeVar("OutcomeT")

GPT_4O_MINI = {"input_uncached": 150, "cache_read": 75, "output": 600}
"""Nano-dollars per token of gpt-4o-mini: $0.15, $0.075 and $0.60 per million."""

CLAUDE_SONNET_4_6 = {
    "input_uncached": 3_000,
    "cache_read": 300,
    "cache_write_5m": 3_750,
    "cache_write_1h": 6_000,
    "output": 15_000,
}
"""Nano-dollars per token of claude-sonnet-4-6: $3, $0.30, $3.75, $6 and $15 per million."""


def cost(rates: Mapping[str, int], **counts: int) -> int:
    """Σ count × rate."""
    return sum(rates[name] * count for name, count in counts.items())


def eventually(look: Callable[[], OutcomeT | None], what: str) -> OutcomeT:
    """Look until there is something; fail with `what` where it never comes."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while (outcome := look()) is None:
        if time.monotonic() > give_up_at:
            pytest.fail(f"never seen: {what}")
        pause.wait(0.02)
    return outcome


@dataclass(frozen=True, slots=True)
class Answered:
    """What one of a crowd was answered."""

    status: int
    headers: Mapping[str, str]
    document: Any


class Gateway:
    """One client of a running stack, tagged with a cost center of its own so that its books are its own."""

    def __init__(self, stack: RunningStack, cost_center: str) -> None:
        self.stack = stack
        self.cost_center = cost_center
        self.tags = {"cost_center": cost_center}
        self.http = httpx.Client(base_url=stack.listen, timeout=PATIENCE_SECONDS)
        self.admin = httpx.Client(base_url=stack.admin, timeout=PATIENCE_SECONDS)
        self.mock = httpx.Client(base_url=stack.mock_url, timeout=PATIENCE_SECONDS)
        self._sdks: list[openai.OpenAI | anthropic.Anthropic] = []

    def close(self) -> None:
        """Close the connections."""
        for client in (self.http, self.admin, self.mock, *self._sdks):
            client.close()

    def openai(
        self, usage: object = None, *, base: str = "/v1", tagged: bool = True, retries: int = 0
    ) -> openai.OpenAI:
        """The official SDK, closed with this client: a socket that the collector finds later fails another test."""
        headers = self.headers(usage) if tagged else {}
        url = self.stack.listen + base
        sdk = openai.OpenAI(base_url=url, api_key=CLIENT_KEY, default_headers=headers, max_retries=retries)
        self._sdks.append(sdk)
        return sdk

    def anthropic(self, usage: object = None, *, tagged: bool = True, retries: int = 0) -> anthropic.Anthropic:
        """The official SDK, closed with this client."""
        headers = self.headers(usage) if tagged else {}
        url = self.stack.listen
        sdk = anthropic.Anthropic(base_url=url, api_key=CLIENT_KEY, default_headers=headers, max_retries=retries)
        self._sdks.append(sdk)
        return sdk

    def headers(self, usage: object = None, behavior: object = None) -> dict[str, str]:
        """The tags, and what the mock provider is to do."""
        headers = {"x-tfy-metadata": json.dumps(self.tags)}
        if usage is not None:
            headers["x-mock-usage"] = json.dumps(usage)
        if behavior is not None:
            headers["x-mock-behavior"] = json.dumps(behavior)
        return headers

    def chat(self, *, usage: object = None, behavior: object = None, **body: Any) -> httpx.Response:
        """One OpenAI chat completion, read to its end."""
        return self.http.post("/v1/chat/completions", json=chat_body(**body), headers=self.headers(usage, behavior))

    def crowd(
        self,
        count: int,
        *,
        usage: object = None,
        behavior: object = None,
        on_answer: Callable[[Answered], object] = lambda _: None,
        **body: Any,
    ) -> list[Answered]:
        """The same by so many callers at once, each on a connection of its own; `on_answer` sees each as it comes."""
        url = f"{self.stack.listen}/v1/chat/completions"
        headers, document = self.headers(usage, behavior), chat_body(**body)

        async def one(session: aiohttp.ClientSession) -> Answered:
            async with session.post(url, json=document, headers=headers) as answer:
                answered = Answered(answer.status, answer.headers.copy(), await answer.json(content_type=None))
            on_answer(answered)
            return answered

        async def everybody() -> list[Answered]:
            limit = aiohttp.ClientTimeout(total=CROWD_SECONDS)
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector, timeout=limit) as session:
                return await asyncio.gather(*(one(session) for _ in range(count)))

        return asyncio.run(everybody())

    def account(self, rule: str) -> dict[str, Any]:
        """The account of a rule for this cost center; a zero balance where none exists yet."""
        accounts = self.admin.get("/v1/budgets", params={"rule": rule}).json()["accounts"]
        mine = [account for account in accounts if self.cost_center in account["bucket"].values()]
        return mine[0] if mine else {"spent": 0, "held": 0}

    def journal(self) -> list[dict[str, Any]]:
        """The journal entries of this cost center, newest first."""
        entries: list[dict[str, Any]] = self.admin.get("/v1/journal", params={"limit": 1000}).json()["entries"]
        return [entry for entry in entries if entry["tags"].get("cost_center") == self.cost_center]

    def resolved(self, count: int = 1) -> list[dict[str, Any]]:
        """This cost center's journal once it has so many entries and nothing is held any more."""

        def look() -> list[dict[str, Any]] | None:
            entries = self.journal()
            return entries if len(entries) >= count and self.account("per-cost-center")["held"] == 0 else None

        return eventually(look, f"{count} resolved attempts of {self.cost_center}")

    def received(self, count: int) -> list[dict[str, Any]]:
        """What the mock provider received of this cost center, once it has received so many."""

        def look() -> list[dict[str, Any]] | None:
            seen = [one for one in self.mock.get("/mock/requests").json()["requests"] if self.cost_center in str(one)]
            return seen if len(seen) >= count else None

        return eventually(look, f"{count} requests of {self.cost_center} at the provider")

    def at_gate(self, count: int) -> None:
        """Wait until so many answers wait at the gate of this cost center, and no more."""

        def look() -> bool | None:
            return True if self.mock.get("/mock/waiting").json()["waiting"].get(self.cost_center) == count else None

        eventually(look, f"{count} answers at the gate of {self.cost_center}")

    @contextlib.contextmanager
    def gate(self) -> Iterator[dict[str, str]]:
        """A behaviour: wait at the gate of this cost center, which is shut now and open at the end, come what may."""
        self.mock.delete(f"/mock/release/{self.cost_center}").raise_for_status()
        try:
            yield {"hold_open_until": self.cost_center}
        finally:
            self.release(self.cost_center)

    def release(self, name: str) -> None:
        """Let answers that wait for this name go on."""
        self.mock.post(f"/mock/release/{name}").raise_for_status()


def chat_body(**body: Any) -> dict[str, Any]:
    """A small chat completion request."""
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say something."}], **body}


POLICIES = {
    "policy.yaml": """
name: tags
type: gateway-tagging-config
rules:
  - {id: tagged, when: {}, required: [cost_center], mode: enforce}
---
name: budgets
type: gateway-budget-config
rules:
  - id: per-cost-center
    when: {}
    limit_to: 100
    unit: cost_per_month
    budget_applies_per: [metadata.cost_center]
"""
}
"""Tags are required, and each cost center has $100 a month: enough for every test that is not about running out."""
