"""All errors of the Envoy configuration."""

from __future__ import annotations


class EnvoyConfigError(Exception):
    """Settings from which no Envoy configuration can be made. The message names the setting and the cure."""


class EnvoyNotFoundError(Exception):
    """No Envoy binary on this machine. The message names the cure."""
