"""Goal: no two workers on one Redis split the ledger differently at the same time."""

from __future__ import annotations

import asyncio

import pytest

from ext_proc.ledger.errors import LayoutError
from ext_proc.ledger.layout import CLAIM_SECONDS, claim
from ext_proc.ledger.realms import ONE_REALM, Realms
from tests.ledger_kit import connected

pytestmark = pytest.mark.redis

KEY = "tg:{0}:layout"


def test_a_second_layout_is_refused_while_the_first_is_in_use(redis_url: str) -> None:
    """Workers that agree may claim as often as they like; one that differs is told both layouts and the cure."""

    async def run() -> None:
        async with connected(redis_url) as ledger:
            await claim(ledger.read, Realms(16))
            await claim(ledger.read, Realms(16))
            with pytest.raises(LayoutError, match=r"realms: 16.*one realm.*stop every worker, wait 30 seconds"):
                await claim(ledger.read, ONE_REALM)
            with pytest.raises(LayoutError, match=r"realms: 16\}.*realms: 4\}"):
                await claim(ledger.read, Realms(4))
            await claim(ledger.read, Realms(16))

    asyncio.run(run())


def test_a_claim_that_nobody_renews_lapses(redis_url: str) -> None:
    """A renewal pushes the claim's end; once it is gone another layout may begin, the default one too."""

    async def run() -> None:
        async with connected(redis_url) as ledger:
            await claim(ledger.read, ONE_REALM)
            assert await ledger.read("PEXPIRE", KEY, 5_000) == 1
            await claim(ledger.read, ONE_REALM)
            left_ms = await ledger.read("PTTL", KEY)
            assert isinstance(left_ms, int)
            assert 5_000 < left_ms <= CLAIM_SECONDS * 1_000
            await ledger.read("DEL", KEY)
            await claim(ledger.read, Realms(2))
            with pytest.raises(LayoutError):
                await claim(ledger.read, ONE_REALM)

    asyncio.run(run())
