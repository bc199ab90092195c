"""Scorers: services of the operator's own that say how well a cheaper model would do. Asked, never waited for.

Whatever goes wrong (late, refused, not a score) is "no score", and the saving rule says what follows. A scorer that
fails three times in a row is not asked for five seconds, so that a dead one does not keep every request waiting for its
deadline. Its process is its own: it can neither stop this one nor run in it (docs/decisions/0005-scorers.md).
"""

from __future__ import annotations

import json
import time
from typing import Final

import aiohttp

from ext_proc.exchange.saving import ScoreWanted
from ext_proc.ledger.breaker import Breaker
from ext_proc.telemetry.metrics import Metrics

FAILURES_MAX: Final = 3
PAUSE_SECONDS: Final = 5.0
ANSWER_BYTES_MAX: Final = 4_096
CONNECTIONS_MAX: Final = 100


class Scorers:
    """Asks the scorers of one worker's policies."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._session: aiohttp.ClientSession | None = None
        self._breakers: dict[str, Breaker] = {}
        self._asked_again_at: dict[str, float] = {}

    async def score(self, wanted: ScoreWanted) -> float | None:
        """The score, 0 to 1; None where there is none in time."""
        url = wanted.scorer.url
        breaker = self._breakers.setdefault(url, Breaker(FAILURES_MAX))
        if breaker.is_open and time.monotonic() < self._asked_again_at[url]:
            self._metrics.scored(wanted.rule_id, "paused")
            return None
        try:
            score = await self._ask(wanted)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            breaker.failed()
            self._asked_again_at[url] = time.monotonic() + PAUSE_SECONDS
            self._metrics.scored(wanted.rule_id, "late" if isinstance(error, TimeoutError) else "failed")
            return None
        breaker.succeeded()
        self._metrics.scored(wanted.rule_id, "scored")
        return score

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _ask(self, wanted: ScoreWanted) -> float:
        """Raises ValueError where the answer is no score."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX)
            # No cookies and no proxy of the environment: nothing but the question goes out.
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        limit = aiohttp.ClientTimeout(total=wanted.scorer.deadline_ms / 1_000)
        body = json.dumps(wanted.question, ensure_ascii=False).encode("utf-8", "surrogateescape")
        headers = {"content-type": "application/json"}
        async with self._session.post(
            wanted.scorer.url, data=body, headers=headers, timeout=limit, allow_redirects=False
        ) as answer:
            return read_score(answer.status, await answer.content.read(ANSWER_BYTES_MAX))


def read_score(status: int, body: bytes) -> float:
    """The score of an answer such as `{"score": 0.83}`. Raises ValueError where it is none."""
    if status != 200:  # noqa: PLR2004  the one status of a score
        raise ValueError(f"answered {status}")
    document = json.loads(body)
    score = document.get("score") if isinstance(document, dict) else None
    if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= 1:
        raise ValueError("no score from 0 to 1")
    return float(score)
