"""Goal: wherever a worker dies, the books balance once the reaper has been.

Method: a worker process goes through hold, renew and settle and kills itself at a named step; another one reaps.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ext_proc.ledger.interface import Basis, Window, WindowKind
from ext_proc.ledger.redis_ledger import RedisLedger
from tests.ledger_kit import account, connected, hold_id, settle, simple_hold

pytestmark = [pytest.mark.crash, pytest.mark.redis]

ROOT = Path(__file__).parent.parent.parent
SPEC = account(cap=1_000, window=Window(WindowKind.LIFETIME))
STEPS = {
    # where the worker dies: what may have been charged, in nano-dollars, once its lease has ended
    "before the hold": {0},
    "hold sent": {0, 100},
    "hold acknowledged": {100},
    "settle sent": {70, 100},
    "settle acknowledged": {70},
    "settle sent twice": {70},
    "next attempt sent": {40, 100, 140},
    "next attempt acknowledged": {140},
}


async def worker(url: str, step: str) -> None:
    """One request, up to the step at which this process dies."""
    ledger = RedisLedger.connect(url)
    await ledger.start()
    asked = simple_hold(hold_id(1, ledger.now_us()), 100, SPEC)
    asked = type(asked)(asked.hold_id, asked.plans, lease_ms=0)
    dies("before the hold", step)
    task = asyncio.ensure_future(ledger.hold(asked))
    if step == "hold sent":
        await dies_when_sent()
    await task
    dies("hold acknowledged", step)
    if step.startswith("next attempt"):
        following = type(asked)(f"{asked.hold_id[:-1]}2", asked.plans, lease_ms=0, previous=settle(asked.hold_id, 40))
        task = asyncio.ensure_future(ledger.hold(following))
        if step == "next attempt sent":
            await dies_when_sent()
        await task
        dies("next attempt acknowledged", step)
    ending = asyncio.ensure_future(ledger.resolve(settle(asked.hold_id, 70)))
    if step == "settle sent":
        await dies_when_sent()
    await ending
    dies("settle acknowledged", step)
    await ledger.resolve(settle(asked.hold_id, 70))
    dies("settle sent twice", step)


def dies(here: str, step: str) -> None:
    """The end of this process, without a goodbye, if it is to die here."""
    if here == step:
        os._exit(137)


async def dies_when_sent() -> None:
    """Die after the event loop has had the turns it takes to write to the socket, before an answer can be read."""
    for _ in range(4):
        await asyncio.sleep(0)
    os._exit(137)


@pytest.mark.parametrize("step", STEPS)
def test_worker_that_dies_leaves_balanced_books(step: str, redis_url: str) -> None:
    """After the reaper each hold has ended once, nothing is held, and the journal adds up to what was spent."""
    command = [sys.executable, __file__, redis_url, step]
    died = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, timeout=60)
    assert died.returncode == 137

    async def reap() -> None:
        async with connected(redis_url) as ledger:
            await ledger.expire(10)
            balances, _ = await ledger.balances(rule=None, limit=1, cursor="")
            journal = await ledger.journal(10)
            spent = balances[0].spent if balances else 0
            assert spent in STEPS[step]
            assert not balances or balances[0].held == 0
            assert await ledger.open_holds() == 0
            assert sum(int(str(entry["charge_nanodollars"])) for entry in journal) == spent
            ended = [entry["hold_id"] for entry in journal]
            assert len(ended) == len(set(ended))
            assert {entry["basis"] for entry in journal} <= {str(Basis.REPORTED), str(Basis.EXPIRED)}

    asyncio.run(reap())


if __name__ == "__main__":
    asyncio.run(worker(sys.argv[1], sys.argv[2]))
