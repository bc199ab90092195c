"""`/v1/targets`: how the targets of virtual models are doing, as every worker sees them."""

from __future__ import annotations

from http import HTTPStatus

import orjson
from aiohttp import web

from ext_proc.admin.context import Targets
from ext_proc.ledger.errors import StoreError
from ext_proc.routing.health import HEALTH_WINDOW_SECONDS, Health
from ext_proc.routing.virtual_models import VirtualModels


def add_target_routes(app: web.Application, targets: Targets) -> None:
    """Put `/v1/targets` into the admin API."""

    async def show(_: web.Request) -> web.Response:
        try:
            health = await targets.health()
        except StoreError:
            error = {"error": "Redis does not answer, so the health of targets is unknown. Retry."}
            return _json(error, HTTPStatus.SERVICE_UNAVAILABLE)
        return _json(
            {"window_seconds": HEALTH_WINDOW_SECONDS, "targets": targets_json(targets.virtual_models(), health)}
        )

    app.router.add_get("/v1/targets", show)


def targets_json(virtual_models: VirtualModels, health: Health) -> list[dict[str, object]]:
    """One entry per rule and target, in the order they are written. Figures that nothing is known of are null."""
    found: list[dict[str, object]] = []
    for rule in virtual_models.rules:
        for member in rule.members:
            counts = health.counts(member.name)
            found.append(
                {
                    "rule": rule.id,
                    "target": member.name,
                    "state": "unhealthy" if member.is_unhealthy(health) else "healthy",
                    "attempts": counts.attempts,
                    "failures": counts.failures,
                    "error_rate": counts.error_rate,
                    "ttft_ms": counts.mean_ttft_ms,
                    "ttft_p95_ms": counts.ttft_p95_ms,
                    "time_per_output_token_ms": counts.time_per_output_token_ms,
                }
            )
    return found


def _json(document: object, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    body = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    headers = {"cache-control": "no-store"}
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
