"""The commands there are: name, module and the line `tollgate --help` shows for each."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TypeAlias

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001  (it has no public name)
"""What a command's `add_parser` adds itself to."""


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand."""

    name: str
    module: str
    help: str


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command("up", "ext_proc.cli.up", "start the whole stack: Redis, sidecar, Envoy, mock provider"),
        Command("serve", "ext_proc.cli.serve", "run the sidecar alone, beside an Envoy that someone else runs"),
        Command("check", "ext_proc.cli.check", "validate a policy set"),
        Command("explain", "ext_proc.cli.explain", "say what would happen to one request, and why"),
        Command("envoy", "ext_proc.cli.envoy", "render Envoy's configuration for a policy set, or let an Envoy drain"),
        Command("schema", "ext_proc.cli.schema", "print the JSON Schema of policy documents, or their reference page"),
        Command("prices", "ext_proc.cli.prices", "show, compare and check the prices of a policy set's models"),
        Command("tags", "ext_proc.cli.tags", "print the tag glossary of a policy set, with owners"),
        Command("tag", "ext_proc.cli.tag", "print the tag header for the CI system it runs in"),
        Command("mock-provider", "ext_proc.cli.mock_provider", "run the deterministic provider of the tests"),
        Command("budgets", "ext_proc.cli.budgets", "list the live budget accounts of a running stack"),
        Command("keys", "ext_proc.cli.keys", "make, list, rotate and revoke virtual keys"),
        Command("teams", "ext_proc.cli.teams", "list and change teams of a running stack"),
        Command("tenants", "ext_proc.cli.tenants", "list and change tenants of a running stack"),
        Command("ledger", "ext_proc.cli.ledger", "look at the ledger's store: keys, bytes, unsafe settings"),
        Command("journal", "ext_proc.cli.journal", "list the newest charges of a running stack"),
    )
}
