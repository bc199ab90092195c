"""Calibration shared through Redis: by all workers, for a while, and never missed when Redis is."""

from __future__ import annotations

import pytest

from ext_proc.exchange.calibration import NOTHING, OUTPUT_TOKENS, Learned
from ext_proc.exchange.effects import Resolve
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger import ids
from ext_proc.ledger.errors import StoreError
from ext_proc.ledger.interface import Basis, Charge, Resolution
from ext_proc.ledger.redis_ledger import RedisLedger
from ext_proc.pricing.price import Price, Tier
from ext_proc.pricing.usage import Rates
from ext_proc.server.learning import GENERATION_SECONDS, KEYS_MAX, Learning
from tests.ledger_kit import all_keys, connected

pytestmark = [pytest.mark.redis, pytest.mark.anyio]

TARGET, TRAFFIC = "openai-main/gpt-4o-mini", "0123456789ab"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def answer(target: str = TARGET, *, output: int = 300) -> Resolve:
    """An answer to 4,000 bytes of prompt that reports 1,000 tokens of them, after two seconds."""
    hold_id = ids.mint(1_779_000_000_000_000, bytes(8))
    ticket = Ticket(
        hold_id=hold_id,
        dialect="openai-chat",
        operation="chat",
        requested_model="gpt-4o-mini",
        target=target,
        price=Price((Tier(0, Rates()),), "v"),
        input_tokens=1_600,
        output_limit=1_024,
        verdict="pass",
        stream=False,
        hide_usage=False,
        prompt_bytes=4_000,
        traffic=TRAFFIC,
    )
    charge = Charge(0, 1_000, output)
    detail = '{"status": 200, "ended": "complete", "duration_ms": 2000}'
    return Resolve(ticket, Resolution(hold_id, charge, Basis.REPORTED, detail))


async def test_workers_share_what_they_learn(redis_url: str) -> None:
    """Two workers saw half of what it takes each: both know it, and so does one that only admits."""
    async with connected(redis_url) as ledger:
        here, there, admitting = (Learning(ledger.read) for _ in range(3))
        admitting.admitted(answer().ticket)
        for _ in range(20):
            here.settled(answer())
            there.settled(answer())
        now_us = ledger.now_us()
        assert await here.refresh(now_us) is None  # twenty are too few
        for worker in (there, here, admitting):
            await worker.refresh(now_us)

        known = [worker.calibration.held(TARGET, TRAFFIC, 1_024) for worker in (here, there, admitting)]
        assert known[0] == known[1] == known[2]
        assert known[0].hold_bytes_per_token_milli in range(3_800, 4_001)
        assert known[0].output_tokens in range(300, 331)
        assert known[0].tokens_per_second in range(135, 151)


async def test_old_behaviour_is_forgotten(redis_url: str) -> None:
    """What was learned holds into the next generation, and not into the one after it; Redis drops it by itself."""
    async with connected(redis_url) as ledger:
        learning = Learning(ledger.read)
        for _ in range(40):
            learning.settled(answer())
        now_us, step_us = ledger.now_us(), GENERATION_SECONDS * 1_000_000
        await learning.refresh(now_us)
        known = learning.calibration.of(TARGET)
        await learning.refresh(now_us + step_us)
        kept = learning.calibration.of(TARGET)
        await learning.refresh(now_us + 2 * step_us)

        assert known != NOTHING
        assert kept == known
        assert learning.calibration.of(TARGET) == NOTHING
        for key in await learned_keys(ledger):
            assert await ledger.read("TTL", key) in range(GENERATION_SECONDS, 3 * GENERATION_SECONDS)


async def test_a_silent_redis_leaves_what_is_known(redis_url: str) -> None:
    """Without Redis the last calibration stays in force, nothing is raised, and learning goes on afterwards."""
    async with connected(redis_url) as ledger:
        reachable = True

        async def run(*words: str | int | bytes) -> object:
            if not reachable:
                raise StoreError("no Redis")
            return await ledger.read(*words)

        learning = Learning(run)
        for _ in range(40):
            learning.settled(answer())
        await learning.refresh(ledger.now_us())
        known = learning.calibration
        reachable = False
        learning.settled(answer())

        assert await learning.refresh(ledger.now_us()) is None
        assert learning.calibration is known
        reachable = True
        for _ in range(400):
            learning.settled(answer(output=30_000))
        assert await learning.refresh(ledger.now_us()) is not None


async def test_names_that_clients_invent_take_a_bounded_place(redis_url: str) -> None:
    """However many models are asked for, a worker follows so many keys and each holds so many counts."""
    async with connected(redis_url) as ledger:
        learning = Learning(ledger.read)
        for number in range(2 * KEYS_MAX):
            learning.settled(answer(f"own/{number}", output=1 + number))
        await learning.refresh(ledger.now_us())
        for output in range(1, 200_000, 97):
            learning.settled(answer(output=output))
        await learning.refresh(ledger.now_us())

        sizes = [await ledger.read("HLEN", key) for key in await learned_keys(ledger)]
        assert len(learning.calibration.learned) <= KEYS_MAX
        assert max(int(str(size)) for size in sizes) <= 2 * OUTPUT_TOKENS.buckets


async def test_what_else_stands_in_redis_teaches_nothing(redis_url: str) -> None:
    """A count that no worker of ours wrote is passed over."""
    async with connected(redis_url) as ledger:
        learning = Learning(ledger.read)
        for _ in range(40):
            learning.settled(answer())
        await learning.refresh(ledger.now_us())
        for key in await learned_keys(ledger):
            for name in ("o9999", "x1", "o", b"\xff\xfe"):
                await ledger.read("HSET", key, name, 10**6)
        await learning.refresh(ledger.now_us())

        assert learning.calibration.of(TARGET) != Learned()
        assert learning.calibration.held(TARGET, TRAFFIC, 1_024).output_tokens in range(300, 331)


async def learned_keys(ledger: RedisLedger) -> list[bytes]:
    return [key for key in await all_keys(ledger) if b"learned:" in key]
