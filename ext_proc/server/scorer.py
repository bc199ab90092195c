"""Scorers: services of the operator's own that say how well a cheaper model would do. Asked, never waited for.

Whatever goes wrong (late, refused, not a score) is "no score", and the saving rule says what follows. A scorer that
fails three times in a row is not asked for five seconds, so that a dead one does not keep every request waiting for its
deadline. Its process is its own: it can neither stop this one nor run in it (docs/decisions/0005-scorers.md).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Final, Protocol, cast

from ext_proc.exchange.saving import ScoreWanted
from ext_proc.ledger.breaker import Breaker
from ext_proc.telemetry.metrics import Metrics

FAILURES_MAX: Final = 3
PAUSE_SECONDS: Final = 5.0


class Client(Protocol):
    """What asks; `scorer_client.py` has the one there is."""

    async def ask(self, wanted: ScoreWanted) -> float:
        """The score. Raises ValueError where the answer is none, OSError or TimeoutError where none comes."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def load_client() -> Callable[[], Client]:
    """What makes a client. The first call loads an HTTP library, a third of a second that a worker whose policies name
    no scorer does not pay: it is made when a policy set that names one is put in force.
    """
    return cast("Callable[[], Client]", importlib.import_module("ext_proc.server.scorer_client").ScorerClient)


class Scorers:
    """Asks the scorers of one worker's policies."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._client: Client | None = None
        self._breakers: dict[str, Breaker] = {}
        self._asked_again_at: dict[str, float] = {}

    async def score(self, wanted: ScoreWanted) -> float | None:
        """The score, 0 to 1; None where there is none in time."""
        url = wanted.scorer.url
        breaker = self._breakers.setdefault(url, Breaker(FAILURES_MAX))
        if breaker.is_open and time.monotonic() < self._asked_again_at[url]:
            self._metrics.scored(wanted.rule_id, "paused")
            return None
        self._client = self._client or load_client()()
        try:
            score = await self._client.ask(wanted)
        except (OSError, TimeoutError, ValueError) as error:
            breaker.failed()
            self._asked_again_at[url] = time.monotonic() + PAUSE_SECONDS
            self._metrics.scored(wanted.rule_id, "late" if isinstance(error, TimeoutError) else "failed")
            return None
        breaker.succeeded()
        self._metrics.scored(wanted.rule_id, "scored")
        return score

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
