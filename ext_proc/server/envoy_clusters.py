"""What Envoy knows of where requests go: told by the supervisor, waited for by workers before they rely on it.

A worker that named a cluster before Envoy has it would fail requests. So the supervisor, once Envoy has taken up a
change, writes down what it knows; a worker puts a changed policy set in force only then. Where nobody writes the file
(beside an Envoy that someone else runs) nothing is waited for.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from ext_proc.exchange.terms import Terms

_LOG = logging.getLogger(__name__)

FILE_NAME: Final = "envoy-knows.json"
POLL_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 10.0
"""Envoy refuses a change only if it is broken; a policy set is not kept back for ever because of it."""


def write_known(state_dir: Path, accounts: Mapping[str, str], chains: Iterable[str]) -> None:
    """Tell the workers what Envoy knows now: account → URL, and the names of chains."""
    fresh = state_dir / f"{FILE_NAME}.new"
    fresh.write_text(json.dumps({"accounts": dict(accounts), "chains": sorted(chains)}))
    fresh.replace(state_dir / FILE_NAME)


def knows(state_dir: Path, terms: Terms) -> bool:
    """Whether Envoy can serve whatever these terms route. True where nobody says."""
    try:
        known = json.loads((state_dir / FILE_NAME).read_text())
    except FileNotFoundError:
        return True
    accounts = {name: account.endpoint for name, account in terms.accounts.items()}
    return accounts.items() <= known["accounts"].items() and set(terms.chains.clusters) <= set(known["chains"])


async def until_known(state_dir: Path, terms: Terms) -> None:
    """Wait until Envoy can serve what these terms route."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not knows(state_dir, terms):  # noqa: ASYNC110  another process writes the file
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        _LOG.warning("Envoy has not taken up the policy set's accounts and chains; it comes into force all the same")
