"""The provider of the soak: the mock provider in this process, and the bill it would send."""

from __future__ import annotations

import json
import re
from collections import deque

from bench.soak.records import Billed
from bench.soak.traffic import ID_HEADER, RATES
from ext_proc.mock_provider.recorder import Outcome, Received, Recorder
from ext_proc.mock_provider.server import MockProvider

_UNDER_WAY = frozenset({Outcome.ANSWERING, Outcome.WAITING})
_MODEL_IN_PATH = re.compile(r"/models?/([^:/?]+)")


class Provider:
    """`mock` is to be listened with; `bill` is complete once nothing is under way."""

    def __init__(self) -> None:
        self.mock = MockProvider()
        self.mock.recorder = Recorder(received=deque())
        self.bill: list[Billed] = []

    @property
    def under_way(self) -> int:
        """Answers not finished yet, as of the last collection."""
        return len(self.mock.recorder.received)

    def collect(self) -> None:
        """Put what is finished on the bill, and forget it."""
        received = self.mock.recorder.received
        for _ in range(len(received)):
            one = received.popleft()
            if one.outcome in _UNDER_WAY:
                received.append(one)
            elif ID_HEADER in one.headers:
                self.bill.append(_billed(one))


def _billed(one: Received) -> Billed:
    behavior = json.loads(one.headers["x-mock-behavior"])
    nanodollars: int | None = None
    if one.outcome is Outcome.ANSWERED and not behavior.keys() & {"no_usage", "error_event_after_chunks"}:
        failed = behavior.get("status", 200) >= 400
        nanodollars = 0 if failed else _cost(_model(one), json.loads(one.headers["x-mock-usage"]))
    return Billed(one.headers[ID_HEADER], one.outcome.value, nanodollars)


def _model(one: Received) -> str:
    """The model that was asked for, which a downgrade may have changed."""
    named = _MODEL_IN_PATH.search(one.path)
    return named[1] if named else str(json.loads(one.body)["model"])


def _cost(model: str, usage: dict[str, int]) -> int:
    return sum(RATES[model][name] * count for name, count in usage.items())
