"""Microseconds and memory per chunk and per body: our meters against decoding every chunk with `json.loads`.

    python bench/dialects.py [--repeat N]

Streams are made of the bodies under tests/corpus: the events of each are repeated to a realistic length and
fed one event per chunk, which is how providers send them. The baseline splits on blank lines and decodes every `data`
line, which is the least that any reader without our patterns does; it neither hides the usage chunk nor counts text.
Of Bedrock's binary frames it decodes the JSON inside, as if the frame cost nothing. `allocated` is what is allocated at
a time while one chunk is taken, on average; `peak` what a whole stream holds at most.
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
from ext_proc.dialects.event_stream import CONTENT_TYPE
from ext_proc.dialects.interface import Meter
from ext_proc.dialects.sse import events

CORPUS = Path(__file__).parents[1] / "tests" / "corpus"
STREAMS = {
    "openai-chat": "stream-usage.sse",
    "openai-responses": "stream-completed.sse",
    "openai-completions": "stream-usage.sse",
    "openai-images": "stream-partial-images.sse",
    "openai-transcriptions": "stream-done.sse",
    "openai-speech": "stream-done.sse",
    "anthropic-messages": "stream-cumulative.sse",
    "gemini": "stream-sse.sse",
    "bedrock-converse": "stream-tool-use.bin",
    "bedrock-invoke": "stream-anthropic.bin",
    "cohere-chat": "stream.sse",
}
BODIES = {
    name: next(iter(sorted((CORPUS / name).glob("plain*.json"))))
    for name in registry.dialect_names()
    if any((CORPUS / name).glob("plain*.json"))
}
CHUNKS = 1000
CHUNKS_TRACED = 200
_FRAME_LENGTH = 4


def chunks_of(path: Path) -> list[bytes]:
    """The events of a stream of the corpus, one text event of it repeated to `CHUNKS`."""
    body = path.read_bytes()
    given = frames(body) if path.suffix == ".bin" else [event for event in events(body) if event.strip()]
    middle = given[len(given) // 3 : len(given) // 3 + 1]
    return given[:1] + middle * CHUNKS + given[2:]


def frames(body: bytes) -> list[bytes]:
    """The frames of an event stream: each begins with its length."""
    found, at = [], 0
    while at < len(body):
        length = int.from_bytes(body[at : at + _FRAME_LENGTH], "big")
        found.append(body[at : at + length])
        at += length
    return found


def baseline(chunks: list[bytes]) -> None:
    """Decode every chunk."""
    for chunk in chunks:
        if chunk[:1] == b"\0":  # a frame: its length, below 16 MiB
            json.loads(chunk[chunk.index(b"{") : chunk.rindex(b"}") + 1])
            continue
        for line in chunk.splitlines():
            if line.startswith(b"data: {"):
                json.loads(line[6:])


def metered(name: str, chunks: list[bytes], *, hide_usage: bool) -> None:
    """Feed a meter."""
    meter = _meter(name, chunks, hide_usage=hide_usage)
    for chunk in chunks:
        meter.feed(chunk, end=False)
    meter.feed(b"", end=True)
    meter.reading()


def _meter(name: str, chunks: list[bytes], *, hide_usage: bool) -> Meter:
    kind = CONTENT_TYPE if chunks[0][:1] == b"\0" else "text/event-stream"
    return registry.dialect(name).meter(content_type=kind, content_encoding="", hide_usage=hide_usage)


def read_body(name: str, body: bytes) -> None:
    """One whole answer."""
    meter = registry.dialect(name).meter(content_type="application/json", content_encoding="", hide_usage=False)
    meter.feed(body, end=True)
    meter.reading()


def best_us(work: Callable[[], None], repeat: int) -> float:
    """The fastest of several runs, in microseconds of processor time: the least disturbed one."""
    times = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times) * 1e6


def peak_kib(work: Callable[[], None]) -> float:
    """The most memory one run holds at a time, in KiB."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1024


def allocated_bytes(name: str, chunks: list[bytes]) -> float:
    """The most that taking one chunk allocates at a time, on average."""
    meter = _meter(name, chunks, hide_usage=False)
    tracemalloc.start()
    total = 0
    for chunk in chunks[:CHUNKS_TRACED]:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        meter.feed(chunk, end=False)
        total += tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return total / CHUNKS_TRACED


def main() -> None:
    """Print one row per stream, one per whole answer, and one per request body."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=20)
    repeat = parser.parse_args().repeat
    streams(repeat)
    answers(repeat)
    requests(repeat)


def streams(repeat: int) -> None:
    """Per chunk."""
    heads = ("bytes/chunk", "json.loads µs", "read µs", "hide µs", "allocated B", "peak KiB")
    print(f"{'stream':24}" + "".join(f"{head:>15}" for head in heads))
    for name, case in STREAMS.items():
        chunks = chunks_of(CORPUS / name / case)
        size = sum(map(len, chunks)) / len(chunks)
        plain = best_us(lambda chunks=chunks: baseline(chunks), repeat) / len(chunks)
        read = best_us(lambda n=name, c=chunks: metered(n, c, hide_usage=False), repeat) / len(chunks)
        hide = best_us(lambda n=name, c=chunks: metered(n, c, hide_usage=True), repeat) / len(chunks)
        memory = peak_kib(lambda n=name, c=chunks: metered(n, c, hide_usage=True))
        allocated = allocated_bytes(name, chunks)
        print(f"{name:24}{size:15.0f}{plain:15.2f}{read:15.2f}{hide:15.2f}{allocated:15.0f}{memory:15.0f}")


def answers(repeat: int) -> None:
    """Per whole answer: decoded once, its text counted."""
    print(f"\n{'answer':24}" + "".join(f"{head:>15}" for head in ("bytes", "json.loads µs", "read µs", "peak KiB")))
    for name, path in BODIES.items():
        body = path.read_bytes()
        plain = best_us(lambda body=body: json.loads(body), repeat * 10)
        read = best_us(lambda n=name, b=body: read_body(n, b), repeat * 10)
        print(
            f"{name:24}{len(body):15}{plain:15.1f}{read:15.1f}{peak_kib(lambda n=name, b=body: read_body(n, b)):15.1f}"
        )


def requests(repeat: int) -> None:
    """Per request body: parsed strictly, sized for its hold."""
    print(f"\n{'request body':24}" + "".join(f"{head:>15}" for head in ("KiB", "json.loads µs", "read µs")))
    for turns in (2, 40, 400):
        text = "The tram turns left at the lake, and then it stops. " * 8
        body = json.dumps(
            {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": text} for _ in range(turns)]}
        ).encode()
        plain = best_us(lambda body=body: json.loads(body), repeat)
        for name in ("openai-chat", "anthropic-messages"):
            read = best_us(lambda n=name, body=body: registry.dialect(n).read_request(body), repeat)
            print(f"{name:24}{len(body) / 1024:15.0f}{plain:15.0f}{read:15.0f}")
    recording = b"\xff" * (20 << 20)
    form = (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n' + recording + b"\r\n--b--\r\n"
    )
    speaker = registry.dialect("openai-transcriptions")
    kind = "multipart/form-data; boundary=b"
    read = best_us(lambda: speaker.read_request(form, content_type=kind), repeat)
    print(f"{'openai-transcriptions':24}{len(form) / 1024:15.0f}{'–':>15}{read:15.0f}")


if __name__ == "__main__":
    main()
