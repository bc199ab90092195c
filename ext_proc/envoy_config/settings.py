"""What an Envoy configuration is made from: one frozen value."""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ext_proc.envoy_config.errors import EnvoyConfigError
from ext_proc.listener_tls import ListenerTls
from ext_proc.policy.terms import AwsSigning
from ext_proc.server.settings import Metering

NO_CLUSTER = "none"
"""The cluster without an endpoint: what the catch-all route names while admit holds a request."""

RESERVED_PREFIX = "tollgate-"
"""Of our own clusters; no account may be named so."""

MEBIBYTE = 1 << 20

CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, the Envoy images
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # BSD, macOS
)


@dataclass(frozen=True, slots=True)
class WorkerEndpoint:
    """One sidecar worker: `w0`, and `unix:/…/w0.sock` or `host:port`."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class UpstreamAccount:
    """One provider account: its cluster has its name. `url` is scheme://host[:port]; a base path is admit's to add."""

    name: str
    url: str
    signing: AwsSigning | None = None  # Envoy signs what is sent there

    @property
    def secure(self) -> bool:
        """Whether the provider is spoken to over TLS."""
        return urlsplit(self.url).scheme == "https"

    @property
    def host(self) -> str:
        """The provider's host name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The provider's port; the scheme's where the URL names none."""
        return urlsplit(self.url).port or (443 if self.secure else 80)

    @property
    def authority(self) -> str:
        """The Host header the provider sees: without a port that its scheme implies, as its own clients send it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def is_address(self) -> bool:
        """Whether the host is an IP literal, which needs no name resolution."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """Whose tokens Envoy accepts: with the keys in `jwks_file`, whose content is `jwks_digest`, or at `jwks_uri`."""

    issuer: str
    audiences: tuple[str, ...]
    jwks_file: str | None = None
    jwks_digest: str = ""
    jwks_uri: str | None = None

    @property
    def name(self) -> str:
        """Changes with the content of the file, so that Envoy reads it again: only a changed configuration does."""
        return f"{self.issuer} {self.jwks_digest}" if self.jwks_digest else self.issuer

    @property
    def key_server(self) -> UpstreamAccount | None:
        """The server that publishes the keys."""
        if self.jwks_uri is None:
            return None
        parts = urlsplit(self.jwks_uri)
        return UpstreamAccount(self.cluster, f"{parts.scheme}://{parts.netloc}")

    @property
    def cluster(self) -> str:
        """The cluster of the server that publishes the keys."""
        parts = urlsplit(self.jwks_uri or "")
        return f"{RESERVED_PREFIX}jwks-{parts.scheme}-{parts.netloc}"


@dataclass(frozen=True, slots=True)
class Chain:
    """A sequence of accounts that one request may try: the n-th attempt goes to the n-th."""

    name: str
    accounts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one Envoy takes on, so that no client can exhaust it. Bytes and seconds."""

    request_body_bytes: int = 32 * MEBIBYTE  # more is answered 413
    connection_buffer_bytes: int = MEBIBYTE  # what a slow client can make Envoy keep; routes lift it for request bodies
    connections: int = 50_000  # downstream
    streams_per_connection: int = 256  # HTTP/2
    heap_bytes: int | None = None  # None: no limit of Envoy's own; else new requests are refused at 95 %
    upstream_requests: int = 100_000  # per cluster; Envoy's default of 1024 answers 503 to the next one


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each step may take, in seconds."""

    admission: float = 2.0  # per message to admit or meter; longer than a worker's own deadline
    request: int = 300  # for a client to send a whole request
    request_headers: int = 10
    stream_idle: int = 900  # models may think for minutes without a byte; official SDKs wait 600
    stream: int = 3600  # from first byte to last
    connect: float = 5.0  # to a provider
    drain: float = 5.0  # between telling HTTP clients to go away and closing


@dataclass(frozen=True, slots=True)
class EnvoySettings:
    """Everything a configuration depends on. Equal settings render equal bytes."""

    workers: tuple[WorkerEndpoint, ...]
    accounts: tuple[UpstreamAccount, ...]
    chains: tuple[Chain, ...] = ()
    token_issuers: tuple[TokenIssuer, ...] = ()
    clusters_file: str | None = None  # accounts and chains stand in this file, which may change while Envoy runs
    tokens_file: str | None = None  # whose tokens are accepted stands in this file, likewise
    listen_host: str = "127.0.0.1"
    listen_port: int = 10000
    tls: ListenerTls | None = None  # None: plain HTTP, where something in front ends TLS
    admin: str | None = None  # `unix:/…` or `host:port`: dumps configuration, so never where others can reach it
    hold_lease_seconds: int = 120
    metering: Metering = Metering.STREAM
    ca_bundle: str = CA_BUNDLES[0]
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)

    def __post_init__(self) -> None:
        """Refuse what Envoy would accept and then serve wrongly. Raises EnvoyConfigError."""
        if not self.workers:
            raise EnvoyConfigError("workers: at least one is needed, or every request is refused")
        _refuse_repeats("workers", [worker.name for worker in self.workers])
        _refuse_repeats("accounts", [account.name for account in self.accounts])
        for account in self.accounts:
            _check_account(account)


def _refuse_repeats(setting: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise EnvoyConfigError(f"{setting}: {', '.join(repeated)} is named twice; names must differ")


def _check_account(account: UpstreamAccount) -> None:
    setting = f"accounts: {account.name}"
    if not account.name or account.name == NO_CLUSTER or account.name.startswith(RESERVED_PREFIX):
        raise EnvoyConfigError(f"{setting}: `{NO_CLUSTER}` and names starting `{RESERVED_PREFIX}` are Tollgate's own")
    try:
        valid = urlsplit(account.url).scheme in {"http", "https"} and bool(account.host) and account.port > 0
    except ValueError:
        valid = False
    if not valid:
        raise EnvoyConfigError(f"{setting}: {account.url!r} is no URL; write https://host or http://host:port")


def find_ca_bundle() -> str:
    """The file of certificate authorities this system trusts. Raises EnvoyConfigError naming the cure."""
    candidates = (os.environ.get("SSL_CERT_FILE"), *CA_BUNDLES, ssl.get_default_verify_paths().cafile)
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return candidate
    raise EnvoyConfigError("no CA bundle: install the package ca-certificates, or set SSL_CERT_FILE to a PEM file")
