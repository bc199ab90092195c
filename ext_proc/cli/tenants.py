"""`tollgate tenants`: the tenants that Redis keeps, changed while the stack runs."""

from __future__ import annotations

import argparse
import json
import sys
from urllib.parse import quote

from ext_proc.cli.admin_client import add_admin_argument, ask, send
from ext_proc.cli.command import COMMANDS, Subparsers
from ext_proc.cli.keys import operator, tag_pair


def add_parser(subparsers: Subparsers) -> None:
    """The command's options."""
    parser = subparsers.add_parser(
        "tenants", help=COMMANDS["tenants"].help, description="Tenants: their plan decides caps and downgrades."
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add_admin_argument(actions.add_parser("list", help="list them, one JSON object per line"))
    put = actions.add_parser("set", help="write one, whole: what is not said is not kept")
    put.add_argument("id", metavar="ID", help="names it")
    put.add_argument("--owner", metavar="NAME", help="who answers for it")
    put.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="a tag of every request")
    put.add_argument("--plan", metavar="NAME", help="what it pays for")
    add_admin_argument(put)
    remove = actions.add_parser("remove", help="forget one")
    remove.add_argument("id", metavar="ID", help="names it")
    add_admin_argument(remove)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    if args.action == "list":
        found = ask(args.admin, "/v1/tenants", {}).items("tenants")
        sys.stdout.writelines(json.dumps(one) + "\n" for one in found)
        return 0
    path = f"/v1/tenants/{quote(args.id, safe='')}"
    if args.action == "remove":
        send(args.admin, "DELETE", path, {}, operator())
        return 0
    wanted = {
        "owner": args.owner,
        "tags": dict(tag_pair(text) for text in args.tag) or None,
        "plan": args.plan,
    }
    document = {name: value for name, value in wanted.items() if value is not None}
    sys.stdout.write(json.dumps(send(args.admin, "PUT", path, document, operator()).document) + "\n")
    return 0
