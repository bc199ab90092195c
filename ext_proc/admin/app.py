"""The admin HTTP API: routes, parameters, the token. Every answer but `/metrics` is JSON, errors included."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Collection
from http import HTTPStatus

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from ext_proc import __version__
from ext_proc.admin.accounts import account_json
from ext_proc.admin.budget_actions import add_budget_routes
from ext_proc.admin.context import AdminContext, ledger_answers
from ext_proc.admin.errors import ParameterError
from ext_proc.admin.keys import add_key_routes
from ext_proc.admin.ledger import add_ledger_routes
from ext_proc.admin.scrape import scrape
from ext_proc.admin.targets import add_target_routes
from ext_proc.ledger.realms_ledger import StoreLedger
from ext_proc.telemetry.names import LogEvent

logger = logging.getLogger("tollgate.admin")

BUDGETS_LIMIT_DEFAULT = 1_000
JOURNAL_LIMIT_DEFAULT = 100
LIMIT_MAX = 10_000
_TEXT_CHARS_MAX = 1_024

_CONTEXT = web.AppKey("context", AdminContext)
_EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_GUARDED = "/v1/"


def create_app(context: AdminContext) -> web.Application:
    """The application; the caller binds and runs it."""
    app = web.Application(middlewares=[_errors_as_json, _guard])
    app[_CONTEXT] = context
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _readyz)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/v1/budgets", _budgets)
    app.router.add_get("/v1/journal", _journal)
    if isinstance(context.ledger, StoreLedger):
        add_ledger_routes(app, context.ledger)
    if context.policy is not None:
        app.router.add_get("/v1/policy", _policy)
    if context.snapshot is not None:
        add_budget_routes(app, context.ledger, context.snapshot)
    if context.administration is not None:
        add_key_routes(app, context.administration)
    if context.targets is not None:
        add_target_routes(app, context.targets)
    return app


async def _healthz(_: web.Request) -> web.Response:
    """Alive: asks nothing of Redis or the workers."""
    return _json({"status": "ok", "version": __version__})


async def _readyz(request: web.Request) -> web.Response:
    context = request.app[_CONTEXT]
    components = dict(context.readiness())
    ready = all(state is not False for state in components.values())
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    document: dict[str, object] = {
        "ready": ready,
        "components": components,
        "policy": dict(context.snapshot_info()),
    }
    if context.catalogue_info is not None:
        document["prices"] = dict(context.catalogue_info())
    return _json(document, status)


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(body=await scrape(request.app[_CONTEXT]), headers={"content-type": _EXPOSITION_TYPE})


async def _budgets(request: web.Request) -> web.Response:
    _known_parameters(request, ("rule", "limit", "cursor"))
    rule = _text(request, "rule")
    limit = _limit(request, BUDGETS_LIMIT_DEFAULT)
    cursor = _text(request, "cursor") or ""
    ledger = request.app[_CONTEXT].ledger
    accounts, next_cursor = await ledger.balances(rule=rule, limit=limit, cursor=cursor)
    if not accounts and not await ledger_answers(ledger):
        return _silent_ledger()
    return _json({"accounts": [account_json(account) for account in accounts], "next_cursor": next_cursor or None})


async def _policy(request: web.Request) -> web.Response:
    _known_parameters(request, ())
    report = request.app[_CONTEXT].policy
    assert report is not None, "the route exists where there is something to report"
    return _json(dict(report()))


async def _journal(request: web.Request) -> web.Response:
    _known_parameters(request, ("limit",))
    ledger = request.app[_CONTEXT].ledger
    entries = await ledger.journal(_limit(request, JOURNAL_LIMIT_DEFAULT))
    if not entries and not await ledger_answers(ledger):
        return _silent_ledger()
    return _json({"entries": list(entries)})


def _known_parameters(request: web.Request, known: Collection[str]) -> None:
    for name in request.query:
        if name not in known:
            raise ParameterError(f"unknown parameter {name[:64]!r}; known are {', '.join(known)}")
        if len(request.query.getall(name)) > 1:
            raise ParameterError(f"{name} is given more than once")


def _text(request: web.Request, name: str) -> str | None:
    text = request.query.get(name)
    if text is not None and (len(text) > _TEXT_CHARS_MAX or not text.isprintable()):
        raise ParameterError(f"{name} must be at most {_TEXT_CHARS_MAX} printable characters")
    return text


def _limit(request: web.Request, default: int) -> int:
    text = request.query.get("limit")
    if text is None:
        return default
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(LIMIT_MAX))
    if not digits or not 1 <= int(text) <= LIMIT_MAX:
        raise ParameterError(f"limit must be an integer from 1 to {LIMIT_MAX}, not {text[:64]!r}")
    return int(text)


def _silent_ledger() -> web.Response:
    return _error(
        HTTPStatus.SERVICE_UNAVAILABLE, "Redis does not answer, so balances are unknown. Retry; see tollgate_ledger_up."
    )


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """`/v1/*` says who spends what: only for those who may know."""
    context = request.app[_CONTEXT]
    if not request.path.startswith(_GUARDED) or (context.token is None and context.loopback):
        return await handler(request)
    if context.token is None:
        return _error(HTTPStatus.FORBIDDEN, "no admin token is configured: /v1/ answers on a loopback address only")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    expected = context.token.encode()
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("utf-8", "replace"), expected):
        response = _error(HTTPStatus.UNAUTHORIZED, "send the admin token as 'authorization: Bearer <token>'")
        response.headers["www-authenticate"] = "Bearer"
        return response
    return await handler(request)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ParameterError as error:
        return _error(HTTPStatus.BAD_REQUEST, str(error))
    except web.HTTPNotFound:
        paths = ", ".join(resource.canonical for resource in request.app.router.resources())
        return _error(HTTPStatus.NOT_FOUND, f"nothing here; known paths are {paths}")
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(set(error.allowed_methods) - {"HEAD"}))
        response = _error(HTTPStatus.METHOD_NOT_ALLOWED, f"{request.method} is not allowed; use {allowed}")
        response.headers["allow"] = ", ".join(sorted(error.allowed_methods))
        return response
    except web.HTTPException as error:
        return _error(HTTPStatus(error.status), error.reason)
    except Exception:
        # Whatever is broken here must not end the supervisor, which runs the whole stack.
        logger.exception(LogEvent.ADMIN_ERROR, extra={"path": request.path})
        return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; see the log")


def _json(document: object, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    body = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(
        body=body, status=status, content_type="application/json", headers={"cache-control": "no-store"}
    )


def _error(status: HTTPStatus, message: str) -> web.Response:
    return _json({"error": message}, status)
