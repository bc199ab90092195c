"""From options to Envoy's settings. Apart from the other parts: the classes of Envoy's configuration are 120 modules, a
second to load, and `tollgate serve` has no Envoy to configure.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ext_proc.envoy_config import (
    EnvoyConfigError,
    EnvoyNotFoundError,
    EnvoySettings,
    UpstreamAccount,
    WorkerEndpoint,
    find_ca_bundle,
    find_envoy,
)
from ext_proc.envoy_config.from_policies import chains, token_issuers
from ext_proc.supervisor.addresses import Address
from ext_proc.supervisor.errors import MissingBinaryError, SupervisorError
from ext_proc.supervisor.options import SidecarOptions
from ext_proc.supervisor.parts import Policies, WorkerPlaces


def find_envoy_binary() -> Path:
    """Raises MissingBinaryError with the cure."""
    try:
        return find_envoy()
    except EnvoyNotFoundError as error:
        raise MissingBinaryError(str(error)) from None


def build_envoy_settings(
    options: SidecarOptions, policies: Policies, places: WorkerPlaces, listen: Address, upstreams: Mapping[str, str]
) -> EnvoySettings:
    """Raises SupervisorError where no configuration can be made from them."""
    urls = {name: upstreams.get(name, account.endpoint) for name, account in policies.snapshot.accounts.items()}
    try:
        issuers = token_issuers(policies.snapshot)
        published = (issuer.jwks_uri for issuer in issuers if issuer.jwks_uri is not None)
        speaks_tls = any(url.startswith("https://") for url in (*urls.values(), *published))
        return EnvoySettings(
            workers=tuple(WorkerEndpoint(name, address) for name, address in places.addresses.items()),
            accounts=tuple(
                UpstreamAccount(name, url, policies.snapshot.accounts[name].signing) for name, url in urls.items()
            ),
            chains=chains(policies.snapshot),
            token_issuers=issuers,
            listen_host=listen.host,
            listen_port=listen.port,
            hold_lease_seconds=options.hold_lease_seconds,
            metering=options.metering,
            # With the mock provider alone, a machine without certificate authorities will do.
            ca_bundle=find_ca_bundle() if speaks_tls else "",
        )
    except EnvoyConfigError as error:
        raise SupervisorError(f"Envoy cannot be configured: {error}") from None
