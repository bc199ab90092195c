"""Goal: wherever a worker dies, the books balance once the reaper has been.

Method: a worker process goes through hold, renew and settle and kills itself at a named step; another one reaps.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from ext_proc.ledger import keys
from ext_proc.ledger.interface import Basis, HoldRequest, Posting, RealmLedger, Window, WindowKind
from ext_proc.ledger.realms import Realms
from ext_proc.ledger.realms_ledger import RealmsLedger
from ext_proc.ledger.redis_ledger import RedisLedger
from ext_proc.ledger.split_ledger import SplitLedger
from tests.ledger_kit import PATIENT, account, connected, hold_id, one_plan, settle, simple_hold

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


REALM_STEPS = {
    # the answer after which the worker dies, of a request over three realms: what each account is charged
    "weigh 3": 0,
    "hold 1": 0,  # a part
    "hold 2": 0,  # both parts
    "hold 3": 100,  # at home
    "resolve 1": 70,  # at home
    "resolve 2": 70,
    "resolve 3": 70,
}
REALMS = Realms(tenant_realms=4)
SPREAD = [
    account(cap=1_000, window=Window(WindowKind.LIFETIME), bucket=bucket)
    for bucket in ((), (("tenant", "acme"),), (("tenant", "globex"),))
]


class Dying:
    """The ledger of one realm, in a process that dies after so many answers of one kind."""

    answers: ClassVar[Counter[str]] = Counter()

    def __init__(self, ledger: RedisLedger, step: str) -> None:
        self._ledger = ledger
        self._step = step

    def __getattr__(self, name: str) -> Any:
        """Its methods, counted."""
        method = getattr(self._ledger, name)

        async def counted(*arguments: object) -> object:
            answer = await method(*arguments)
            self.answers[name] += 1
            dies(f"{name} {self.answers[name]}", self._step)
            return answer

        return counted


async def spread_worker(url: str, step: str) -> None:
    """One request over three realms, up to the answer after which this process dies."""
    ledger = RealmsLedger.connect(url, REALMS, PATIENT)
    await ledger.start()
    stores = {name: cast("RealmLedger", Dying(store, step)) for name, store in ledger._stores.items()}
    dying = SplitLedger(REALMS, stores)
    postings = [Posting(spec, deciding=True, fixed=100) for spec in SPREAD]
    request = HoldRequest(hold_id(1, ledger.now_us()), (one_plan(*postings),), lease_ms=0)
    reply = await dying.hold(request)
    await dying.resolve(replace(settle(request.hold_id, 70), realms=reply.realms))


@pytest.mark.parametrize("step", REALM_STEPS)
def test_worker_that_dies_between_realms_leaves_balanced_books(step: str, redis_url: str) -> None:
    """After the reaper every account of the request is charged alike, nothing is held in any realm, and the journal has
    the charge once.
    """
    assert len({REALMS.of_account(spec) for spec in SPREAD}) == 3
    command = [sys.executable, __file__, redis_url, step]
    died = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, timeout=60)
    assert died.returncode == 137

    async def reap() -> None:
        ledger = RealmsLedger.connect(redis_url, REALMS, PATIENT)
        await ledger.start()
        for _ in range(2):
            await ledger.expire(10)
        balances, _ = await ledger.balances(rule=None, limit=10, cursor="")
        assert [balance.held for balance in balances] == [0] * len(balances)
        spent = [balance.spent for balance in balances]
        charged = REALM_STEPS[step]
        assert spent == [charged] * 3 or (not charged and not any(spent))
        journal = await ledger.journal(10)
        assert [entry["charge_nanodollars"] for entry in journal] == ([charged] if charged else [])
        assert await ledger.open_holds() == 0
        for realm in REALMS.names:
            assert await ledger.read("ZCARD", f"{keys.prefix(realm)}parts") == 0
        await ledger.close()

    asyncio.run(reap())


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
    asyncio.run((spread_worker if sys.argv[2] in REALM_STEPS else worker)(sys.argv[1], sys.argv[2]))
