"""The rows of the table: each starts its subjects, one after the other, and measures the same thing on each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.gateways import start, streams, subjects
from bench.gateways.load import Outcome, Request, run
from bench.gateways.report import ALONE, FLOOR, NATIVE, STREAM
from bench.gateways.subjects import Subject

WARM_SECONDS = 2.0
CHUNKS = (2, 102)
"""A stream of few chunks and one of a hundred more: the difference is what a chunk costs."""

BODY = {"model": "gpt-4o-mini", "max_tokens": 400, "messages": [{"role": "user", "content": "word " * 205}]}
"""A chat completion with 1 KB of prompt."""

Maker = Callable[..., contextlib.AbstractContextManager[Subject]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how much."""

    seconds: float
    streams: int
    first_tokens: int
    starts: int
    litellm: Path | None


class Bench:
    """One run: a mock provider, and the subjects in front of it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.rows: dict[str, dict[str, Any]] = {}

    def makers(self) -> dict[str, Maker]:
        """The subjects of the main table."""
        made: dict[str, Maker] = {ALONE: subjects.envoy_alone, FLOOR: subjects.floor}
        for metering in ("stream", "native"):
            for workers in (1, 2):
                name = f"Tollgate {metering}, {workers} worker{'s' if workers > 1 else ''}"
                made[name] = partial(subjects.tollgate, metering=metering, workers=workers)
        if self._plan.litellm is not None:
            made["LiteLLM"] = partial(subjects.litellm, self._plan.litellm)
        return made

    def run(self) -> dict[str, dict[str, Any]]:
        """Every row."""
        half = None
        with subjects.mock_provider() as (provider, pid):
            for name, maker in self.makers().items():
                with _started(name, maker, provider) as (subject, directory):
                    self._plain(name, subject, directory, pid)
                    if not name.endswith("2 workers") and name != "LiteLLM":
                        self._streamed(name, subject, directory)
                    if name == NATIVE:
                        half = self.rows[name]["plain"]["rate"] / 2
            assert half is not None, "the reference row is always measured"
            for name in (
                ALONE,
                FLOOR,
                STREAM,
                NATIVE,
            ):
                with _started(f"{name}, half load", self.makers()[name], provider) as (subject, directory):
                    outcome = self._load(subject, _plain_request(subject), directory, rate=half)
                    self.rows[name]["half load"] = _figures(outcome)
            self._open_streams(provider)
            self._rules(provider)
            self._starts(provider)
        self._one_core()
        return self.rows

    def run_starts(self) -> list[float]:
        """The row of `tollgate serve` alone: seconds to the first answer, start by start."""
        with subjects.mock_provider() as (provider, _):
            self._starts(provider)
        taken: list[float] = self.rows["tollgate serve"]["seconds to first answer"]
        return taken

    def _load(
        self,
        subject: Subject,
        request: Request,
        directory: Path,
        *,
        beside: Mapping[str, list[int]] | None = None,
        connections: int = 32,
        rate: float | None = None,
        core: int | None = None,
    ) -> Outcome:
        """One load, after a short one that is not counted. `beside`: processes that are not the gateway's own."""
        groups = {**subject.groups, **(beside or {})}
        run(subject.url, request, {}, directory, seconds=WARM_SECONDS, core=core)
        seconds = self._plan.seconds
        return run(
            subject.url, request, groups, directory, seconds=seconds, connections=connections, rate=rate, core=core
        )

    def _plain(self, name: str, subject: Subject, directory: Path, provider_pid: int) -> None:
        outcome = self._load(subject, _plain_request(subject), directory, beside={"provider": [provider_pid]})
        self.rows.setdefault(name, {})["plain"] = _figures(outcome)

    def _streamed(self, name: str, subject: Subject, directory: Path) -> None:
        row = self.rows[name]
        few, many = (self._load(subject, _stream_request(subject, n), directory, connections=16) for n in CHUNKS)
        more = CHUNKS[1] - CHUNKS[0]
        row["per chunk"] = {group: round((many.cpu_us[group] - few.cpu_us[group]) / more, 1) for group in few.cpu_us}
        request = _stream_request(subject, CHUNKS[0])
        row["first token"] = asyncio.run(streams.first_token_us(subject, request, self._plan.first_tokens))

    def _open_streams(self, provider: str) -> None:
        makers: dict[str, Maker] = {
            FLOOR: partial(subjects.floor, answers="STREAMED"),
            STREAM: partial(subjects.tollgate, metering="stream"),
            NATIVE: partial(subjects.tollgate, metering="native"),
        }
        for name, maker in makers.items():
            with _started(f"{name}, open streams", maker, provider) as (subject, directory):
                request = _stream_request(subject, CHUNKS[0])
                run(subject.url, request, {}, directory, seconds=WARM_SECONDS)
                kept = streams.open_stream_bytes(subject, request, subject.groups, self._plan.streams, provider)
                self.rows[name]["open stream bytes"] = {group: round(n) for group, n in asyncio.run(kept).items()}

    def _rules(self, provider: str) -> None:
        for rules in (10, 10_000):
            name = f"Tollgate native, {rules:,} rules"
            maker = partial(subjects.tollgate, metering="native", rules=rules)
            with _started(name, maker, provider) as (subject, directory):
                self.rows[name] = {"plain": _figures(self._load(subject, _plain_request(subject), directory))}

    def _starts(self, provider: str) -> None:
        """The least of a few: files are in the page cache then, as on a machine that has started it before."""
        taken = []
        for number in range(self._plan.starts):
            print(f"  tollgate serve, start {number + 1} …", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="tg-bench-") as directory:
                request = _plain_request(Subject("", {}, subjects.TOLLGATE_HEADERS))
                taken.append(start.seconds_to_first_answer(provider, Path(directory), request))
        self.rows["tollgate serve"] = {"seconds to first answer": [round(seconds, 2) for seconds in taken]}

    def _one_core(self) -> None:
        """The gateway alone on the first core; the provider and wrk on the last. Envoy alone is asked last for the rate
        of 90 % of Tollgate's saturation, so that the two can be compared.
        """
        saturation: dict[str, float] = {}
        with subjects.mock_provider(core=subjects.last_core()) as (provider, _):
            makers: dict[str, Maker] = {
                ALONE: subjects.envoy_alone,
                **{f"Tollgate {way}": partial(subjects.tollgate, metering=way) for way in ("stream", "native")},
            }
            if self._plan.litellm is not None:
                makers["LiteLLM"] = partial(subjects.litellm, self._plan.litellm)
            for name, maker in makers.items():
                with _started(f"{name}, one core", partial(maker, core=0), provider) as (subject, directory):
                    request, core = _plain_request(subject), subjects.last_core()
                    plain = self._load(subject, request, directory, core=core)
                    row = {"plain": _figures(plain)}
                    row["at 350/s"] = _figures(self._load(subject, request, directory, core=core, rate=350.0))
                    if name != ALONE:
                        saturation[name] = rate = 0.9 * plain.rate
                        row["at 90 %"] = _figures(self._load(subject, request, directory, core=core, rate=rate))
                    self.rows[f"{name}, one core"] = row
            name = "Tollgate native"
            with _started(f"{ALONE}, at the rate of {name}", partial(subjects.envoy_alone, core=0), provider) as (
                subject,
                directory,
            ):
                request, core = _plain_request(subject), subjects.last_core()
                outcome = self._load(subject, request, directory, core=core, rate=saturation[name])
                self.rows[f"{ALONE}, one core"]["at 90 %"] = _figures(outcome)


@contextlib.contextmanager
def _started(name: str, maker: Maker, provider: str) -> Iterator[tuple[Subject, Path]]:
    print(f"  {name} …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="tg-bench-") as directory, maker(provider, Path(directory)) as subject:
        yield subject, Path(directory)


def _figures(outcome: Outcome) -> dict[str, Any]:
    figures = asdict(outcome)
    figures.update(rate=round(outcome.rate, 1), seconds=round(outcome.seconds, 2))
    return figures


def _plain_request(subject: Subject) -> Request:
    """A chat completion with 1 KB of prompt."""
    return _request(subject, {"usage": {"input": 256, "output": 16}}, {})


def _stream_request(subject: Subject, chunks: int) -> Request:
    """A stream whose client asks for usage itself, as clients that want to be metered natively do."""
    behavior = {"behavior": {"chunks": chunks}, "usage": {"input": 256, "output": 2 * chunks}}
    return _request(subject, behavior, {"stream": True, "stream_options": {"include_usage": True}})


def _request(subject: Subject, mock: dict[str, Any], more: dict[str, Any]) -> Request:
    body = {**BODY, **more}
    headers = {f"x-mock-{name}": json.dumps(value, separators=(",", ":")) for name, value in mock.items()}
    return Request(
        "/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json", **headers, **subject.headers},
    )
