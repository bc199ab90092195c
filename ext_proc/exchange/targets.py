"""Which account and model a request is for, and at which price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ext_proc.dialects.interface import Dialect
from ext_proc.dialects.providers import speaks
from ext_proc.exchange import request_refusals as refused
from ext_proc.exchange.terms import Terms
from ext_proc.policy.snapshot import MatchFacts, ProviderAccount, Unpriced
from ext_proc.pricing.price import Price, Tier
from ext_proc.pricing.usage import Rates
from ext_proc.refusal import Refusal

SELF_HOSTED: Final = "openai-compatible"
"""The provider of servers of one's own: every public one has a name."""

FREE: Final = Price(tiers=(Tier(0, Rates()),), version="free")
"""The price of a model that `unpriced: free` lets pass."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a request may finally be sent to, and what that costs."""

    account: ProviderAccount
    model: str
    price: Price
    unpriced: bool = False

    @property
    def name(self) -> str:
        """`account/model`."""
        return f"{self.account.name}/{self.model}"

    @property
    def region(self) -> str | None:
        """Where it serves; None where the provider document does not say."""
        return self.account.region_of(self.model)

    @property
    def is_own(self) -> bool:
        """Whether no provider sends a bill for it: it is free, or a server of one's own. An exhausted budget may still
        swap to it.
        """
        return self.price.is_free or self.account.provider == SELF_HOSTED


def resolve_target(model: str, dialect: Dialect, terms: Terms, now_us: int) -> Target | Refusal:
    """The target of a model as a client names it: `account/model`, else the account of the dialect."""
    prefix, slash, bare = model.partition("/")
    if slash and prefix in terms.accounts:
        account, name = terms.accounts[prefix], bare
    elif slash or dialect.default_account not in terms.accounts:
        why = f"no provider account is named '{prefix}'" if slash else "no provider account serves it"
        return refused.unknown_model(model, why, terms.accounts)
    else:
        account, name = terms.accounts[dialect.default_account], model
    if not speaks(account.provider, dialect.name):
        why = f"account '{account.name}' does not speak {dialect.name}"
        return refused.unknown_model(model, why, terms.accounts)
    return _priced(account, name, dialect, terms, now_us)


def cheaper_target(target: Target, dialect: Dialect, match: MatchFacts, terms: Terms, now_us: int) -> Target | None:
    """What the target gives way to when a budget is constrained; None where no swap names it, or none can serve."""
    name = terms.downgrades.swap(match)
    if name is None:
        return None
    cheaper = resolve_target(name, dialect, terms, now_us)
    if isinstance(cheaper, Refusal) or cheaper == target:
        return None
    # A client's own provider key is good for the account it was brought for, and for no other.
    needs_another_key = cheaper.account.client_credential and cheaper.account.name != target.account.name
    return None if needs_another_key else cheaper


def _priced(account: ProviderAccount, model: str, dialect: Dialect, terms: Terms, now_us: int) -> Target | Refusal:
    price = terms.prices.price(account.provider, model, now_us, account=account.name)
    if price is not None and price.is_countable(dialect.units):
        return Target(account, model, price)
    declared = price is not None or any(entry.name == model for entry in account.models)
    rule = terms.snapshot.settings.unpriced
    name = f"{account.name}/{model}"
    if rule is None and not declared:
        why = "neither the price catalogue nor its account knows it"
        return refused.unknown_model(name, why, terms.accounts)
    match rule or Unpriced.CEILING:
        case Unpriced.REFUSE:
            return refused.unpriced(name)
        case Unpriced.CEILING:
            ceiling = terms.prices.ceiling(account.provider, now_us, account=account.name, units=dialect.units)
            return Target(account, model, ceiling, unpriced=True)
        case Unpriced.FREE:
            return Target(account, model, FREE, unpriced=True)
