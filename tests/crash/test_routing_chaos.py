"""Three providers fail at random while traffic runs: nobody notices, and the books balance to the nano-dollar.

`TOLLGATE_CHAOS_SECONDS` (20) and `TOLLGATE_CHAOS_SEED` (7) in the environment make it longer, or another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import redis
import yaml
from aiohttp import web

from tests.e2e_kit import GPT_4O_MINI, POLICIES, chat_body, cost, eventually
from tests.stack_fixture import RunningStack, running_stack

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

SECONDS = float(os.environ.get("TOLLGATE_CHAOS_SECONDS", "20"))
SEED = int(os.environ.get("TOLLGATE_CHAOS_SEED", "7"))
CALLERS = 8
PROVIDERS = ("one", "two", "three")
FAULTS = ("500", "503", "429", "reset", "silent")
THROWS, THROW_SECONDS = 4, 0.5  # how often the others change before another one is steady
OVERLAP_SECONDS = 7.0  # how long two are up before the steady one changes: longer than any request
FIRST_BYTE_MS = 2_500  # a busy machine is no fault
INPUT, OUTPUT = 100, 50
TAGS = {"x-tfy-metadata": '{"cost_center": "chaos"}'}


@dataclass
class Provider:
    """A server that answers, or fails as it is told to. Counts what it has done for each request."""

    name: str
    fault: str | None = None
    served: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One chat completion, or the fault of the moment."""
        document = json.loads(await request.read())
        fault = self.fault
        if fault is None:
            self.served += 1
            return _completion(stream=bool(document.get("stream")))
        self.failed[fault] += 1
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
        if fault in {"silent", "reset"}:
            await asyncio.sleep(60)
        return web.json_response({"error": {"message": fault}}, status=int(fault))


def _completion(*, stream: bool) -> web.Response:
    usage = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT}
    head = {"id": "chatcmpl-1", "created": 1, "model": "gpt-4o-mini"}
    if not stream:
        choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}
        return web.json_response({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
    choices: list[list[object]] = [
        [{"index": 0, "delta": {"role": "assistant", "content": "Yes."}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "stop"}],
    ]
    chunks = [{**head, "object": "chat.completion.chunk", "choices": choice} for choice in choices]
    chunks.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    return web.Response(text=text, content_type="text/event-stream")


@contextlib.contextmanager
def serving(providers: list[Provider]) -> Iterator[dict[str, str]]:
    """The providers, each on a port of its own: name → URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[dict[str, str], list[web.AppRunner]]:
        urls, runners = {}, []
        for provider in providers:
            app = web.Application()
            app.router.add_post("/v1/chat/completions", provider.answer)
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            urls[provider.name] = "http://{}:{}".format(*runner.addresses[0][:2])
            runners.append(runner)
        return urls, runners

    urls, runners = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield urls
    finally:
        for runner in runners:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


def disturb(providers: list[Provider], dice: random.Random, until: float) -> None:
    """Phase after phase another provider is steady; the others fail, or not, as the dice fall."""
    rest = threading.Event()
    steady = providers[0]
    while time.monotonic() < until:
        following = dice.choice(providers)
        following.fault = None
        rest.wait(OVERLAP_SECONDS if following is not steady else 0)  # what has tried it in vain is over by then
        steady = following
        for _ in range(THROWS):
            for provider in providers:
                if provider is not steady:
                    provider.fault = dice.choice((*FAULTS, None))
            rest.wait(THROW_SECONDS)


def policies() -> dict[str, str]:
    """One virtual model over the three, of which each request may try all."""
    targets = [
        {"target": f"{name}/gpt-4o-mini", "priority": place, "timeout_ms": FIRST_BYTE_MS}
        for place, name in enumerate(PROVIDERS)
    ]
    rule = {
        "id": "chat",
        "type": "priority-based-routing",
        "when": {"models": ["chat"]},
        "load_balance_targets": targets,
    }
    accounts = [{"name": name, "provider": "openai"} for name in PROVIDERS]
    documents = {
        "providers.yaml": {"name": "providers", "type": "gateway-provider-config", "accounts": accounts},
        "routing.yaml": {"name": "routing", "type": "gateway-load-balancing-config", "rules": [rule]},
    }
    return {**POLICIES, **{name: yaml.safe_dump(document) for name, document in documents.items()}}


def account(stack: RunningStack) -> dict[str, int]:
    """The one account there is."""
    (found,) = httpx.get(f"{stack.admin}/v1/budgets", params={"rule": "per-cost-center"}).json()["accounts"]
    return {"spent": found["spent"], "held": found["held"]}


def test_no_client_sees_providers_fail_while_one_is_up(tmp_path: Path) -> None:
    """Every request is answered, every answer and every attempt whose time was over is charged once, no worker dies."""
    providers = [Provider(name) for name in PROVIDERS]
    with serving(providers) as urls:
        upstreams = [f"--upstream={name}={url}" for name, url in urls.items()]
        with running_stack(tmp_path / "chaos", policies(), *upstreams) as stack:
            workers = stack.worker_pids
            until = time.monotonic() + SECONDS
            errors: Counter[str] = Counter()

            def call(number: int) -> int:
                made = 0
                with httpx.Client(base_url=stack.listen, timeout=30) as client:
                    while time.monotonic() < until:
                        body = chat_body(model="chat", max_tokens=OUTPUT, stream=(made + number) % 2 == 0)
                        try:
                            answer = client.post("/v1/chat/completions", json=body, headers=TAGS)
                        except httpx.HTTPError as error:
                            errors[repr(error)] += 1
                        else:
                            if answer.status_code != 200:
                                errors[f"{answer.status_code} {answer.text[:200]}"] += 1
                        made += 1
                return made

            with ThreadPoolExecutor(CALLERS + 1) as pool:
                chaos = pool.submit(disturb, providers, random.Random(SEED), until)
                made = sum(pool.map(call, range(CALLERS)))
                chaos.result()

            assert not errors, f"of {made} requests: {errors}"
            eventually(lambda: True if account(stack)["held"] == 0 else None, "every hold resolved")
            with redis.Redis(unix_socket_path=stack.redis_url.removeprefix("unix://")) as store:
                entries = [entry for _, entry in store.xrange("tg:{0}:journal")]
            by_basis = Counter(entry[b"basis"].decode() for entry in entries)
            charged: Counter[str] = Counter()
            for entry in entries:
                charged[entry[b"basis"].decode()] += int(entry[b"charge"])
            spent = account(stack)["spent"]
            served = sum(provider.served for provider in providers)
            failed = sum((provider.failed for provider in providers), Counter())
            report = f"{SECONDS:g} s, seed {SEED}: {made} requests, failed attempts {dict(failed)}, {dict(by_basis)}"
            print(report)  # noqa: T201  the outcome of a long run is wanted
            assert made == served == by_basis["reported"], report
            assert charged["reported"] == made * cost(GPT_4O_MINI, input_uncached=INPUT, output=OUTPUT)
            assert by_basis["estimated"] == failed["silent"], report
            assert by_basis["released"] == failed.total() - failed["silent"], report
            assert spent == sum(charged.values())
            assert len({entry[b"id"] for entry in entries}) == len(entries)
            assert stack.worker_pids == workers
