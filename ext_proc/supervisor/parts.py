"""From options to the services of a stack: what `tollgate up` and `tollgate serve` share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ext_proc.policy.documents.provider import DEFAULT_ENDPOINTS
from ext_proc.policy.snapshot import ProviderAccount, Snapshot
from ext_proc.policy.terms import AwsSigning, AwsSource
from ext_proc.server.settings import WorkerSettings
from ext_proc.supervisor.options import SidecarOptions
from ext_proc.supervisor.policy_watch import PolicyWatch
from ext_proc.supervisor.providers import Routing, route
from ext_proc.supervisor.state_dir import StateDir
from ext_proc.supervisor.warm_workers import worker_names
from ext_proc.supervisor.workers import Worker

_UNIX = "unix:"


@dataclass(frozen=True, slots=True)
class Policies:
    """A policy set that loads, and where the accounts it had at start lead."""

    watch: PolicyWatch
    routing: Routing

    @property
    def snapshot(self) -> Snapshot:
        """The set in force."""
        return self.watch.snapshot


def load_policies(options: SidecarOptions) -> Policies:
    """Raises SupervisorError with every error of the set, or OptionError for an --upstream it does not have."""
    watch = PolicyWatch(options.policies)
    routing = route(
        watch.snapshot.accounts, options.upstreams, has_credential=has_credential, is_configured=has_endpoint_of_its_own
    )
    return Policies(watch, routing)


def has_credential(account: ProviderAccount) -> bool:
    """Whether the account's key is at hand, or comes with each request."""
    if account.client_credential:
        return True
    if account.signing is not None:
        return _has_aws_credential(account.signing)
    if account.credential_env is not None:
        return bool(os.environ.get(account.credential_env))
    return account.credential_file is not None and Path(account.credential_file).is_file()


def _has_aws_credential(signing: AwsSigning) -> bool:
    match signing.source:
        case AwsSource.ENVIRONMENT:
            return bool(os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"))
        case AwsSource.FILE:
            return Path(signing.file or "").is_file()
        case AwsSource.CHAIN:  # a machine's or a pod's own identity: only asking would tell
            return True


def has_endpoint_of_its_own(account: ProviderAccount) -> bool:
    """Whether the policies send the account elsewhere than to the provider's public endpoint: a server of one's own,
    which may want no credential.
    """
    return account.endpoint.rstrip("/") != DEFAULT_ENDPOINTS.get(account.provider, "").rstrip("/")


@dataclass(frozen=True, slots=True)
class WorkerPlaces:
    """Worker name → `unix:/…/w0.sock` or `host:port`."""

    addresses: Mapping[str, str]

    @classmethod
    def in_directory(cls, directory: Path, count: int) -> WorkerPlaces:
        """One Unix socket per worker."""
        return cls({name: f"{_UNIX}{directory / f'{name}.sock'}" for name in worker_names(count)})

    @property
    def unix_sockets(self) -> tuple[Path, ...]:
        """The sockets that are files."""
        addresses = self.addresses.values()
        return tuple(Path(text.removeprefix(_UNIX)) for text in addresses if text.startswith(_UNIX))


def build_workers(
    options: SidecarOptions,
    places: WorkerPlaces,
    state: StateDir,
    *,
    redis_url: str,
    upstreams: Callable[[], dict[str, str]],
) -> list[Worker]:
    """The workers. `upstreams` is asked at each start, when the mock provider's URL is known."""

    def log_of(name: str) -> Path:
        return state.logs / f"{name}.log"

    def settings(name: str, listen: str) -> WorkerSettings:
        return WorkerSettings(
            name=name,
            listen=listen,
            policies=str(options.policies),
            redis_url=redis_url,
            state_dir=str(state.path),
            metrics_dir=str(state.metrics),
            metering=options.metering,
            hold_lease_seconds=options.hold_lease_seconds,
            drain_seconds=options.drain_seconds,
            log=str(log_of(name)),
            upstreams=upstreams(),
            catalogue=None if options.catalogue is None else str(state.catalogue),
        )

    return [
        Worker(name, partial(settings, name, listen), log_of(name), drain_seconds=options.drain_seconds)
        for name, listen in places.addresses.items()
    ]
