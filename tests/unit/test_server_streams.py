"""gRPC streams as the handlers see them, over a real connection."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import grpc
import pytest

from ext_proc.server.streams import Stream, end_with_error, next_message

METHOD = "/test/Stream"


def test_a_stream_that_nobody_waits_for_ends_quietly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A worker so busy that Envoy has given up on it ends the stream without an error and a line of log."""
    address = f"unix:{tmp_path}/socket"

    async def run() -> None:
        begun, over = asyncio.Event(), asyncio.Event()
        raised: list[Exception] = []

        async def process(_: object, stream: Stream) -> None:
            begun.set()
            assert await next_message(stream) is None
            try:
                await end_with_error(stream, grpc.StatusCode.ABORTED, "too late")
            except Exception as error:  # noqa: BLE001  whatever it is, it must not be
                raised.append(error)
            over.set()

        server = grpc.aio.server()
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(process)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Stream": handler}),))
        server.add_insecure_port(address)
        await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(METHOD)()
            await begun.wait()
            call.cancel()
            await over.wait()
        await server.stop(None)
        assert not raised

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    assert not caplog.records
