"""`tollgate envoy render | drain`: the configuration of an Envoy that someone else runs, and its end."""

from __future__ import annotations

import argparse

from ext_proc.cli.command import COMMANDS, Subparsers
from ext_proc.cli.errors import CommandError
from ext_proc.envoy_config.__main__ import add_commands
from ext_proc.envoy_config.errors import EnvoyConfigError, EnvoyNotFoundError
from ext_proc.policy.errors import PolicySetError


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "envoy",
        help=COMMANDS["envoy"].help,
        description="Envoy's configuration for a policy set: its provider accounts, every sequence of attempts that "
        "its virtual models can make, its token issuers. `tollgate up` writes its own; this is for an Envoy beside "
        "`tollgate serve`.",
    )
    add_commands(parser.add_subparsers(dest="action", metavar="ACTION", required=True))


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    try:
        status: int = args.run(args)
    except (EnvoyConfigError, EnvoyNotFoundError, PolicySetError) as error:
        raise CommandError(str(error)) from error
    return status
