"""`tollgate keys`: the virtual keys of a running stack, and hashes of keys for policy documents."""

from __future__ import annotations

import argparse
import getpass
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from ext_proc.cli.admin_client import add_admin_argument, ask, send
from ext_proc.cli.command import COMMANDS, Subparsers
from ext_proc.cli.errors import CommandError, UsageError
from ext_proc.identity.administration import OVERLAP_SECONDS_DEFAULT, draw_key
from ext_proc.identity.errors import ServerSecretError
from ext_proc.identity.keys import KeyHash, id_of, is_key_id
from ext_proc.identity.server_secret import configured_secret, server_secret
from ext_proc.supervisor.state_dir import DEFAULT_STATE_DIR

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_COLUMNS = ("id", "user", "team", "virtual_account", "tenant", "environment", "expires", "state")


def add_parser(subparsers: Subparsers) -> None:
    """The command's options."""
    parser = subparsers.add_parser(
        "keys",
        help=COMMANDS["keys"].help,
        description="Virtual keys: what callers use as their API key. A key's secret is shown once, when it is made.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_create(actions)
    listing = actions.add_parser("list", help="list the keys")
    listing.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    add_admin_argument(listing)
    for name, text in (("show", "show one key"), ("revoke", "end a key for good, on all workers within a second")):
        action = actions.add_parser(name, help=text)
        action.add_argument("id", metavar="ID", help="the key's id, or the key itself on standard input as -")
        add_admin_argument(action)
    rotate = actions.add_parser("rotate", help="give a key a new secret, and print it")
    rotate.add_argument("id", metavar="ID", help="the key's id")
    rotate.add_argument(
        "--overlap",
        default=f"{OVERLAP_SECONDS_DEFAULT // 3_600}h",
        metavar="TIME",
        help="how long the old secret stays good: 90s, 30m, 24h, 7d, 0s (default %(default)s)",
    )
    add_admin_argument(rotate)
    audit = actions.add_parser("audit", help="list what was done to keys, and who was refused, newest last")
    audit.add_argument("--limit", default="100", metavar="N", help="how many entries (default %(default)s)")
    add_admin_argument(audit)
    _add_hash(actions)


def _add_create(actions: Subparsers) -> None:
    create = actions.add_parser("create", help="make a key, and print it: the only time it can be seen")
    create.add_argument("--id", metavar="ID", help="names the key (default: drawn)")
    create.add_argument("--user", metavar="NAME", help="whose it is: a user")
    create.add_argument("--team", metavar="NAME", help="whose it is: a team")
    create.add_argument("--virtual-account", metavar="NAME", help="whose it is: a virtual account")
    create.add_argument("--tenant", metavar="NAME", help="the tenant it acts for")
    create.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="a tag of every request")
    create.add_argument("--model", action="append", metavar="NAME", help="a model it may use (default: all)")
    create.add_argument("--path", action="append", metavar="PATH", help="a path it may use (default: all)")
    create.add_argument("--environment", metavar="NAME", help="the environment it belongs to")
    create.add_argument("--not-before", metavar="TIME", help="from when it is valid, as 2027-01-01T00:00:00Z")
    create.add_argument("--expires", metavar="TIME", help="until when it is valid")
    create.add_argument(
        "--speaks-for-tenants", action="store_true", help="let the tag tenant_id select the tenant: for back ends"
    )
    create.add_argument("--json", action="store_true", help="the whole answer as JSON instead of the key alone")
    add_admin_argument(create)


def _add_hash(actions: Subparsers) -> None:
    hashing = actions.add_parser(
        "hash",
        help="print the hash of a key, for a gateway-identity-config",
        description="Reads a key from standard input and prints its hash; with --new, makes a key and prints both. "
        "Needs no running stack, but the server secret: TOLLGATE_KEY_SECRET, TOLLGATE_KEY_SECRET_FILE, or the state "
        "directory.",
    )
    hashing.add_argument("--new", metavar="ID", help="make a key of this id")
    hashing.add_argument("--plain", action="store_true", help="sha256: good on gateways of any server secret")
    hashing.add_argument("--state-dir", default=str(DEFAULT_STATE_DIR), metavar="DIR", help="(default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    actions: dict[str, Callable[[argparse.Namespace], None]] = {
        "create": _create,
        "list": _list,
        "show": _show,
        "rotate": _rotate,
        "revoke": _revoke,
        "audit": _audit,
        "hash": _hash,
    }
    actions[args.action](args)
    return 0


def _create(args: argparse.Namespace) -> None:
    wanted = {
        "id": args.id,
        "user": args.user,
        "team": args.team,
        "virtual_account": args.virtual_account,
        "tenant": args.tenant,
        "tags": dict(tag_pair(text) for text in args.tag) or None,
        "allowed_models": args.model,
        "allowed_paths": args.path,
        "environment": args.environment,
        "not_before": args.not_before,
        "expires": args.expires,
        "speaks_for_tenants": args.speaks_for_tenants or None,
    }
    document = {name: value for name, value in wanted.items() if value is not None}
    answer = send(args.admin, "POST", "/v1/keys", document, operator()).document
    sys.stdout.write(json.dumps(answer) + "\n" if args.json else f"{answer['key']}\n")


def _list(args: argparse.Namespace) -> None:
    keys = ask(args.admin, "/v1/keys", {}).items("keys")
    if args.json:
        sys.stdout.writelines(json.dumps(key) + "\n" for key in keys)
        return
    rows = [_COLUMNS, *(tuple(str(_cell(key, column)) for column in _COLUMNS) for key in keys)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(_COLUMNS))]
    for row in rows:
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")


def _cell(key: dict[str, object], column: str) -> object:
    if column != "state":
        return key.get(column, "")
    if "revoked" in key:
        return "revoked"
    return "rotating" if "old_secret_until" in key else "good"


def _show(args: argparse.Namespace) -> None:
    sys.stdout.write(json.dumps(ask(args.admin, f"/v1/keys/{_id(args.id)}", {}).document, indent=2) + "\n")


def _rotate(args: argparse.Namespace) -> None:
    overlap = {"overlap_seconds": _seconds(args.overlap)}
    answer = send(args.admin, "POST", f"/v1/keys/{_id(args.id)}/rotate", overlap, operator())
    sys.stdout.write(f"{answer.document['key']}\n")


def _revoke(args: argparse.Namespace) -> None:
    answer = send(args.admin, "POST", f"/v1/keys/{_id(args.id)}/revoke", {}, operator())
    sys.stdout.write(f"{answer.document['id']} is revoked\n")


def _audit(args: argparse.Namespace) -> None:
    for entry in reversed(ask(args.admin, "/v1/audit", {"limit": args.limit}).items("entries")):
        sys.stdout.write(json.dumps(entry) + "\n")


def _hash(args: argparse.Namespace) -> None:
    if args.new is not None and not is_key_id(args.new):
        raise UsageError("--new: an id is 1 to 64 letters, digits, '.', '_' or '-', and starts with a letter or digit")
    key = draw_key(args.new) if args.new is not None else sys.stdin.readline().strip()
    if id_of(key) is None:
        raise UsageError("standard input holds no key: expected tg_<id>_<secret>")
    text = KeyHash.plain(key) if args.plain else KeyHash.keyed(key, _server_secret(Path(args.state_dir)))
    if args.new is not None:
        sys.stdout.write(f"{key}\n")
    sys.stdout.write(f"{text}\n")


def _server_secret(state_dir: Path) -> bytes:
    """The secret of the stack that will check the key. One is never made here: nobody else would know it."""
    try:
        configured = configured_secret()
        if configured is not None:
            return configured
        if not state_dir.is_dir():
            raise CommandError(f"no server secret: set TOLLGATE_KEY_SECRET, or name the --state-dir (not {state_dir})")
        return server_secret(state_dir)
    except ServerSecretError as error:
        raise CommandError(str(error)) from error


def _id(text: str) -> str:
    """An id, also where somebody pastes the whole key: `-` reads it, so that it does not end in the shell's history."""
    given = sys.stdin.readline().strip() if text == "-" else text
    key_id = id_of(given)
    if key_id is None and not is_key_id(given):
        raise UsageError("expected the id of a key")
    return quote(key_id or given, safe="")


def tag_pair(text: str) -> tuple[str, str]:
    """`KEY=VALUE`. Raises UsageError."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"--tag {text}: expected KEY=VALUE")
    return key, value


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,7})([smhd])", text)
    if match is None:
        raise UsageError(f"--overlap {text}: expected a number and a unit, as in 90s, 30m, 24h or 7d")
    return int(match[1]) * _UNITS[match[2]]


def operator() -> str:
    """Who types, for the audit trail: as believable as the account they are logged in with."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return ""
