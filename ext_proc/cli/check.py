"""`tollgate check DIR`: is a policy set right, and does it mean what it seems to mean?"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ext_proc.cli.catalogue import add_catalogue_argument, read_catalogue
from ext_proc.cli.command import COMMANDS, Subparsers
from ext_proc.exchange.terms import Terms
from ext_proc.policy.errors import PolicyError, PolicySetError
from ext_proc.policy.lint import PricesAt, lint
from ext_proc.policy.loader import load_files, read
from ext_proc.policy.samples import read_samples
from ext_proc.pricing.catalogue import Catalogue

EXIT_OK = 0
EXIT_WRONG = 1


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "check",
        help=COMMANDS["check"].help,
        description="Validate a policy set. Prints every error as `file:line: field: what is wrong, what would be "
        "right`, and what looks like a mistake as `warning: …`. Exit code 1 where there is an error.",
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="the directory of the policy set")
    parser.add_argument(
        "--samples", metavar="FILE", type=Path, help="sample requests (YAML): warn of rules that match none of them"
    )
    add_catalogue_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Check one directory; 0, or 1 where it would not load."""
    try:
        warnings = _check(args.directory, args.samples, read_catalogue(args.catalogue))
    except PolicySetError as refused:
        sys.stdout.writelines(f"{error}\n" for error in refused.errors)
        count = len(refused.errors)
        sys.stderr.write(f"{count} error{'s' if count > 1 else ''}: this set would not load\n")
        return EXIT_WRONG
    sys.stdout.writelines(f"warning: {warning}\n" for warning in warnings)
    return EXIT_OK


def _check(directory: Path, samples: Path | None, catalogue: Catalogue | None) -> list[PolicyError]:
    files = read(directory)
    snapshot = load_files(files)
    prices = PricesAt(Terms.of(snapshot, lease_ms=0, catalogue=catalogue).prices, time.time_ns() // 1_000)
    return lint(snapshot, files=files, samples=read_samples(samples) if samples else (), prices=prices)
