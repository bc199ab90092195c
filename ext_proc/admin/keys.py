"""Keys, teams and tenants over the admin API. The text of a key is in the answer to its creation or rotation, once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from http import HTTPStatus

import orjson
from aiohttp import web

from ext_proc.identity.administration import OVERLAP_SECONDS_DEFAULT, Administration, NewKey
from ext_proc.identity.errors import IdentityStoreError, RecordConflictError, RecordError
from ext_proc.identity.records import key_view, team_view, tenant_view

OPERATOR_HEADER = "x-tollgate-operator"
"""Who acts, as they say it themselves: everybody with the admin token is equally believed."""

AUDIT_LIMIT_DEFAULT = 100
AUDIT_LIMIT_MAX = 10_000
_OPERATOR_CHARS_MAX = 128

Handler = Callable[[web.Request], Awaitable[web.Response]]
Action = Callable[[Administration, web.Request], Awaitable[object]]


def add_key_routes(app: web.Application, administration: Administration) -> None:
    """The routes below `/v1/keys`, `/v1/teams`, `/v1/tenants` and `/v1/audit`."""

    def route(method: str, path: str, action: Action, status: HTTPStatus = HTTPStatus.OK) -> None:
        app.router.add_route(method, path, _handler(administration, action, status))

    route("GET", "/v1/keys", _list_keys)
    route("POST", "/v1/keys", _create_key, HTTPStatus.CREATED)
    route("GET", "/v1/keys/{id}", _show_key)
    route("POST", "/v1/keys/{id}/rotate", _rotate_key)
    route("POST", "/v1/keys/{id}/revoke", _revoke_key)
    route("GET", "/v1/teams", _list_teams)
    route("PUT", "/v1/teams/{id}", _put_team)
    route("DELETE", "/v1/teams/{id}", _remove_team)
    route("GET", "/v1/tenants", _list_tenants)
    route("PUT", "/v1/tenants/{id}", _put_tenant)
    route("DELETE", "/v1/tenants/{id}", _remove_tenant)
    route("GET", "/v1/audit", _audit)


def _handler(administration: Administration, action: Action, status: HTTPStatus) -> Handler:
    @wraps(action)
    async def handle(request: web.Request) -> web.Response:
        if request.method != "GET" and "origin" in request.headers:
            # A page in somebody's browser must not make keys with the trust that the loopback address has.
            return _json({"error": "browsers may not write here"}, HTTPStatus.FORBIDDEN)
        try:
            return _json(await action(administration, request), status)
        except RecordError as error:
            return _json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        except RecordConflictError as error:
            found = "exists already" in str(error)
            return _json({"error": str(error)}, HTTPStatus.CONFLICT if found else HTTPStatus.NOT_FOUND)
        except IdentityStoreError as error:
            return _json({"error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE)

    return handle


async def _list_keys(administration: Administration, _: web.Request) -> object:
    return {"keys": [key_view(key) for key in await administration.keys()]}


async def _create_key(administration: Administration, request: web.Request) -> object:
    return _shown_once(await administration.create_key(await _document(request), operator_of(request)))


async def _show_key(administration: Administration, request: web.Request) -> object:
    return key_view(await administration.key(request.match_info["id"]))


async def _rotate_key(administration: Administration, request: web.Request) -> object:
    document = await _document(request)
    for name in document:
        if name != "overlap_seconds":
            raise RecordError(f"unknown field {name[:64]!r}; a rotation has overlap_seconds")
    overlap = document.get("overlap_seconds", OVERLAP_SECONDS_DEFAULT)
    if not isinstance(overlap, int) or isinstance(overlap, bool):
        raise RecordError("overlap_seconds must be a whole number")
    return _shown_once(await administration.rotate_key(request.match_info["id"], overlap, operator_of(request)))


async def _revoke_key(administration: Administration, request: web.Request) -> object:
    return key_view(await administration.revoke_key(request.match_info["id"], operator_of(request)))


async def _list_teams(administration: Administration, _: web.Request) -> object:
    return {"teams": [team_view(team) for team in await administration.teams()]}


async def _put_team(administration: Administration, request: web.Request) -> object:
    return team_view(await administration.put_team(await _named(request), operator_of(request)))


async def _remove_team(administration: Administration, request: web.Request) -> object:
    await administration.remove_team(request.match_info["id"], operator_of(request))
    return {"removed": request.match_info["id"]}


async def _list_tenants(administration: Administration, _: web.Request) -> object:
    return {"tenants": [tenant_view(tenant) for tenant in await administration.tenants()]}


async def _put_tenant(administration: Administration, request: web.Request) -> object:
    return tenant_view(await administration.put_tenant(await _named(request), operator_of(request)))


async def _remove_tenant(administration: Administration, request: web.Request) -> object:
    await administration.remove_tenant(request.match_info["id"], operator_of(request))
    return {"removed": request.match_info["id"]}


async def _audit(administration: Administration, request: web.Request) -> object:
    text = request.query.get("limit", str(AUDIT_LIMIT_DEFAULT))
    if not (text.isascii() and text.isdigit() and len(text) < len("1000000")) or not 1 <= int(text) <= AUDIT_LIMIT_MAX:
        raise RecordError(f"limit must be an integer from 1 to {AUDIT_LIMIT_MAX}")
    return {"entries": await administration.audit(int(text))}


def _shown_once(made: NewKey) -> dict[str, object]:
    return {"key": made.text, "record": key_view(made.record)}


async def _named(request: web.Request) -> dict[str, object]:
    """The body of a PUT: the id is that of the path, which the body may repeat."""
    document = await _document(request)
    name = request.match_info["id"]
    if document.setdefault("id", name) != name:
        raise RecordError("the id in the body is not the one in the path")
    return document


async def _document(request: web.Request) -> dict[str, object]:
    raw = await request.read()
    if not raw:
        return {}
    try:
        document: object = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RecordError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise RecordError("send a JSON object")
    return document


def operator_of(request: web.Request) -> str:
    """Who acts, by their own word."""
    name = request.headers.get(OPERATOR_HEADER, "")
    return name if name.isprintable() and 0 < len(name) <= _OPERATOR_CHARS_MAX else "admin API"


def _json(document: object, status: HTTPStatus) -> web.Response:
    body = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(
        body=body, status=status, content_type="application/json", headers={"cache-control": "no-store"}
    )
