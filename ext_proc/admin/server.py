"""The admin API on a bound socket, for the length of a block."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator

from aiohttp import web

from ext_proc.admin.app import create_app
from ext_proc.admin.context import AdminContext

_SHUTDOWN_SECONDS = 1.0


@contextlib.asynccontextmanager
async def admin_api(context: AdminContext, bound: socket.socket) -> AsyncIterator[None]:
    """It answers from the first line of the block to the last."""
    server = web.AppRunner(
        create_app(context), access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS
    )
    await server.setup()
    await web.SockSite(server, bound).start()
    try:
        yield
    finally:
        await server.cleanup()
