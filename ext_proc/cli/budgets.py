"""`tollgate budgets`: the live budget accounts of a running stack, and what an operator does to them by hand."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time

from ext_proc.admin.accounts import account_from_json
from ext_proc.admin.table import render, rows_of
from ext_proc.cli.admin_client import add_admin_argument, ask, send
from ext_proc.cli.command import COMMANDS, Subparsers
from ext_proc.cli.errors import CommandError, UsageError
from ext_proc.cli.keys import operator
from ext_proc.policy.rules import NONE_SHOWN


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
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    for name, text in (
        ("resume", "open an account that `on_exhausted: latch` has shut"),
        ("reset", "begin an account anew: nothing spent; what is in flight settles in the old one"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("rule_id", metavar="RULE", help="the rule's id, as written or filled in")
        action.add_argument(
            "--bucket", action="append", default=[], metavar="KEY=VALUE", help="which account, as metadata.repo=web"
        )
        action.add_argument("--all", action="store_true", help="every account of the rule")
        action.add_argument("--note", default="", metavar="TEXT", help="why, for the journal")
        add_admin_argument(action)


def run(args: argparse.Namespace) -> int:
    """List the accounts, or act on some."""
    return _list(args) if args.action is None else _act(args)


def _act(args: argparse.Namespace) -> int:
    document: dict[str, object] = {"rule": args.rule_id, "all": args.all, "note": args.note}
    if args.bucket:
        document["bucket"] = dict(_pair(text) for text in args.bucket)
    answer = send(args.admin, "POST", f"/v1/budgets/{args.action}", document, operator())
    for account in answer.items("resumed" if args.action == "resume" else "reset"):
        sys.stdout.write(json.dumps(account) + "\n")
    return 0


def _pair(text: str) -> tuple[str, str | None]:
    """`KEY=VALUE`; the value `(none)` is the missing key, as it is shown everywhere."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"--bucket {text}: expected KEY=VALUE, as metadata.repo=web")
    return key, None if value == NONE_SHOWN else value


def _list(args: argparse.Namespace) -> int:
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
