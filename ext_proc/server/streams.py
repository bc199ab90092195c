"""What a gRPC stream is to the handlers: messages in, serialised answers out."""

from __future__ import annotations

import contextlib
from typing import TypeVar, cast

import grpc

from ext_proc.wire import access_log_service_pb2 as service_pb
from ext_proc.wire import external_processor_pb2 as pb

MessageT = TypeVar("MessageT")
AnswerT = TypeVar("AnswerT")

Stream = grpc.aio.ServicerContext[pb.ProcessingRequest, bytes]
LogStream = grpc.aio.ServicerContext[service_pb.StreamAccessLogsMessage, service_pb.StreamAccessLogsResponse]


async def next_message(stream: grpc.aio.ServicerContext[MessageT, AnswerT]) -> MessageT | None:
    """The next message, None at the end (grpc's own marker is no message, whatever its stubs say)."""
    message: object = await stream.read()
    return None if message is grpc.aio.EOF else cast("MessageT", message)


async def end_with_error(
    stream: grpc.aio.ServicerContext[MessageT, AnswerT], status: grpc.StatusCode, details: str
) -> None:
    """End a stream with an error. Where nobody is there any more to be told, as when Envoy has given up waiting, it is
    no error of ours: the handler is to return.
    """
    with contextlib.suppress(grpc.aio.InternalError):
        await stream.abort(status, details)
