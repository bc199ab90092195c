"""The configurations that are rendered into `envoy/` and checked in: examples, and what deployments mount."""

from __future__ import annotations

from ext_proc.envoy_config.settings import EnvoySettings, UpstreamAccount, WorkerEndpoint

PUBLIC_ACCOUNTS = (
    UpstreamAccount("openai-main", "https://api.openai.com"),
    UpstreamAccount("anthropic-main", "https://api.anthropic.com"),
    UpstreamAccount("gemini-main", "https://generativelanguage.googleapis.com"),
)
"""Where each dialect's requests go unless a policy set says otherwise."""

RUN_DIRECTORY = "/run/tollgate"
"""Where the sidecar's sockets are in a container; a volume that both containers mount."""

VARIANTS = {
    # One machine, as `tollgate up` runs it.
    "envoy.yaml": EnvoySettings(
        workers=tuple(WorkerEndpoint(name, f"unix:{RUN_DIRECTORY}/{name}.sock") for name in ("w0", "w1")),
        accounts=PUBLIC_ACCOUNTS,
        admin=f"unix:{RUN_DIRECTORY}/envoy-admin.sock",
    ),
    # A container beside the sidecar: reachable from other machines.
    "sidecar.yaml": EnvoySettings(
        workers=tuple(WorkerEndpoint(name, f"unix:{RUN_DIRECTORY}/{name}.sock") for name in ("w0", "w1")),
        accounts=PUBLIC_ACCOUNTS,
        listen_host="0.0.0.0",  # noqa: S104 - clients are on other machines
        admin=f"unix:{RUN_DIRECTORY}/envoy-admin.sock",
    ),
}
"""File name → settings."""
