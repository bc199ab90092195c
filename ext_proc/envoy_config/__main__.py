"""`python -m ext_proc.envoy_config examples | render | drain`: what deployments run.

`tollgate envoy` has the last two.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TypeAlias

from ext_proc.envoy_config.binary import validate
from ext_proc.envoy_config.bootstrap import render
from ext_proc.envoy_config.drain import drain
from ext_proc.envoy_config.errors import EnvoyConfigError, EnvoyNotFoundError
from ext_proc.envoy_config.from_policies import chains, token_issuers, upstream_accounts, worker_endpoints
from ext_proc.envoy_config.parts import address
from ext_proc.envoy_config.settings import EnvoySettings, find_ca_bundle
from ext_proc.envoy_config.variants import RUN_DIRECTORY, VARIANTS
from ext_proc.listener_tls import ListenerTls, add_tls_arguments
from ext_proc.policy.errors import PolicySetError
from ext_proc.policy.loader import load
from ext_proc.server.settings import Metering

HEADING = "# Rendered by `python -m ext_proc.envoy_config examples`; a test holds the two together. Do not edit.\n"
ADMIN_SOCKET = f"unix:{RUN_DIRECTORY}/envoy-admin.sock"

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001  (it has no public name)


def main(arguments: list[str] | None = None) -> int:
    """The exit status; what went wrong stands on stderr."""
    args = _parser().parse_args(arguments)
    try:
        status: int = args.run(args)
    except (EnvoyConfigError, EnvoyNotFoundError, PolicySetError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ext_proc.envoy_config", description="Envoy's configuration.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    examples = commands.add_parser("examples", help="render the configurations that are checked in")
    examples.add_argument("directory", type=Path, nargs="?", default=Path("envoy"), help="default: envoy")
    examples.set_defaults(run=_examples)

    add_commands(commands)
    return parser


def add_commands(commands: Subparsers) -> None:
    """`render` and `drain`, wherever they are offered; `run` of what is parsed runs them."""
    one = commands.add_parser("render", help="render the configuration for a policy set, beside `tollgate serve`")
    one.add_argument("--policies", type=Path, required=True, metavar="DIR", help="the policy set: its accounts")
    one.add_argument("--socket-dir", required=True, metavar="DIR", help="as of tollgate serve")
    one.add_argument("--workers", type=int, required=True, metavar="N", help="as of tollgate serve")
    one.add_argument("--hold-lease", type=int, default=120, metavar="SECONDS", help="as of tollgate serve (120)")
    one.add_argument("--metering", type=Metering, choices=list(Metering), default=Metering.STREAM, help="as of serve")
    one.add_argument("--upstream", action="append", default=[], metavar="ACCOUNT=URL", help="as of tollgate serve")
    one.add_argument("--listen", default="0.0.0.0:10000", metavar="HOST:PORT", help="for clients (0.0.0.0:10000)")
    add_tls_arguments(one)
    one.add_argument("--admin", default=ADMIN_SOCKET, metavar="ADDRESS", help=f"Envoy's own ({ADMIN_SOCKET})")
    one.add_argument("--out", type=Path, metavar="FILE", help="default: stdout")
    one.add_argument("--validate", action="store_true", help="write nothing that the envoy of this machine refuses")
    one.set_defaults(run=_render)

    end = commands.add_parser("drain", help="let an Envoy finish what it does, before it is stopped")
    end.add_argument("--admin", default=ADMIN_SOCKET, metavar="ADDRESS", help=f"Envoy's own ({ADMIN_SOCKET})")
    end.add_argument("--notice", type=float, default=5.0, metavar="SECONDS", help="go on accepting for so long (5)")
    end.add_argument("--limit", type=float, default=600.0, metavar="SECONDS", help="wait no longer (600)")
    end.set_defaults(run=_drain)


def _examples(args: argparse.Namespace) -> int:
    directory: Path = args.directory
    directory.mkdir(parents=True, exist_ok=True)
    for name, settings in VARIANTS.items():
        (directory / name).write_text(HEADING + render(settings), encoding="utf-8")
    return 0


def _render(args: argparse.Namespace) -> int:
    listen = address(args.listen).socket_address
    if listen is None or listen.port_value is None:
        raise EnvoyConfigError(f"--listen {args.listen}: write host:port")
    snapshot = load(args.policies)
    text = render(
        EnvoySettings(
            workers=worker_endpoints(args.socket_dir, args.workers),
            accounts=upstream_accounts(snapshot, _upstreams(args.upstream)),
            chains=chains(snapshot),
            token_issuers=token_issuers(snapshot),
            listen_host=listen.address,
            listen_port=listen.port_value,
            tls=_tls(args),
            admin=args.admin,
            hold_lease_seconds=args.hold_lease,
            metering=args.metering,
            ca_bundle=find_ca_bundle(),
        )
    )
    if args.validate:
        validate(text)
    if args.out is None:
        sys.stdout.write(text)
    else:
        args.out.write_text(text, encoding="utf-8")
    return 0


def _tls(args: argparse.Namespace) -> ListenerTls | None:
    try:
        return ListenerTls.of(args)
    except ValueError as error:
        raise EnvoyConfigError(str(error)) from None


def _upstreams(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for account, equals, url in pairs:
        if not account or not equals or not url:
            raise EnvoyConfigError(f"--upstream {account}{equals}{url}: write ACCOUNT=URL")
    return {account: url for account, _, url in pairs}


def _drain(args: argparse.Namespace) -> int:
    left = drain(args.admin, notice_seconds=args.notice, limit_seconds=args.limit)
    if left:
        sys.stderr.write(f"{left} requests still ran after {args.limit:g} s\n")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
