"""What the mock remembers for tests: the requests it received, and the gates that hold answers open."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import orjson

REQUESTS_MAX = 1_000
BODY_BYTES_MAX = 65_536
_GATES_MAX = 10_000


class Outcome(StrEnum):
    """How far a request came."""

    WAITING = "waiting"  # at a gate
    ANSWERING = "answering"
    ANSWERED = "answered"
    CUT = "cut"  # closed or reset on command
    CLIENT_GONE = "client_gone"


@dataclass(slots=True)
class Received:
    """One request. Bodies past `BODY_BYTES_MAX` are remembered by size and digest only."""

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    body_bytes: int = 0
    body_sha256: str = ""
    outcome: Outcome = Outcome.ANSWERING

    def keep_body(self, body: bytes) -> None:
        """Remember the body, bounded."""
        self.body_bytes = len(body)
        if len(body) <= BODY_BYTES_MAX:
            self.body = body
        else:
            self.body_sha256 = hashlib.sha256(body).hexdigest()

    def as_json(self) -> dict[str, object]:
        """`body` is the parsed JSON, or the text, or null where it was too large."""
        too_large = self.body_bytes > BODY_BYTES_MAX
        return {
            "number": self.number,
            "method": self.method,
            "path": self.path,
            "headers": {str(name).lower(): value for name, value in self.headers.items()},
            "body": None if too_large else _parsed(self.body),
            "body_bytes": self.body_bytes,
            "body_sha256": self.body_sha256 or hashlib.sha256(self.body).hexdigest(),
            "outcome": self.outcome.value,
        }


def _parsed(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


@dataclass(slots=True)
class Recorder:
    """The last `REQUESTS_MAX` requests. Numbers go on after clearing."""

    received: deque[Received] = field(default_factory=lambda: deque(maxlen=REQUESTS_MAX))
    count: int = 0

    def add(self, method: str, path: str, headers: Mapping[str, str]) -> Received:
        """Remember a request by its head."""
        self.count += 1
        one = Received(self.count, method, path, headers)
        self.received.append(one)
        return one


class Gate:
    """A named place where answers wait. Opening is remembered: an answer that comes later passes at once."""

    __slots__ = ("_arrived", "_open", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self._open = asyncio.Event()
        self._arrived = asyncio.Event()

    async def wait(self) -> None:
        """Wait until the gate is opened."""
        self.waiting += 1
        self._arrived.set()
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1
            if self.waiting == 0:
                self._arrived.clear()

    async def arrival(self) -> None:
        """Wait until an answer waits here."""
        await self._arrived.wait()

    def open(self) -> None:
        """Let everything pass, now and later."""
        self._open.set()

    def shut(self) -> None:
        """Hold what comes from now on."""
        self._open.clear()


class Gates:
    """All gates by name, made when first named."""

    __slots__ = ("_gates",)

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}

    def named(self, name: str) -> Gate:
        """The gate of that name. The oldest is forgotten past the bound."""
        gate = self._gates.get(name)
        if gate is None:
            if len(self._gates) >= _GATES_MAX:
                del self._gates[next(iter(self._gates))]
            gate = self._gates[name] = Gate()
        return gate

    def waiting(self) -> dict[str, int]:
        """How many answers wait at each gate where any does."""
        return {name: gate.waiting for name, gate in self._gates.items() if gate.waiting}
