"""LiteLLM's proxy, installed on demand into an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

PACKAGE = "litellm[proxy]"


def find_or_install() -> tuple[Path, str] | None:
    """The command and its version; None, with the reason on stderr, where it cannot be had."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tollgate-bench" / "litellm"
    command, python = home / "bin" / "litellm", home / "bin" / "python"
    if not command.exists():
        print(f"installing {PACKAGE} from PyPI into {home} (once; some hundred megabytes)", file=sys.stderr)
        venv.EnvBuilder(clear=True, with_pip=True).create(home)
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", PACKAGE]
        if subprocess.run(install, check=False, stdout=subprocess.DEVNULL).returncode != 0:
            print(f"LiteLLM is left out: pip could not install {PACKAGE}; its message stands above", file=sys.stderr)
            return None
    question = "from importlib.metadata import version; print(version('litellm'))"
    asked = subprocess.run([str(python), "-c", question], capture_output=True, text=True, check=True)
    return command, asked.stdout.strip()
