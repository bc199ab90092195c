"""`tollgate tag`: the tag header for the CI system it runs in."""

from __future__ import annotations

import argparse
import os
import sys

from ext_proc.cli.command import COMMANDS, Subparsers
from ext_proc.cli.errors import UsageError
from ext_proc.cli.keys import tag_pair
from ext_proc.identity.tags import tag_problem
from tollgate_client.tags import HEADER, TAGS_VARIABLE, header_value, merged_tags


def add_parser(subparsers: Subparsers) -> None:
    """The command's options."""
    parser = subparsers.add_parser(
        "tag",
        help=COMMANDS["tag"].help,
        description="Prints the header that says who pays, from the variables of GitHub Actions, GitLab, Jenkins, "
        f"Buildkite, CircleCI or Azure Pipelines, the variable {TAGS_VARIABLE} (JSON, or key=value,key=value), "
        'and what is given here. As in: curl -H "$(tollgate tag --tag cost_center=search)" …',
    )
    parser.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="one more tag, or another value"
    )
    parser.add_argument("--value", action="store_true", help="print the header's value alone")
    parser.add_argument("--header", default=HEADER, metavar="NAME", help="the header's name (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Print it. Tags that the gateway would refuse are refused here."""
    try:
        tags = merged_tags(os.environ, dict(tag_pair(text) for text in args.tag))
    except ValueError as error:
        raise UsageError(str(error)) from error
    for key, value in tags.items():
        problem = tag_problem(key, value)
        if problem is not None:
            raise UsageError(f"the tag {key} {problem}")
    sys.stdout.write(("" if args.value else f"{args.header}: ") + header_value(tags) + "\n")
    return 0
