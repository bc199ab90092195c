"""Asking one scorer over HTTP. Apart, because the HTTP client takes a third of a second to load, which a worker whose
policies name no scorer does not pay.
"""

from __future__ import annotations

import json
from typing import Final

import aiohttp

from ext_proc.exchange.saving import ScoreWanted

ANSWER_BYTES_MAX: Final = 4_096
CONNECTIONS_MAX: Final = 100


class ScorerClient:
    """The connections of one worker to its scorers. To be made in an event loop."""

    def __init__(self) -> None:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX)
        # No cookies and no proxy of the environment: nothing but the question goes out.
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def ask(self, wanted: ScoreWanted) -> float:
        """The score, 0 to 1. Raises ValueError where the answer is none, OSError or TimeoutError where none comes."""
        limit = aiohttp.ClientTimeout(total=wanted.scorer.deadline_ms / 1_000)
        body = json.dumps(wanted.question, ensure_ascii=False).encode("utf-8", "surrogateescape")
        headers = {"content-type": "application/json"}
        try:
            async with self._session.post(
                wanted.scorer.url, data=body, headers=headers, timeout=limit, allow_redirects=False
            ) as answer:
                return read_score(answer.status, await answer.content.read(ANSWER_BYTES_MAX))
        except TimeoutError:  # some of the library's are ClientErrors too
            raise
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


def read_score(status: int, body: bytes) -> float:
    """The score of an answer such as `{"score": 0.83}`. Raises ValueError where it is none."""
    if status != 200:  # noqa: PLR2004  the one status of a score
        raise ValueError(f"answered {status}")
    document = json.loads(body)
    score = document.get("score") if isinstance(document, dict) else None
    if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= 1:
        raise ValueError("no score from 0 to 1")
    return float(score)
