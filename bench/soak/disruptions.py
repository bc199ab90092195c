"""What is done to the stack while it serves: workers, Redis and Envoy are killed, or asked to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator

import aiohttp
import redis.asyncio as redis_asyncio
from redis.exceptions import RedisError

from bench.errors import BenchError
from bench.soak.records import Disruption
from bench.soak.stack import Stack

RECOVERY_SECONDS = 90.0
FIRST_AT, LAST_AT = 0.08, 0.5
"""As shares of the run: afterwards the same traffic goes on undisturbed, and memory is judged there."""

PAUSE_SECONDS = 45.0
"""Between two of them, where the run is long enough for each to be made at least once."""

_TARGETS = tuple((service, number) for service in ("worker", "redis", "envoy") for number in ("SIGKILL", "SIGTERM"))


def plan(seconds: float, seed: int) -> Iterator[tuple[float, str, str]]:
    """(at which second, service, signal): each at least once, in drawn order."""
    draw = random.Random(seed)
    span = (LAST_AT - FIRST_AT) * seconds
    rounds = max(1, int(span / PAUSE_SECONDS / len(_TARGETS)))
    order = [target for _ in range(rounds) for target in draw.sample(_TARGETS, len(_TARGETS))]
    for index, (service, number) in enumerate(order):
        yield FIRST_AT * seconds + span * index / len(order), service, number


async def disrupt(stack: Stack, session: aiohttp.ClientSession, service: str, number: str, seed: int) -> Disruption:
    """Do it, and wait until the stack is whole again. Raises BenchError where it does not come back."""
    before = stack.children
    workers = sorted(name for name in before if name.startswith("w"))
    name = random.Random(seed).choice(workers) if service == "worker" else service
    began = time.monotonic()
    os.kill(before[name], getattr(signal, number))
    while stack.children.get(name, before[name]) == before[name] or not await _is_ready(stack, session):
        if time.monotonic() > began + RECOVERY_SECONDS:
            raise BenchError(f"{name} did not come back after {number}: {stack.log(name)[-2000:]}")
        await asyncio.sleep(0.1)
    return Disruption(service, number, began, time.monotonic())


async def _is_ready(stack: Stack, session: aiohttp.ClientSession) -> bool:
    """Whether the gateway says so, and Redis has read its append-only file: until then it refuses whatever is asked."""
    with contextlib.suppress(aiohttp.ClientError, ConnectionError, TimeoutError, RedisError):
        async with redis_asyncio.from_url(stack.redis_url) as connection:
            await connection.ping()
        async with session.get(f"{stack.admin}/readyz") as answer:
            return answer.status == 200
    return False
