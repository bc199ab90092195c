"""The tollgate command. Each subcommand is a module with `add_parser(subparsers)` and `run(args) -> exit code`.

A module is imported only when it is called, so that `tollgate check` does not pay for gRPC.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from ext_proc import __version__
from ext_proc.cli.command import COMMANDS
from ext_proc.cli.errors import CommandError, UsageError

_EXIT_FAILED = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """argparse, with errors of one line that say where to read on."""

    def error(self, message: str) -> NoReturn:
        self.exit(_EXIT_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 where the command failed, 2 where it was typed wrong."""
    arguments = sys.argv[1:] if argv is None else argv
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        args = _parser(name).parse_args(arguments)
        return int(importlib.import_module(COMMANDS[args.command].module).run(args))
    except SystemExit as stopped:  # argparse ends --help, --version and errors so
        return stopped.code if isinstance(stopped.code, int) else _EXIT_FAILED
    except UsageError as error:
        return _fail(error, _EXIT_USAGE)
    except CommandError as error:
        return _fail(error, _EXIT_FAILED)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (`tollgate journal | head`). Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_FAILED


def _parser(name: str | None) -> argparse.ArgumentParser:
    """The parser, with the options of the named command alone: the others are only listed."""
    parser = _Parser(prog="tollgate", description="Spend control for LLM traffic that flows through Envoy.")
    parser.add_argument("--version", action="version", version=f"tollgate {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)
    for command in COMMANDS.values():
        if command.name == name:
            importlib.import_module(command.module).add_parser(subparsers)
        else:
            subparsers.add_parser(command.name, help=command.help)
    return parser


def _fail(error: Exception, code: int) -> int:
    sys.stderr.write(f"tollgate: {error}\n")
    return code


__all__: Sequence[str] = ["main"]
