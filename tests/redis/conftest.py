"""What several files about the ledger in Redis share."""

from __future__ import annotations

import asyncio

import pytest

from tests.ledger_kit import Story, Told, pair


@pytest.fixture
def told(redis_url: str) -> Told:
    """Tell a story to a pair."""

    def run(story: Story) -> None:
        async def main() -> None:
            async with pair(redis_url) as both:
                await story(both)

        asyncio.run(main())

    return run
