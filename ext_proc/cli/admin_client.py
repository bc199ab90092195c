"""Asks the admin API of a running stack: what `tollgate budgets` and `tollgate journal` are made of."""

from __future__ import annotations

import argparse
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from ext_proc.cli.errors import CommandError, UsageError

TOKEN_VARIABLE = "TOLLGATE_ADMIN_TOKEN"  # noqa: S105  (the name of a variable, not a secret)
_TIMEOUT_SECONDS = 30
_UNLIKE = "the answer does not look like Tollgate's admin API"


def add_admin_argument(parser: argparse.ArgumentParser) -> None:
    """Where the admin API is."""
    parser.add_argument(
        "--admin",
        default="http://127.0.0.1:10080",
        metavar="URL",
        help=f"the admin API (default %(default)s); its token, where one is needed, is read from {TOKEN_VARIABLE}",
    )


@dataclass(frozen=True, slots=True)
class Page:
    """One JSON answer."""

    document: Mapping[str, object]

    def items(self, name: str) -> list[dict[str, object]]:
        """The objects of one list."""
        items = self.document.get(name)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise CommandError(f"{_UNLIKE}: no list of {name}")
        return items

    @property
    def next_cursor(self) -> str | None:
        """Where the next page starts, None at the end."""
        cursor = self.document.get("next_cursor")
        return None if cursor is None else str(cursor)


def ask(admin: str, path: str, parameters: Mapping[str, str]) -> Page:
    """One answer of the admin API. Raises CommandError with the API's own words where it says no."""
    _checked(admin)
    url = f"{admin.rstrip('/')}{path}?{urllib.parse.urlencode(parameters)}"
    return _answer(admin, urllib.request.Request(url))  # noqa: S310  (the scheme was checked)


def send(admin: str, method: str, path: str, document: Mapping[str, object], operator: str) -> Page:
    """Have the admin API do something, in the name of `operator`. Raises as `ask`."""
    _checked(admin)
    headers = {"content-type": "application/json"}
    if operator.isascii() and operator.isprintable() and operator:
        headers["x-tollgate-operator"] = operator
    request = urllib.request.Request(  # noqa: S310  (the scheme was checked)
        f"{admin.rstrip('/')}{path}", json.dumps(document).encode(), headers, method=method
    )
    return _answer(admin, request)


def _checked(admin: str) -> None:
    if not admin.startswith(("http://", "https://")):
        raise UsageError(f"--admin {admin}: not a URL, for example http://127.0.0.1:10080")


def _answer(admin: str, request: urllib.request.Request) -> Page:
    token = os.environ.get(TOKEN_VARIABLE)
    if token:
        request.add_header("authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310  (as above)
            return _page(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            raise CommandError(str(_page(error.read()).document.get("error", error))) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise CommandError(f"no admin API at {admin}: {reason}. Is `tollgate up` running there?") from error


def _page(body: bytes) -> Page:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise CommandError(_UNLIKE)
    return Page(document)
