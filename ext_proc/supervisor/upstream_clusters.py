"""The file of clusters that Envoy follows: written whole and renamed into place.

A cluster that goes while a worker still routes to it, or while a request may still try it, would fail that request. So
what a policy set no longer names stays in the file for a time.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from ext_proc.envoy_config import Chain, EnvoySettings, UpstreamAccount, render_clusters

RETIREMENT_SECONDS: Final = 120.0


class UpstreamClusters:
    """The clusters file of one Envoy. Times are seconds of any steady clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._accounts: dict[str, tuple[UpstreamAccount, float | None]] = {}  # None: in use; else when it may go
        self._chains: dict[str, tuple[Chain, float | None]] = {}

    @property
    def accounts(self) -> dict[str, str]:
        """Account → URL of everything in the file."""
        return {name: account.url for name, (account, _) in self._accounts.items()}

    @property
    def chains(self) -> tuple[str, ...]:
        """The names of the chains in the file."""
        return tuple(self._chains)

    def write(self, settings: EnvoySettings, now: float) -> bool:
        """Write what is in use and what is retiring; whether that changed the file. Raises EnvoyConfigError."""
        until = now + RETIREMENT_SECONDS
        accounts = {
            name: (kept, due if due is not None else until)
            for name, (kept, due) in self._accounts.items()
            if due is None or due > now
        } | {account.name: (account, None) for account in settings.accounts}
        chains = {
            name: (link, due if due is not None else until)
            for name, (link, due) in self._chains.items()
            if due is None or due > now
        } | {chain.name: (chain, None) for chain in settings.chains}
        text = render_clusters(
            replace(
                settings,
                accounts=tuple(account for account, _ in accounts.values()),
                chains=tuple(chain for chain, _ in chains.values()),
            )
        )
        self._accounts, self._chains = dict(accounts), dict(chains)
        return write_followed(self.path, text)


def write_followed(path: Path, text: str) -> bool:
    """Rename a file that Envoy follows into place; whether that changed it."""
    if path.exists() and path.read_text() == text:
        return False
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)
    return True
