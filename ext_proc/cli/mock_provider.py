"""`tollgate mock-provider`: the deterministic provider, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

import uvloop

from ext_proc.cli.command import COMMANDS, Subparsers
from ext_proc.cli.errors import CommandError, UsageError
from ext_proc.mock_provider.server import MockProvider, listening

_PORT_MAX = 65_535


def add_parser(subparsers: Subparsers) -> None:
    """The command's options."""
    parser = subparsers.add_parser(
        "mock-provider",
        help=COMMANDS["mock-provider"].help,
        description="Speaks OpenAI (chat completions, responses, completions, embeddings), Anthropic messages, Gemini, "
        "Bedrock converse and Cohere chat, each at its own path. Token counts come from the request header "
        "x-mock-usage, misbehaviour from x-mock-behavior.",
    )
    parser.add_argument(
        "--listen",
        default="127.0.0.1:9999",
        metavar="HOST:PORT",
        help="where to listen; port 0 takes any free port, unix:/path a Unix socket (default %(default)s)",
    )
    parser.add_argument(
        "--aws-key",
        action="append",
        default=[],
        metavar="ID=SECRET",
        help="let Bedrock answer only what this key has signed (SigV4); may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    listen = str(args.listen)
    if not listen.startswith("unix:"):
        _, colon, port = listen.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > _PORT_MAX:
            raise UsageError(f"--listen {listen}: not HOST:PORT, for example 127.0.0.1:9999")
    pairs = [text.partition("=") for text in args.aws_key]
    if not all(key_id and secret for key_id, _, secret in pairs):
        raise UsageError("--aws-key: not ID=SECRET, for example AKIDEXAMPLE=secret")
    provider = MockProvider({key_id: secret for key_id, _, secret in pairs})
    try:
        uvloop.run(_serve(listen, provider))
    except OSError as error:
        raise CommandError(f"cannot listen on {listen}: {error.strerror or error}") from error
    return 0


async def _serve(listen: str, provider: MockProvider) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with listening(listen, provider) as url:
        sys.stdout.write(f"mock-provider ready {url}\n")
        sys.stdout.flush()
        await stop.wait()
