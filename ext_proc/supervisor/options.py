"""What a stack is started with: the command line, read and checked before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ext_proc.listener_tls import ListenerTls
from ext_proc.server.settings import Metering
from ext_proc.supervisor.addresses import Address
from ext_proc.supervisor.errors import OptionError


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


def parse_upstreams(texts: list[str]) -> dict[str, str]:
    """Read `ACCOUNT=URL` options. Raises OptionError."""
    upstreams: dict[str, str] = {}
    for text in texts:
        account, equals, url = text.partition("=")
        parts = urlsplit(url)
        if not account or not equals or parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(
                f"--upstream {text}: expected ACCOUNT=URL, as in --upstream openai-main=http://127.0.0.1:9999"
            )
        if account in upstreams:
            raise OptionError(f"--upstream {text}: {account} is named twice")
        upstreams[account] = url.rstrip("/")
    return upstreams
