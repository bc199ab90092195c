"""`tollgate budgets`: the live budget accounts of a running stack, as a table or as JSON lines."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time

from ext_proc.admin.accounts import account_from_json
from ext_proc.admin.table import render, rows_of
from ext_proc.cli.admin_client import add_admin_argument, ask
from ext_proc.cli.command import COMMANDS, Subparsers
from ext_proc.cli.errors import CommandError


def add_parser(subparsers: Subparsers) -> None:
    """The command's options."""
    parser = subparsers.add_parser(
        "budgets",
        help=COMMANDS["budgets"].help,
        description="Prints every live budget account: spent, held, cap, state, and when it resets.",
    )
    parser.add_argument("--rule", metavar="ID", help="only the accounts of this rule, expanded or as written")
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    add_admin_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the accounts, page after page."""
    accounts = []
    parameters = {} if args.rule is None else {"rule": args.rule}
    while True:
        page = ask(args.admin, "/v1/budgets", parameters)
        accounts += page.items("accounts")
        if page.next_cursor is None:
            break
        parameters = {**parameters, "cursor": page.next_cursor}
    if args.json:
        sys.stdout.writelines(json.dumps(account) + "\n" for account in accounts)
    else:
        sys.stdout.write(_table(accounts))
    return 0


def _table(accounts: list[dict[str, object]]) -> str:
    try:
        balances = [account_from_json(account) for account in accounts]
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError(f"the admin API speaks another version of Tollgate ({error!r}); try --json") from error
    return render(rows_of(balances, time.time_ns() // 1_000), width=shutil.get_terminal_size().columns)
