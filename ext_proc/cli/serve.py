"""`tollgate serve`: the sidecar alone, beside an Envoy that someone else runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ext_proc.cli.command import COMMANDS, Subparsers
from ext_proc.cli.up import add_sidecar_arguments, as_command_errors, loading, sidecar_options, warm_workers
from ext_proc.supervisor.addresses import Address
from ext_proc.supervisor.cores import default_workers, usable_cores
from ext_proc.supervisor.options import ServeOptions


def add_parser(subparsers: Subparsers) -> None:
    """The command's options."""
    parser = subparsers.add_parser(
        "serve",
        help=COMMANDS["serve"].help,
        description="Runs the sidecar's workers and the admin API for an Envoy that someone else runs, over Unix "
        "sockets that both see (a pod of two containers) or over TCP. SIGTERM lets live streams finish and settle.",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket-dir", metavar="DIR", help="workers listen on w0.sock, w1.sock, … in this directory")
    where.add_argument("--grpc-listen", metavar="HOST:PORT", help="one worker listens here")
    parser.add_argument("--redis", required=True, metavar="URL", help="the Redis that all replicas share")
    add_sidecar_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the sidecar until SIGINT or SIGTERM."""
    with as_command_errors():
        sidecar = sidecar_options(args, default_workers(usable_cores()) if args.grpc_listen is None else 1)
        options = ServeOptions(
            sidecar=sidecar,
            redis_url=args.redis,
            socket_dir=None if args.socket_dir is None else Path(args.socket_dir),
            grpc_listen=None if args.grpc_listen is None else Address.parse(args.grpc_listen, "--grpc-listen"),
        )
        with warm_workers(sidecar) as warm:
            with loading():  # here, because the workers load theirs meanwhile, and --help needs none of these
                from ext_proc.cli.running import run_to_the_end  # noqa: PLC0415
                from ext_proc.supervisor.sidecar import run_sidecar  # noqa: PLC0415

            return run_to_the_end(lambda console: run_sidecar(options, warm, console))
