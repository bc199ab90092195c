"""`tollgate prices show | diff | lint DIR`: what the models of a policy set cost."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from ext_proc.cli.catalogue import add_catalogue_argument, read_catalogue
from ext_proc.cli.command import COMMANDS, Subparsers
from ext_proc.cli.errors import CommandError, UsageError
from ext_proc.exchange.terms import Terms
from ext_proc.policy.documents.routing import RoutingDocument
from ext_proc.policy.errors import PolicySetError
from ext_proc.policy.loader import load
from ext_proc.policy.snapshot import Snapshot
from ext_proc.pricing import report
from ext_proc.pricing.book import PriceBook
from ext_proc.pricing.catalogue import Catalogue, shipped
from ext_proc.pricing.report import Line, Target
from ext_proc.pricing.schedule import start_of_day_us

EXIT_FOUND = 1


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "prices",
        help=COMMANDS["prices"].help,
        description="Prices of the models that a policy set names: those its accounts declare, and those its routing "
        "sends to. Private prices come before the public catalogue's. Dollars per million tokens, per thousand "
        "searches or requests, per hour of serving.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="print every model's price")
    diff = actions.add_parser("diff", help="print the prices that differ, from another policy set or another day")
    lint = actions.add_parser("lint", help="print models without a price, and prices that look like a wrong unit")
    for action in (show, diff, lint):
        action.add_argument("directory", metavar="DIR", type=Path, help="the directory of the policy set")
        action.add_argument(
            "--model", metavar="ACCOUNT/MODEL", action="append", default=[], help="look at this model too (repeatable)"
        )
        add_catalogue_argument(action)
        action.add_argument("--at", metavar="DAY", help="the prices of that day, UTC (default: now)")
    diff.add_argument("--from", dest="before", metavar="DIR", type=Path, help="the policy set to compare with")
    diff.add_argument(
        "--all",
        action="store_true",
        help="with --catalogue: compare every model of the accounts' providers, not only those that the set names",
    )
    diff.add_argument("--since", metavar="DAY", help="the day to compare with, UTC")


def run(args: argparse.Namespace) -> int:
    """Print the lines; 1 where `lint` found something."""
    now_us = time.time_ns() // 1_000
    at_us = _day_us(args.at, "--at") if args.at else now_us
    catalogue = read_catalogue(args.catalogue)
    snapshot, book = _loaded(args.directory, catalogue)
    targets = tuple(dict.fromkeys((*_targets(snapshot), *_asked(args.model, snapshot))))
    if args.action == "show":
        return _print(report.show(book, targets, at_us))
    if args.action == "lint":
        found = report.lint(book, targets, at_us)
        _print(found)
        return EXIT_FOUND if found else 0
    if args.all and catalogue is None:
        raise UsageError("prices diff --all: compares catalogues: give one with --catalogue FILE")
    if args.before is None and args.since is None and catalogue is None:
        raise UsageError("prices diff: say what to compare with: --from DIR, --since DAY, --catalogue FILE or several")
    before_us = _day_us(args.since, "--since") if args.since else at_us
    before = _loaded(args.before or args.directory)[1]  # at the prices that ship
    if args.all and catalogue is not None:
        targets = tuple(dict.fromkeys((*targets, *_listed(snapshot, shipped()), *_listed(snapshot, catalogue))))
    return _print(report.diff((before, before_us), (book, at_us), targets))


def _print(lines: tuple[Line, ...]) -> int:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _loaded(directory: Path, catalogue: Catalogue | None = None) -> tuple[Snapshot, PriceBook]:
    try:
        snapshot = load(directory)
    except PolicySetError as refused:
        raise CommandError(f"the set does not load:\n{refused}") from refused
    return snapshot, Terms.of(snapshot, lease_ms=0, catalogue=catalogue).prices


def _targets(snapshot: Snapshot) -> Iterator[Target]:
    """Every model that the set names, with its account and provider."""
    for account in snapshot.accounts.values():
        yield from ((account.name, account.provider, model.name) for model in account.models)
    for document in snapshot.documents_of(RoutingDocument):
        routed = [target.target for rule in document.rules for target in rule.load_balance_targets]
        swapped = [name for downgrade in document.downgrades for pair in downgrade.swap.items() for name in pair]
        for name in (*routed, *swapped):
            account_name, _, model = name.partition("/")
            if account_name in snapshot.accounts:
                yield account_name, snapshot.accounts[account_name].provider, model


def _listed(snapshot: Snapshot, catalogue: Catalogue) -> Iterator[Target]:
    """Every model that a catalogue prices and one of the set's accounts could serve."""
    for account in snapshot.accounts.values():
        for model, _ in catalogue.all_schedules(account.provider):
            yield account.name, account.provider, model


def _asked(names: list[str], snapshot: Snapshot) -> Iterator[Target]:
    for name in names:
        account, _, model = name.partition("/")
        if account not in snapshot.accounts or not model:
            known = ", ".join(sorted(snapshot.accounts))
            raise UsageError(f"--model {name}: not ACCOUNT/MODEL; the accounts are {known}")
        yield account, snapshot.accounts[account].provider, model


def _day_us(text: str, option: str) -> int:
    try:
        return start_of_day_us(date.fromisoformat(text))
    except ValueError:
        raise UsageError(f"{option} {text}: write a day such as 2026-01-31") from None
