"""Swaps that do not save, and models without a price."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ext_proc.policy.documents.common import ANYONE
from ext_proc.policy.documents.provider import ProviderDocument
from ext_proc.policy.documents.routing import Downgrade, RoutingDocument
from ext_proc.policy.errors import PolicyError
from ext_proc.policy.fields import Located
from ext_proc.policy.scalars import nearest, shown
from ext_proc.policy.snapshot import Snapshot, Unpriced
from ext_proc.pricing.book import PriceBook
from ext_proc.pricing.price import Price

_FAMILIES: Mapping[str, str] = {"anthropic": "Anthropic", "gemini": "Gemini", "vertex": "Gemini", "bedrock": "Bedrock"}
"""Providers that do not speak OpenAI's API, and whose they speak."""

_PICODOLLARS_PER_DOLLAR_PER_MILLION = 1_000_000  # $1 per million tokens is so many pico-dollars per token


def price_warnings(snapshot: Snapshot, prices: PriceBook, at_us: int) -> Iterator[PolicyError]:
    """Every warning about targets and what they cost at a moment."""
    book = _Prices(snapshot, prices, at_us)
    for document in snapshot.documents_of(RoutingDocument):
        yield from _routing_warnings(book, document, snapshot.virtual_models)
    for provider in snapshot.documents_of(ProviderDocument):
        for account in provider.all_accounts():
            for model in account.models:
                yield from book.target_warnings(model, "name", f"{account.name}/{model.name}")


def _routing_warnings(
    book: _Prices, document: RoutingDocument, virtual_models: frozenset[str]
) -> Iterator[PolicyError]:
    for rule in document.rules:
        for target in rule.load_balance_targets:
            yield from book.target_warnings(target, "target", target.target)
    for downgrade in document.downgrades:
        yield from _cycles(downgrade)
        for dear, cheap in downgrade.swap.items():
            yield from book.swap_warnings(downgrade, dear, cheap)
    for saving in document.savings:
        for dear, cheap in saving.swap.items():
            if cheap not in virtual_models:
                yield from book.swap_warnings(saving, dear, cheap)


class _Prices:
    def __init__(self, snapshot: Snapshot, prices: PriceBook, at_us: int) -> None:
        self._snapshot = snapshot
        self._prices = prices
        self._at_us = at_us

    def target_warnings(self, item: Located, field: str, target: str) -> Iterator[PolicyError]:
        """An account that does not exist, or a model without a price."""
        name, _, _ = target.partition("/")
        accounts = self._snapshot.accounts
        if name not in accounts:
            problem = f"no provider account is named {shown(name)}"
            yield item.where.error(field, problem, nearest(name, tuple(sorted(accounts))))
        elif self._price(target) is None:
            consequence = {
                None: "it is charged at the provider's dearest price where its account declares it, else refused",
                Unpriced.CEILING: "it is charged at the provider's dearest price",
                Unpriced.REFUSE: "it is refused",
                Unpriced.FREE: "it is free, and no budget counts it",
            }[self._snapshot.settings.unpriced]
            problem = f"{shown(target)} has no known price: {consequence}"
            yield item.where.error(field, problem, "correct the name, or give it a cost in its provider account")

    def swap_warnings(self, item: Located, dear: str, cheap: str) -> Iterator[PolicyError]:
        """A swap must lead to a target that exists, speaks the same API, and costs less."""
        field = f"swap.{dear}"
        yield from self.target_warnings(item, field, cheap)
        if dear == ANYONE:
            return
        spoken, wanted = self._family(cheap), self._family(dear)
        if spoken is not None and wanted is not None and spoken != wanted:
            problem = f"a request for {wanted}'s API cannot be sent to {shown(cheap)}, which speaks {spoken}'s"
            yield item.where.error(field, problem, f"name a target that speaks {wanted}'s API")
        before, after = self._price(dear), self._price(cheap)
        if before is not None and after is not None:
            for kind, old, new in (
                ("input", before.dearest_input_rate(), after.dearest_input_rate()),
                ("output", before.dearest_output_rate(), after.dearest_output_rate()),
            ):
                if new > old:
                    costs = f"its {kind} costs {_dollars(new)} per million tokens, not {_dollars(old)}"
                    yield item.where.error(field, f"{shown(cheap)} is dearer: {costs}", "swap for a cheaper target")

    def _family(self, target: str) -> str | None:
        account = self._snapshot.accounts.get(target.partition("/")[0])
        return None if account is None else _FAMILIES.get(account.provider, "OpenAI")

    def _price(self, target: str) -> Price | None:
        name, _, model = target.partition("/")
        account = self._snapshot.accounts.get(name)
        if account is None:
            return None
        return self._prices.price(account.provider, model, self._at_us, account=account.name)


def _cycles(downgrade: Downgrade) -> Iterator[PolicyError]:
    """Swaps that lead back to where they began: a constrained request would be swapped for ever, or not at all."""
    reported: set[str] = set()
    for start in downgrade.swap:
        chain = [start]
        while (following := downgrade.swap.get(chain[-1])) is not None and following not in chain:
            chain.append(following)
        if following == start and start not in reported:
            reported.update(chain)
            path = " → ".join([*chain, start])
            yield downgrade.where.error(f"swap.{start}", f"leads in a circle: {path}", "let the cheapest target end it")


def _dollars(picodollars_per_token: int) -> str:
    return f"${picodollars_per_token / _PICODOLLARS_PER_DOLLAR_PER_MILLION:g}"
