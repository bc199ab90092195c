"""Envoy's configuration: built as typed objects, rendered as text."""

from __future__ import annotations

from ext_proc.envoy_config.binary import find_envoy
from ext_proc.envoy_config.bootstrap import render, render_clusters, render_tokens
from ext_proc.envoy_config.errors import EnvoyConfigError, EnvoyNotFoundError
from ext_proc.envoy_config.settings import (
    Chain,
    EnvoySettings,
    Limits,
    Timeouts,
    TokenIssuer,
    UpstreamAccount,
    WorkerEndpoint,
    find_ca_bundle,
)

__all__ = [
    "Chain",
    "EnvoyConfigError",
    "EnvoyNotFoundError",
    "EnvoySettings",
    "Limits",
    "Timeouts",
    "TokenIssuer",
    "UpstreamAccount",
    "WorkerEndpoint",
    "find_ca_bundle",
    "find_envoy",
    "render",
    "render_clusters",
    "render_tokens",
]
