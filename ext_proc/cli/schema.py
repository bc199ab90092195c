"""`tollgate schema`: the policy language as JSON Schema, or as its reference page."""

from __future__ import annotations

import argparse
import json
import sys

from ext_proc.cli.command import COMMANDS, Subparsers
from ext_proc.policy.documents import DOCUMENT_TYPES
from ext_proc.policy.json_schema import document_schema, set_schema
from ext_proc.policy.reference import reference


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "schema",
        help=COMMANDS["schema"].help,
        description="Print the JSON Schema of one document type, or of any document of a policy set.",
    )
    parser.add_argument("type", nargs="?", choices=sorted(DOCUMENT_TYPES), metavar="TYPE", help="a document type")
    parser.add_argument("--reference", action="store_true", help="print the reference page instead, as Markdown")


def run(args: argparse.Namespace) -> int:
    """Print it; always 0."""
    if args.reference:
        sys.stdout.write(reference())
        return 0
    schema = set_schema() if args.type is None else document_schema(args.type)
    sys.stdout.write(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
    return 0
