"""`tollgate explain`: what the gateway would say to one request, and why."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ext_proc.cli.catalogue import add_catalogue_argument, read_catalogue
from ext_proc.cli.command import COMMANDS, Subparsers
from ext_proc.cli.errors import CommandError, UsageError
from ext_proc.exchange.calibration import Calibration
from ext_proc.exchange.events import RequestHead
from ext_proc.exchange.explain import Explanation, explain
from ext_proc.exchange.explain_json import as_json
from ext_proc.exchange.explain_text import as_text
from ext_proc.exchange.terms import Terms
from ext_proc.identity.directory import Directory
from ext_proc.identity.errors import ServerSecretError
from ext_proc.identity.identities import Identities
from ext_proc.identity.server_secret import configured_secret
from ext_proc.identity.store import IdentityStore
from ext_proc.ledger.channel import Channel
from ext_proc.ledger.connections import open_channel
from ext_proc.ledger.errors import StoreError
from ext_proc.ledger.keys import DEFAULT_REALM, IDENTITIES
from ext_proc.ledger.live_standings import SplitStandings
from ext_proc.policy.errors import PolicySetError
from ext_proc.policy.loader import load
from ext_proc.policy.snapshot import Snapshot
from ext_proc.pricing.catalogue import Catalogue
from ext_proc.server.learning import read_learned

REDIS_SECONDS = 10.0
CONNECT_TIMEOUT_MS = 5_000
_STDIN = "-"
_LEASE_MS = 120_000  # of a hold that nobody makes


def add_parser(subparsers: Subparsers) -> None:
    """The command's options."""
    parser = subparsers.add_parser(
        "explain",
        help=COMMANDS["explain"].help,
        description="Judges one request as the gateway would: who calls, which rules match and why the others do not, "
        "what is held and how it was computed, and the verdict. Nothing is sent, held or written.",
    )
    parser.add_argument("--policies", required=True, metavar="DIR", type=Path, help="the policy set")
    parser.add_argument(
        "--request", metavar="FILE", help="the request as HTTP writes it: request line, headers, empty line, body"
    )
    parser.add_argument("--method", metavar="METHOD", help="default POST")
    parser.add_argument("--path", metavar="PATH", help="default /v1/chat/completions")
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="a request header; may be repeated"
    )
    parser.add_argument("--body", metavar="JSON|@FILE|-", help="the request body, a file that holds it, or stdin")
    parser.add_argument("--claims", metavar="JSON", help="the claims of a token that Envoy would have verified")
    parser.add_argument(
        "--redis",
        metavar="URL",
        help="judge against the live balances, keys and learned figures in this Redis, which is only read (default: "
        "empty accounts, nothing learned); "
        "virtual keys are verified with the secret in TOLLGATE_KEY_SECRET or TOLLGATE_KEY_SECRET_FILE",
    )
    add_catalogue_argument(parser)
    parser.add_argument("--all", action="store_true", help="list every rule that does not match, however many")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")


def run(args: argparse.Namespace) -> int:
    """Explain one request; 0 whatever the verdict is."""
    try:
        snapshot = load(args.policies)
    except PolicySetError as refused:
        raise CommandError(f"the set does not load:\n{refused}") from refused
    request = _request(args)
    found = asyncio.run(_explained(request, snapshot, args.redis, read_catalogue(args.catalogue)))
    if args.json:
        sys.stdout.write(json.dumps(as_json(found), indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(as_text(found, every_rule=args.all))
    return 0


@dataclass(frozen=True, slots=True)
class _Request:
    """A request as it was typed."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    claims: Mapping[str, object] | None

    def head(self, now_us: int) -> RequestHead:
        return RequestHead(self.method, self.path, self.headers, now_us, has_body=bool(self.body), claims=self.claims)


async def _explained(
    request: _Request, snapshot: Snapshot, redis_url: str | None, catalogue: Catalogue | None
) -> Explanation:
    if redis_url is None:
        terms = Terms.of(snapshot, lease_ms=_LEASE_MS, catalogue=catalogue)
        return await explain(request.head(time.time_ns() // 1_000), request.body, terms)
    try:
        realms = snapshot.settings.realms
        names = (*realms.names, IDENTITIES)
        channels = {name: open_channel(redis_url, name, CONNECT_TIMEOUT_MS) for name in names}
    except ValueError as error:
        raise UsageError(f"--redis {redis_url}: {error}") from error
    try:
        async with asyncio.timeout(REDIS_SECONDS):
            standings = SplitStandings(realms, channels)
            head = request.head(await standings.now_us())
            identities = await _identities(snapshot, channels[IDENTITIES])
            terms = Terms.of(snapshot, lease_ms=_LEASE_MS, identities=identities, catalogue=catalogue)
            found = await explain(head, request.body, terms, standings.read)
            calibration = Calibration(await read_learned(channels[DEFAULT_REALM].call, found.learnable, head.now_us))
            terms = replace(terms, calibration=calibration)
            return await explain(head, request.body, terms, standings.read)
    except StoreError as error:
        raise CommandError(f"the Redis at --redis does not answer: {error}") from error
    except TimeoutError as error:
        raise CommandError(f"the Redis at --redis does not answer within {REDIS_SECONDS:g} seconds") from error
    finally:
        await asyncio.gather(*(channel.close() for channel in channels.values()))


async def _identities(snapshot: Snapshot, channel: Channel) -> Identities:
    """Everybody who is known: the records of the policy set and of Redis."""
    try:
        secret = configured_secret() or b""
    except ServerSecretError as error:
        raise CommandError(str(error)) from error
    directory = Directory(IdentityStore(channel.call, secret))
    await directory.refresh()
    return Identities.of(snapshot, directory.records, secret)


def _request(args: argparse.Namespace) -> _Request:
    """The request of a file, with what the options say instead. Raises UsageError."""
    method, path, body = "POST", "/v1/chat/completions", b""
    headers: list[tuple[str, str]] = []
    if args.request is not None:
        method, path, headers, body = _read_request(_read(args.request, "--request"))
    headers += [_header(text) for text in args.header]
    if args.body is not None:
        literal = args.body != _STDIN and not args.body.startswith("@")
        body = args.body.encode() if literal else _read(args.body.removeprefix("@"), "--body")
    return _Request(args.method or method, args.path or path, tuple(headers), body, _claims(args.claims))


def _read(name: str, option: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == _STDIN else Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"{option} {name}: {error.strerror}") from error


def _read_request(raw: bytes) -> tuple[str, str, list[tuple[str, str]], bytes]:
    """A request as HTTP/1.1 writes it; lines may end in LF alone."""
    head, body = [*re.split(rb"\r?\n\r?\n", raw, maxsplit=1), b""][:2]
    first, *lines = head.decode("utf-8", "surrogateescape").splitlines() or [""]
    words = first.split()
    if len(words) not in {2, 3} or not words[1].startswith("/"):
        raise UsageError(f"--request: {first[:80]!r} is no request line; write POST /v1/chat/completions HTTP/1.1")
    return words[0], words[1], [_header(line) for line in lines if line], body


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise UsageError(f"{text[:80]!r} is no header; write 'name: value'")
    return name.strip().lower(), value.strip()


def _claims(text: str | None) -> Mapping[str, object] | None:
    if text is None:
        return None
    try:
        claims = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--claims: not JSON ({error})") from error
    if not isinstance(claims, dict):
        raise UsageError("--claims: not a JSON object")
    return claims
