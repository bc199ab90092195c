"""grpc.health.v1, for Envoy's health checks and Kubernetes probes.

SERVING means: policies are loaded and the worker is not draining. Redis is not part of it: its loss is answered by
policy, or else every replica would leave at once.
"""

from __future__ import annotations

import asyncio

import grpc

from ext_proc.wire import health_pb2 as pb

SERVICES = ("", "envoy.service.ext_proc.v3.ExternalProcessor", "envoy.service.accesslog.v3.AccessLogService")

Check = grpc.aio.ServicerContext[pb.HealthCheckRequest, pb.HealthCheckResponse]


class Health:
    """The status of one worker."""

    def __init__(self) -> None:
        self._serving = True
        self._changed = asyncio.Event()

    def stop_serving(self) -> None:
        """Answer NOT_SERVING from now on: the worker is draining."""
        self._serving = False
        self._changed.set()

    async def check(self, request: pb.HealthCheckRequest, context: Check) -> pb.HealthCheckResponse:
        """The status now."""
        if request.service not in SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service!r}")
        return self._response()

    async def watch(self, request: pb.HealthCheckRequest, context: Check) -> None:
        """The status now and when it changes."""
        if request.service not in SERVICES:
            await context.write(pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN))
            return
        await context.write(self._response())
        await self._changed.wait()
        await context.write(self._response())

    def _response(self) -> pb.HealthCheckResponse:
        status = pb.HealthCheckResponse.SERVING if self._serving else pb.HealthCheckResponse.NOT_SERVING
        return pb.HealthCheckResponse(status=status)
