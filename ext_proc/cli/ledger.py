"""`tollgate ledger stats`: keys and bytes of the ledger by kind, and settings under which its promises do not hold."""

from __future__ import annotations

import argparse
import json
import sys

from ext_proc.cli.admin_client import add_admin_argument, ask
from ext_proc.cli.command import COMMANDS, Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """The command's options."""
    parser = subparsers.add_parser("ledger", help=COMMANDS["ledger"].help, description=COMMANDS["ledger"].help)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    stats = actions.add_parser("stats", help="keys and bytes by kind, memory, and unsafe settings")
    stats.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    add_admin_argument(stats)


def run(args: argparse.Namespace) -> int:
    """Print the store's state; exit 0 also where it has warnings."""
    report = ask(args.admin, "/v1/ledger", {})
    if args.json:
        sys.stdout.write(json.dumps(dict(report.document)) + "\n")
        return 0
    document = report.document
    limit = document["max_memory_bytes"] or "no limit"
    lines = [f"Redis {document['version']}: {document['used_memory_bytes']} bytes used of {limit}"]
    lines.append(f"open holds: {document['open_holds']}")
    lines += [f"{kind['kind']:<16}{kind['keys']:>10} keys{kind['bytes']:>14} bytes" for kind in report.items("kinds")]
    warnings = document["warnings"]
    assert isinstance(warnings, list), "the API lists its warnings"
    lines += [f"warning: {warning}" for warning in warnings]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
