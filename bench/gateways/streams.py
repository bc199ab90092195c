"""Streams: the time to the first token, and what an open one costs. wrk sees only ends, so these are read here."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

from bench.gateways.load import Request
from bench.gateways.subjects import Subject
from bench.machine import memory_bytes

GATE = "bench"


async def first_token_us(subject: Subject, request: Request, count: int) -> dict[str, float]:
    """The time from a request to the first event of its answer, one request after the other on one connection."""
    taken: list[float] = []
    reader, writer = await _connect(subject)
    payload = _payload(subject, request)
    for _ in range(count):
        started = time.perf_counter()
        writer.write(payload)
        await reader.readuntil(b"data: ")
        taken.append((time.perf_counter() - started) * 1e6)
        await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.close()
    cuts = statistics.quantiles(taken, n=100)
    return {"p50": cuts[49], "p95": cuts[94]}


async def open_stream_bytes(
    subject: Subject, request: Request, groups: Mapping[str, list[int]], count: int, provider: str
) -> dict[str, float]:
    """What each group of processes keeps for each stream that is open and has begun."""
    behavior = json.dumps({"chunks": 4, "hold_open_until": GATE, "hold_after_chunks": 2})
    held = Request(request.path, request.body, {**request.headers, "x-mock-behavior": behavior})
    payload = _payload(subject, held)
    before = {name: memory_bytes(pids) for name, pids in groups.items()}
    connections = []
    for _ in range(count):
        reader, writer = await _connect(subject)
        writer.write(payload)
        connections.append((reader, writer))
        await reader.readuntil(b"data: ")
    after = {name: memory_bytes(pids) for name, pids in groups.items()}
    release = urllib.request.Request(f"{provider}/mock/release/{GATE}", data=b"", method="POST")
    await asyncio.to_thread(urllib.request.urlopen, release)
    for reader, writer in connections:
        await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.close()
    return {name: (after[name] - before[name]) / count for name in groups}


async def _connect(subject: Subject) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(subject.url)
    return await asyncio.open_connection(address.hostname, address.port, limit=1 << 22)


def _payload(subject: Subject, request: Request) -> bytes:
    headers = {"host": urlsplit(subject.url).netloc, "content-length": str(len(request.body)), **request.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {request.path} HTTP/1.1\r\n{lines}\r\n".encode() + request.body
