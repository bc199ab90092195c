"""`/v1/ledger`: how large the store is, by kind of key, and whether it is set up so that the promises hold."""

from __future__ import annotations

from dataclasses import asdict
from http import HTTPStatus

import orjson
from aiohttp import web

from ext_proc.ledger.realms_ledger import StoreLedger


def add_ledger_routes(app: web.Application, ledger: StoreLedger) -> None:
    """Add the route, where the ledger is one that has a store to look at."""

    async def report(_: web.Request) -> web.Response:
        health = await ledger.health()
        if health is None:
            body: dict[str, object] = {"error": "Redis does not answer, so its keys cannot be counted. Retry."}
            return _json(body, HTTPStatus.SERVICE_UNAVAILABLE)
        kinds = [asdict(kind) for kind in await ledger.stats()]
        return _json({**asdict(health), "open_holds": await ledger.open_holds(), "kinds": kinds}, HTTPStatus.OK)

    app.router.add_get("/v1/ledger", report)


def _json(body: dict[str, object], status: HTTPStatus) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
