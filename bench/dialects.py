"""Microseconds per chunk and per body: our meters against decoding every chunk with `json.loads`.

    python bench/dialects.py [--repeat N]

Streams are made of the bodies under tests/corpus: the events of each are repeated to a realistic length and
fed one event per chunk, which is how providers send them. The baseline splits on blank lines and decodes every `data`
line, which is the least that any reader without our patterns does; it neither hides the usage chunk nor counts text.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ext_proc.dialects import registry
from ext_proc.dialects.sse import events

CORPUS = Path(__file__).parents[1] / "tests" / "corpus"
STREAMS = {
    "openai-chat": "stream-usage",
    "openai-responses": "stream-completed",
    "openai-completions": "stream-usage",
    "anthropic-messages": "stream-cumulative",
    "gemini": "stream-sse",
    "cohere-chat": "stream",
}
CHUNKS = 1000


def chunks_of(body: bytes) -> list[bytes]:
    """The events of a stream of the corpus, its text events repeated to `CHUNKS`."""
    given = [event for event in events(body) if event.strip()]
    middle = given[len(given) // 3 : len(given) // 3 + 1]
    return given[:1] + middle * CHUNKS + given[2:]


def baseline(chunks: list[bytes]) -> None:
    """Decode every chunk."""
    for chunk in chunks:
        for line in chunk.splitlines():
            if line.startswith(b"data: {"):
                json.loads(line[6:])


def metered(name: str, chunks: list[bytes], *, hide_usage: bool) -> None:
    """Feed a meter."""
    meter = registry.dialect(name).meter(content_type="text/event-stream", content_encoding="", hide_usage=hide_usage)
    for chunk in chunks:
        meter.feed(chunk, end=False)
    meter.feed(b"", end=True)
    meter.reading()


def best_us(work: Callable[[], None], repeat: int) -> float:
    """The fastest of several runs, in microseconds: the least disturbed one."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


def peak_kib(work: Callable[[], None]) -> float:
    """The most memory one run holds at a time, in KiB."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1024


def main() -> None:
    """Print one row per stream and one per request body."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=20)
    repeat = parser.parse_args().repeat

    print(f"{'stream':24}{'bytes/chunk':>12}{'json.loads µs':>15}{'read µs':>10}{'hide µs':>10}{'peak KiB':>10}")
    for name, case in STREAMS.items():
        chunks = chunks_of((CORPUS / name / f"{case}.sse").read_bytes())
        size = sum(map(len, chunks)) / len(chunks)
        plain = best_us(lambda chunks=chunks: baseline(chunks), repeat) / len(chunks)
        read = best_us(lambda n=name, c=chunks: metered(n, c, hide_usage=False), repeat) / len(chunks)
        hide = best_us(lambda n=name, c=chunks: metered(n, c, hide_usage=True), repeat) / len(chunks)
        memory = peak_kib(lambda n=name, c=chunks: metered(n, c, hide_usage=True))
        print(f"{name:24}{size:12.0f}{plain:15.2f}{read:10.2f}{hide:10.2f}{memory:10.0f}")

    print(f"\n{'request body':24}{'KiB':>12}{'json.loads µs':>15}{'read µs':>10}")
    for turns in (2, 40, 400):
        text = "The tram turns left at the lake, and then it stops. " * 8
        body = json.dumps(
            {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": text} for _ in range(turns)]}
        ).encode()
        plain = best_us(lambda body=body: json.loads(body), repeat)
        for name in ("openai-chat", "anthropic-messages"):
            read = best_us(lambda n=name, body=body: registry.dialect(n).read_request(body), repeat)
            print(f"{name:24}{len(body) / 1024:12.0f}{plain:15.0f}{read:10.0f}")


if __name__ == "__main__":
    main()
