"""An ext_proc server that answers "continue" to everything and does nothing else: the floor below Tollgate.

    python -m bench.gateways.floor unix:/path/to.sock

It is what a Python ext_proc server costs before it has done anything: the same gRPC library and event loop, the same
parsed message, constant answers.
"""

from __future__ import annotations

import sys
from typing import cast

import grpc
import uvloop

from ext_proc import wire
from ext_proc.wire.external_processor_pb2 import (
    BodyResponse,
    HeadersResponse,
    ProcessingRequest,
    ProcessingResponse,
    TrailersResponse,
)

ANSWERS = {
    "request_headers": ProcessingResponse(request_headers=HeadersResponse()).SerializeToString(),
    "request_body": ProcessingResponse(request_body=BodyResponse()).SerializeToString(),
    "response_headers": ProcessingResponse(response_headers=HeadersResponse()).SerializeToString(),
    "response_body": ProcessingResponse(response_body=BodyResponse()).SerializeToString(),
    "response_trailers": ProcessingResponse(response_trailers=TrailersResponse()).SerializeToString(),
}

Stream = grpc.aio.ServicerContext[ProcessingRequest, bytes]


async def process(_: object, stream: Stream) -> None:
    """Answer each message at once."""
    while True:
        message: object = await stream.read()
        if message is grpc.aio.EOF:
            return
        kind = cast("ProcessingRequest", message).WhichOneof("request")
        await stream.write(ANSWERS[str(kind)])


async def serve(address: str) -> None:
    """Serve until killed."""
    server = grpc.aio.server()
    method: grpc.RpcMethodHandler[ProcessingRequest, bytes] = grpc.stream_stream_rpc_method_handler(
        process, request_deserializer=ProcessingRequest.FromString
    )
    service, name = wire.PROCESS_METHOD.strip("/").split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: method}),))
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
