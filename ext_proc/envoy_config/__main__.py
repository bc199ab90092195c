"""`python -m ext_proc.envoy_config [DIRECTORY]`: render every variant into a directory, `envoy` by default."""

from __future__ import annotations

import argparse
from pathlib import Path

from ext_proc.envoy_config.bootstrap import render
from ext_proc.envoy_config.variants import VARIANTS


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Render the Envoy configurations that are checked in.")
    parser.add_argument("directory", type=Path, nargs="?", default=Path("envoy"))
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    for name, settings in VARIANTS.items():
        (directory / name).write_text(HEADING + render(settings), encoding="utf-8")


HEADING = "# Rendered by `python -m ext_proc.envoy_config`; a test holds the two together. Do not edit.\n"

if __name__ == "__main__":
    main()
