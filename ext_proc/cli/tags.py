"""`tollgate tags docs DIR`: the tag glossary of a policy set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ext_proc.cli.command import COMMANDS, Subparsers
from ext_proc.cli.errors import CommandError
from ext_proc.policy.errors import PolicySetError
from ext_proc.policy.glossary import glossary
from ext_proc.policy.loader import load


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("tags", help=COMMANDS["tags"].help, description="What the tags of a set mean.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    docs = actions.add_parser("docs", help="print the glossary, with owners, as Markdown")
    docs.add_argument("directory", metavar="DIR", type=Path, help="the directory of the policy set")


def run(args: argparse.Namespace) -> int:
    """Print it; raises CommandError for a set that does not load."""
    try:
        snapshot = load(args.directory)
    except PolicySetError as refused:
        raise CommandError(f"the set does not load:\n{refused}") from refused
    sys.stdout.write(glossary(snapshot))
    return 0
