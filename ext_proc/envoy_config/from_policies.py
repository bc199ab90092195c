"""Settings for the Envoy beside `tollgate serve --socket-dir`: its accounts are those of the policies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from ext_proc.envoy_config.errors import EnvoyConfigError
from ext_proc.envoy_config.settings import Chain, TokenIssuer, UpstreamAccount, WorkerEndpoint
from ext_proc.identity.identities import jwt_of
from ext_proc.policy.documents import identity as documents
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
        UpstreamAccount(name, upstreams.get(name, account.endpoint), account.signing)
        for name, account in snapshot.accounts.items()
    )


def token_issuers(snapshot: Snapshot) -> tuple[TokenIssuer, ...]:
    """Whose tokens are accepted. Raises EnvoyConfigError where a file of keys cannot be read, or holds none."""
    jwt = jwt_of(snapshot)
    return () if jwt is None else tuple(_issuer(issuer) for issuer in jwt.issuers)


def _issuer(written: documents.TokenIssuer) -> TokenIssuer:
    digest = "" if written.jwks_file is None else _digest(written.issuer, Path(written.jwks_file))
    return TokenIssuer(written.issuer, written.audiences, written.jwks_file, digest, written.jwks_uri)


def _digest(issuer: str, file: Path) -> str:
    place = f"the token issuer {issuer}: {file}"
    try:
        content = file.read_bytes()
        keys = json.loads(content)["keys"]
    except OSError as error:
        raise EnvoyConfigError(f"{place}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        keys = None
    if not isinstance(keys, list) or not keys:
        raise EnvoyConfigError(f'{place} is no key set; it should be JSON as {{"keys": [{{"kty": …}}]}}')
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def chains(snapshot: Snapshot) -> tuple[Chain, ...]:
    """Every sequence of accounts that the set's virtual models can try, as the workers choose among them."""
    known = Chains.of(VirtualModels.of(snapshot), snapshot.accounts)
    return tuple(Chain(name, accounts) for name, accounts in known.clusters.items())
