"""`tollgate up`: the whole stack in the foreground."""

from __future__ import annotations

import argparse
import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

from ext_proc.cli.command import COMMANDS, Subparsers
from ext_proc.cli.errors import CommandError, UsageError
from ext_proc.listener_tls import ListenerTls, add_tls_arguments
from ext_proc.server.settings import Metering
from ext_proc.supervisor.addresses import Address
from ext_proc.supervisor.cores import default_workers, usable_cores
from ext_proc.supervisor.errors import OptionError, SupervisorError
from ext_proc.supervisor.options import SidecarOptions, StackOptions, parse_upstreams
from ext_proc.supervisor.policies import choose_policies
from ext_proc.supervisor.state_dir import DEFAULT_STATE_DIR, StateDir
from ext_proc.supervisor.warm_workers import WarmWorkers, worker_names

_WORKERS_MAX = 256
_LEASE_SECONDS_MIN = 1
_LEASE_SECONDS_MAX = 24 * 3600
_DRAIN_SECONDS_MAX = 3600  # no request lives longer: max_stream_duration


def add_parser(subparsers: Subparsers) -> None:
    """The command's options."""
    parser = subparsers.add_parser(
        "up",
        help=COMMANDS["up"].help,
        description="Starts Redis, the sidecar's workers, Envoy and, for accounts that nobody else serves, a mock "
        "provider. Prints one line to stdout when traffic is accepted. Ctrl-C stops everything, a second one at once.",
    )
    parser.add_argument(
        "--listen",
        default="127.0.0.1:10000",
        metavar="HOST:PORT",
        help="where clients connect (default %(default)s; port 0: any free one)",
    )
    parser.add_argument("--redis", metavar="URL", help="a Redis that runs already (default: an embedded one)")
    add_tls_arguments(parser)
    add_sidecar_arguments(parser)


def add_sidecar_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `up` and `serve` share."""
    parser.add_argument(
        "--policies",
        metavar="DIR",
        help="the policy set (default: policies/ in the current directory, else the set that ships)",
    )
    parser.add_argument(
        "--catalogue",
        metavar="FILE",
        help="public prices in place of those that ship: the JSON that the genai-prices project publishes, looked at "
        "every second",
    )
    parser.add_argument(
        "--admin",
        default="127.0.0.1:10080",
        metavar="HOST:PORT",
        help="where the admin API listens (default %(default)s; port 0: any free one)",
    )
    parser.add_argument(
        "--upstream",
        action="append",
        default=[],
        metavar="ACCOUNT=URL",
        help="send a provider account to another URL; may be repeated",
    )
    parser.add_argument("--workers", metavar="N", help="worker processes (default: one per core, at least 2)")
    parser.add_argument(
        "--metering",
        default=Metering.STREAM.value,
        metavar="|".join(Metering),
        help="where usage is read (default %(default)s)",
    )
    parser.add_argument(
        "--hold-lease", default="120", metavar="SECONDS", help="how long a hold lasts unrenewed (default %(default)s)"
    )
    parser.add_argument(
        "--drain",
        default="20",
        metavar="SECONDS",
        help="how long live streams may finish after a stop was asked for (default %(default)s)",
    )
    parser.add_argument(
        "--state-dir",
        default=str(DEFAULT_STATE_DIR),
        metavar="DIR",
        help="what is kept across restarts: budgets, logs (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the stack until SIGINT or SIGTERM."""
    with as_command_errors():
        sidecar = sidecar_options(args, default_workers(usable_cores()))
        options = StackOptions(
            sidecar=sidecar, listen=Address.parse(args.listen, "--listen"), redis_url=args.redis, tls=_tls(args)
        )
        with warm_workers(sidecar) as warm:
            with loading():  # here, because the workers load theirs meanwhile, and --help needs none of these
                from ext_proc.cli.running import run_to_the_end  # noqa: PLC0415
                from ext_proc.supervisor.stack import run_stack  # noqa: PLC0415

            return run_to_the_end(lambda console: run_stack(options, warm, console))


def _tls(args: argparse.Namespace) -> ListenerTls | None:
    try:
        tls = ListenerTls.of(args)
        if tls is not None:
            tls.check_files()
    except ValueError as error:
        raise OptionError(str(error)) from None
    return tls


@contextlib.contextmanager
def as_command_errors() -> Iterator[None]:
    """What a stack refuses to start with, as errors of a command."""
    try:
        yield
    except OptionError as error:
        raise UsageError(str(error)) from None
    except SupervisorError as error:
        raise CommandError(str(error)) from None


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Load modules without the collector: what is loaded stays, and it would walk that a dozen times in vain."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def warm_workers(options: SidecarOptions) -> WarmWorkers:
    """The workers, started at once, so that they load their modules while we load ours."""
    return WarmWorkers(worker_names(options.workers), StateDir(options.state_dir).metrics)


def sidecar_options(args: argparse.Namespace, workers: int) -> SidecarOptions:
    """What `up` and `serve` share, read. Raises OptionError."""
    try:
        metering = Metering(args.metering)
    except ValueError:
        raise OptionError(f"--metering {args.metering}: expected {' or '.join(Metering)}") from None
    return SidecarOptions(
        policies=choose_policies(args.policies),
        admin=Address.parse(args.admin, "--admin"),
        state_dir=Path(args.state_dir),
        upstreams=parse_upstreams(args.upstream),
        workers=workers if args.workers is None else _count(args.workers, "--workers", 1, _WORKERS_MAX),
        metering=metering,
        hold_lease_seconds=_count(args.hold_lease, "--hold-lease", _LEASE_SECONDS_MIN, _LEASE_SECONDS_MAX),
        drain_seconds=_count(args.drain, "--drain", 0, _DRAIN_SECONDS_MAX),
        catalogue=None if args.catalogue is None else Path(args.catalogue).absolute(),
    )


def _count(text: str, option: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        raise OptionError(f"{option} {text}: expected a whole number from {least} to {most}")
    return int(text)
