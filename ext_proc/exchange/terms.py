"""What a request is judged by: one policy snapshot, its price book, and where its accounts really are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import urlsplit

from ext_proc.exchange.calibration import NOTHING_LEARNED, Calibration
from ext_proc.identity.identities import Identities
from ext_proc.policy.snapshot import ProviderAccount, Snapshot
from ext_proc.pricing.book import PriceBook
from ext_proc.pricing.catalogue import Catalogue
from ext_proc.pricing.private import private_price
from ext_proc.pricing.schedule import Dated, Schedule
from ext_proc.routing.chains import Chains
from ext_proc.routing.downgrades import Downgrades
from ext_proc.routing.health import NOTHING_KNOWN, Health
from ext_proc.routing.savings import Savings
from ext_proc.routing.virtual_models import VirtualModels


@dataclass(frozen=True, slots=True)
class Terms:
    """A request keeps the terms it began with, whatever is loaded meanwhile.

    `accounts` are the snapshot's, with the endpoints that the command line has replaced.
    """

    snapshot: Snapshot
    prices: PriceBook
    accounts: Mapping[str, ProviderAccount]
    downgrades: Downgrades
    lease_ms: int
    identities: Identities
    virtual_models: VirtualModels
    chains: Chains
    savings: Savings
    health: Health = NOTHING_KNOWN
    calibration: Calibration = NOTHING_LEARNED
    native: bool = False  # whether Envoy's own parsers are there to read usage

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        *,
        lease_ms: int,
        upstreams: Mapping[str, str] | None = None,
        identities: Identities | None = None,
        native: bool = False,
        catalogue: Catalogue | None = None,
    ) -> Self:
        """The terms of a snapshot. `upstreams`: account → URL in place of its endpoint. `identities`: everybody who is
        known; only those of the snapshot where it is left out. `native`: see the field. `catalogue`: the public prices;
        those that ship where it is left out.
        """
        moved = upstreams or {}
        accounts = {
            name: replace(account, endpoint=moved.get(name, account.endpoint))
            for name, account in snapshot.accounts.items()
        }
        prices = PriceBook(_private_prices(accounts), catalogue=catalogue)
        known = identities or Identities.of(snapshot)
        models = VirtualModels.of(snapshot)
        chains = Chains.of(models, accounts)
        return cls(
            snapshot=snapshot,
            prices=prices,
            accounts=accounts,
            downgrades=Downgrades.of(snapshot),
            lease_ms=lease_ms,
            identities=known,
            virtual_models=models,
            chains=chains,
            savings=Savings.of(snapshot),
            native=native,
        )


def upstream_path(account: ProviderAccount, path: str) -> str:
    """The path at the provider: below the endpoint's own base path. `/v1` is not said twice."""
    base = urlsplit(account.endpoint).path.rstrip("/")
    if base.endswith("/v1") and path.startswith("/v1/"):
        base = base.removesuffix("/v1")
    return base + path


def _private_prices(accounts: Mapping[str, ProviderAccount]) -> dict[str, dict[str, Schedule]]:
    return {
        account.name: {
            model.name: Schedule(
                tuple(
                    Dated(dated.price, max(cost.from_us, dated.from_us or 0), dated.daily)
                    for cost in model.costs
                    for dated in private_price(cost.cost).dated
                )
            )
            for model in account.models
            if model.costs
        }
        for account in accounts.values()
    }
