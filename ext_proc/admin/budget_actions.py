"""What an operator does to budgets by hand: open a latched account again, begin one anew."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

import orjson
from aiohttp import web

from ext_proc.admin.errors import ParameterError
from ext_proc.admin.keys import operator_of
from ext_proc.ledger import keys
from ext_proc.ledger.interface import AccountBalance, AccountSpec, Code, Ledger, WindowKind
from ext_proc.policy.snapshot import Snapshot

ACCOUNTS_MAX = 1_000
"""How many accounts of one rule one call may act on."""

_NOTE_CHARS_MAX = 500
_FIELDS = ("rule", "bucket", "all", "note")

_Bucket = tuple[tuple[str, str | None], ...]
_Act = Callable[[str, str], Awaitable[Code]]


@dataclass(frozen=True, slots=True)
class _Ask:
    """Which accounts, and why."""

    rule: str
    bucket: dict[str, str | None] | None
    every: bool
    note: str


def add_budget_routes(app: web.Application, ledger: Ledger, snapshot: Callable[[], Snapshot]) -> None:
    """`POST /v1/budgets/resume` and `POST /v1/budgets/reset`."""
    for verb, done, act in (("resume", "resumed", ledger.resume), ("reset", "reset", ledger.reset)):
        app.router.add_post(f"/v1/budgets/{verb}", partial(_handle, ledger, snapshot, act, done))


async def _handle(
    ledger: Ledger, snapshot: Callable[[], Snapshot], act: _Act, done: str, request: web.Request
) -> web.Response:
    if "origin" in request.headers:
        # A page in somebody's browser must not act with the trust that the loopback address has.
        return _json({"error": "browsers may not write here"}, HTTPStatus.FORBIDDEN)
    ask = _asked(await request.read(), operator_of(request))
    accounts = await _accounts(ledger, snapshot(), ask)
    if len(accounts) > 1 and not ask.every:
        buckets = [dict(bucket) for bucket in accounts.values()]
        return _json(
            {"error": f"the rule has {len(accounts)} accounts: name a bucket, or say all", "buckets": buckets},
            HTTPStatus.CONFLICT,
        )
    changed: list[dict[str, object]] = []
    for name, bucket in accounts.items():
        code = await act(name, ask.note)
        if code is Code.UNAVAILABLE:
            return _json({"error": "Redis does not answer; repeat it", done: changed}, HTTPStatus.SERVICE_UNAVAILABLE)
        if code is not Code.NOT_FOUND:
            changed.append({"rule": ask.rule, "bucket": dict(bucket)})
    if not changed:
        lacking = "is latched" if done == "resumed" else "is live"
        hint = "" if ask.bucket is not None else "; if it has buckets, name one"
        return _json({"error": f"no account of the rule {ask.rule!r} {lacking}{hint}"}, HTTPStatus.NOT_FOUND)
    return _json({done: changed}, HTTPStatus.OK)


async def _accounts(ledger: Ledger, snapshot: Snapshot, ask: _Ask) -> dict[str, _Bucket]:
    """The accounts that are meant, by their names in the ledger.

    A latch outlives the window that it shut, and a new window has no account before something is held on it: so the
    accounts are those that are live and those that the policy set gives the rule.
    """
    balances, _ = await ledger.balances(rule=ask.rule, limit=ACCOUNTS_MAX, cursor="")
    found = {balance.name: balance.bucket for balance in balances if _is_meant(balance, ask)}
    known = {name.split(":")[1] for name in found}
    for account in snapshot.rules.accounts(ask.rule, ask.bucket or {}):
        digest = keys.digest(account)
        if digest not in known and account.window.kind in {WindowKind.CALENDAR, WindowKind.LIFETIME}:
            known.add(digest)
            found[_name(account, digest)] = account.bucket
    return found


def _name(account: AccountSpec, digest: str) -> str:
    """Of the account in a window that is past: what is latched is latched in every one."""
    return f"{account.window.kind}:{keys.account_name(account.window.kind, digest, 0)}"


def _is_meant(balance: AccountBalance, ask: _Ask) -> bool:
    return ask.bucket is None or dict(balance.bucket) == ask.bucket


def _asked(raw: bytes, operator: str) -> _Ask:
    """Read the body. Raises ParameterError."""
    try:
        document: object = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ParameterError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ParameterError("send a JSON object")
    for name in document:
        if name not in _FIELDS:
            raise ParameterError(f"unknown field {name[:64]!r}; known are {', '.join(_FIELDS)}")
    rule, note, every = document.get("rule"), document.get("note", ""), document.get("all", False)
    if not isinstance(rule, str) or not rule:
        raise ParameterError("rule must be the id of a rule, as written or filled in")
    if not isinstance(note, str) or len(note) > _NOTE_CHARS_MAX or not note.isprintable():
        raise ParameterError(f"note must be at most {_NOTE_CHARS_MAX} printable characters")
    if not isinstance(every, bool):
        raise ParameterError("all must be true or false")
    return _Ask(rule, _bucket(document.get("bucket")), every, f"{operator}: {note}" if note else operator)


def _bucket(written: object) -> dict[str, str | None] | None:
    if written is None:
        return None
    if not isinstance(written, Mapping) or not all(
        value is None or isinstance(value, str) for value in written.values()
    ):
        raise ParameterError("bucket must be an object of texts, as /v1/budgets shows it; null is the missing key")
    return {str(key): value for key, value in written.items()}


def _json(document: object, status: HTTPStatus) -> web.Response:
    body = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(
        body=body, status=status, content_type="application/json", headers={"cache-control": "no-store"}
    )
