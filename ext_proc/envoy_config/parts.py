"""Small typed parts that every module of the configuration uses."""

from __future__ import annotations

from datetime import timedelta

from betterproto2 import Message
from envoy_data_plane.envoy.config.core.v3 import Address, GrpcService, GrpcServiceEnvoyGrpc, HeaderValue, Pipe
from envoy_data_plane.envoy.config.core.v3 import SocketAddress as CoreSocketAddress
from envoy_data_plane.google.protobuf import Any as PackedAny

from ext_proc.envoy_config.errors import EnvoyConfigError


def packed(message: Message) -> PackedAny:
    """A message as Envoy's `typed_config` wants it."""
    return PackedAny.pack(message)


def seconds(count: float) -> timedelta:
    """A duration."""
    return timedelta(seconds=count)


def socket(host: str, port: int) -> Address:
    """A TCP address."""
    return Address(socket_address=CoreSocketAddress(address=host, port_value=port))


def address(text: str) -> Address:
    """Read `unix:/path` or `host:port` (`[v6]:port`). Raises EnvoyConfigError."""
    if text.startswith("unix:"):
        return Address(pipe=Pipe(path=text.removeprefix("unix:").removeprefix("//")))
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise EnvoyConfigError(f"{text!r} is no address; write unix:/path/to.sock or host:port")
    return socket(host.removeprefix("[").removesuffix("]"), int(port))


def grpc(cluster: str, initial_metadata: dict[str, str] | None = None) -> GrpcService:
    """A gRPC service of Envoy's own client, which is twice as cheap as Google's. Its streams live as long as needed."""
    return GrpcService(
        envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=cluster),
        timeout=seconds(0),
        initial_metadata=[HeaderValue(key=key, value=value) for key, value in (initial_metadata or {}).items()],
    )
