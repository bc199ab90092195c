"""What a stack is started with: the command line, read and checked before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ext_proc.listener_tls import ListenerTls
from ext_proc.server.settings import Metering
from ext_proc.supervisor.addresses import Address


@dataclass(frozen=True, slots=True)
class SidecarOptions:
    """The sidecar: workers and the admin API."""

    policies: Path
    admin: Address
    state_dir: Path
    upstreams: Mapping[str, str]  # account → URL that replaces its endpoint
    workers: int
    metering: Metering
    hold_lease_seconds: int
    drain_seconds: int  # how long live streams may finish once the stop was asked for
    catalogue: Path | None = None  # a file of public prices in place of those that ship


@dataclass(frozen=True, slots=True)
class StackOptions:
    """`tollgate up`. `redis_url` None: the embedded Redis."""

    sidecar: SidecarOptions
    listen: Address
    redis_url: str | None
    tls: ListenerTls | None = None


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """`tollgate serve`. Workers listen in `socket_dir`, or the only one on `grpc_listen`."""

    sidecar: SidecarOptions
    redis_url: str
    socket_dir: Path | None
    grpc_listen: Address | None
