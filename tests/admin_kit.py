"""The admin application on a free port over the ledger's memory model, for the tests of the API and of its clients."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
from aiohttp import web

from ext_proc.admin.app import create_app
from ext_proc.admin.context import AdminContext
from ext_proc.ledger import ids
from ext_proc.ledger.interface import (
    AccountSpec,
    Basis,
    Charge,
    Code,
    HoldRequest,
    Ledger,
    Measure,
    Period,
    Plan,
    Posting,
    Resolution,
    Window,
    WindowKind,
)
from ext_proc.ledger.memory import MemoryLedger

NOW_US = 1_779_000_000_000_000  # 2026-05-17T06:40:00Z, a Sunday
DOLLAR = 1_000_000_000

WEEKLY = AccountSpec(
    document_type="gateway-budget-config",
    document_name="platform-budgets",
    rule_id="per-{metadata.repo}",
    expanded_id="per-web",
    bucket=(("metadata.repo", "web"), ("user", None)),
    measure=Measure.COST,
    window=Window(WindowKind.CALENDAR, Period.WEEK, "Europe/Berlin"),
    cap=10 * DOLLAR,
)
LIFETIME = replace(
    WEEKLY,
    rule_id="tokens",
    expanded_id="tokens",
    bucket=(),
    measure=Measure.TOKENS,
    window=Window(WindowKind.LIFETIME),
    cap=1_000,
)


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    headers: dict[str, str]

    @property
    def json(self) -> dict[str, object]:
        document: dict[str, object] = json.loads(self.text)
        return document


@dataclass(frozen=True)
class Ask:
    """Asks the application that serves at `url`."""

    url: str
    session: aiohttp.ClientSession

    async def __call__(self, path: str, *, method: str = "GET", **headers: str) -> Answer:
        async with self.session.request(method, self.url + path, headers=headers) as response:
            named = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, await response.text(), named)


@contextlib.asynccontextmanager
async def serving(context: AdminContext) -> AsyncIterator[Ask]:
    """The application on a free port, and a function that asks it."""
    runner = web.AppRunner(create_app(context), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession() as session:
        yield Ask(f"http://{host}:{port}", session)
    await runner.cleanup()


def context_of(ledger: Ledger, metrics_dir: Path, **changes: object) -> AdminContext:
    context = AdminContext(
        ledger=ledger,
        readiness=lambda: {"policy": True},
        metrics_dir=metrics_dir,
        snapshot_info=lambda: {"version": "abc"},
        loopback=True,
    )
    return replace(context, **changes)  # type: ignore[arg-type]  # a test names the fields it changes


async def spent_ledger(*charges: tuple[AccountSpec, int]) -> MemoryLedger:
    """A ledger with one settled request per charge, and one hold left open on the first account."""
    ledger = MemoryLedger(lambda: NOW_US)
    for number, (account, amount) in enumerate(charges):
        await hold(ledger, account, amount, number)
        is_cost = account.measure is Measure.COST
        charge = Charge(cost_nanodollars=amount if is_cost else 0, input_tokens=0 if is_cost else amount)
        detail = json.dumps({"served_model": "gpt-4o", "status": 200})
        await ledger.resolve(Resolution(hold_id(number), charge, Basis.REPORTED, detail))
    await hold(ledger, charges[0][0], 5, len(charges))
    return ledger


def hold_id(number: int) -> str:
    return ids.mint(NOW_US, number.to_bytes(8, "big"))


async def hold(ledger: Ledger, account: AccountSpec, amount: int, number: int) -> None:
    posting = Posting(account, deciding=False, fixed=amount)
    plan = Plan("openai-main/gpt-4o", (posting,), output_min=0, output_max=0)
    context = json.dumps({"caller": {"user": "ada"}, "number": number})
    reply = await ledger.hold(HoldRequest(hold_id(number), (plan,), lease_ms=60_000, context=context))
    assert reply.code is Code.HELD


async def asked(context: AdminContext, path: str, **how: str) -> Answer:
    async with serving(context) as ask:
        return await ask(path, **how)
