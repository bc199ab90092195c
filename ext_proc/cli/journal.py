"""`tollgate journal`: the newest charges of a running stack, one JSON object per line, oldest of them first."""

from __future__ import annotations

import argparse
import json
import sys

from ext_proc.cli.admin_client import add_admin_argument, ask
from ext_proc.cli.command import COMMANDS, Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """The command's options."""
    parser = subparsers.add_parser(
        "journal",
        help=COMMANDS["journal"].help,
        description="Prints the newest journal entries, one JSON object per line; the newest is the last line.",
    )
    parser.add_argument("--limit", default="20", metavar="N", help="how many entries (default %(default)s)")
    add_admin_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the entries."""
    for entry in reversed(ask(args.admin, "/v1/journal", {"limit": args.limit}).items("entries")):
        sys.stdout.write(json.dumps(entry) + "\n")
    return 0
