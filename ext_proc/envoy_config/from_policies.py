"""Settings for the Envoy beside `tollgate serve --socket-dir`: its accounts are those of the policies."""

from __future__ import annotations

from collections.abc import Mapping

from ext_proc.envoy_config.errors import EnvoyConfigError
from ext_proc.envoy_config.settings import Chain, UpstreamAccount, WorkerEndpoint
from ext_proc.policy.snapshot import Snapshot
from ext_proc.routing.chains import Chains
from ext_proc.routing.virtual_models import VirtualModels


def worker_endpoints(socket_dir: str, count: int) -> tuple[WorkerEndpoint, ...]:
    """The workers, by the names of their sockets: w0.sock, w1.sock, …"""
    return tuple(WorkerEndpoint(f"w{index}", f"unix:{socket_dir}/w{index}.sock") for index in range(count))


def upstream_accounts(snapshot: Snapshot, upstreams: Mapping[str, str]) -> tuple[UpstreamAccount, ...]:
    """A cluster per provider account. `upstreams` sends accounts to other URLs. Raises EnvoyConfigError."""
    unknown = sorted(set(upstreams) - set(snapshot.accounts))
    if unknown:
        known = ", ".join(sorted(snapshot.accounts))
        raise EnvoyConfigError(f"--upstream {unknown[0]}: the policies have no such account; they have {known}")
    return tuple(
        UpstreamAccount(name, upstreams.get(name, account.endpoint)) for name, account in snapshot.accounts.items()
    )


def chains(snapshot: Snapshot) -> tuple[Chain, ...]:
    """Every sequence of accounts that the set's virtual models can try, as the workers choose among them."""
    known = Chains.of(VirtualModels.of(snapshot), snapshot.accounts)
    return tuple(Chain(name, accounts) for name, accounts in known.clusters.items())
