"""The option `--catalogue FILE` of commands that look at prices without a running stack."""

from __future__ import annotations

import argparse
from pathlib import Path

from ext_proc.cli.errors import CommandError
from ext_proc.pricing.catalogue import Catalogue
from ext_proc.pricing.catalogue_file import read
from ext_proc.pricing.errors import CatalogueError


def add_catalogue_argument(parser: argparse.ArgumentParser) -> None:
    """Public prices that a file holds, as `tollgate up --catalogue` reads it."""
    parser.add_argument(
        "--catalogue", metavar="FILE", type=Path, help="public prices in place of those that ship (default: those)"
    )


def read_catalogue(file: Path | None) -> Catalogue | None:
    """The file's catalogue, None without a file. Raises CommandError where it would not be taken."""
    try:
        return None if file is None else read(file)
    except CatalogueError as error:
        raise CommandError(f"--catalogue {error}") from None
