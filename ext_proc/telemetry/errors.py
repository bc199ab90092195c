"""All errors of telemetry."""

from __future__ import annotations


class TelemetryError(Exception):
    """The process was started in a way that cannot be measured: the operator's or our supervisor's fault."""
