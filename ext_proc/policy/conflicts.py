"""What is wrong between documents that are right for themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ext_proc.policy.chain_conflicts import chain_conflicts
from ext_proc.policy.compile import private_costs
from ext_proc.policy.documents import Document
from ext_proc.policy.documents.identity import IdentityDocument
from ext_proc.policy.documents.notification import NotificationDocument
from ext_proc.policy.documents.provider import ProviderDocument
from ext_proc.policy.documents.routing import RoutingDocument
from ext_proc.policy.documents.settings import SettingsDocument
from ext_proc.policy.documents.tagging import TaggingDocument
from ext_proc.policy.errors import PolicyError
from ext_proc.policy.fields import Located
from ext_proc.policy.scalars import shown
from ext_proc.pricing.errors import PricingError
from ext_proc.pricing.private import private_price


def conflicts(documents: Sequence[Document]) -> list[PolicyError]:
    """Every conflict of a set, in document order."""
    found = (_repeated_documents, _repeated_ids, _settings, _nested, chain_conflicts, _prices)
    return [error for check in found for error in check(documents)]


def _place(item: Located) -> str:
    return f"{item.where.file}:{item.where.line}"


def _repeated_documents(documents: Sequence[Document]) -> Iterator[PolicyError]:
    first: dict[tuple[str, str], Document] = {}
    for document in documents:
        before = first.setdefault((document.type, document.name), document)
        if before is not document:
            problem = f"a {document.type} named {shown(document.name)} stands already at {_place(before)}"
            yield document.where.error("name", problem, "give each its own name")


def _named(document: Document) -> Iterator[tuple[str, str, Located]]:
    """(kind, id, item) of everything that must be unique over the whole set."""
    if isinstance(document, ProviderDocument):
        yield from (("provider account", account.name, account) for account in document.all_accounts())
    elif isinstance(document, IdentityDocument):
        yield from (("key", key.id, key) for key in document.keys)
        yield from (("team", team.id, team) for team in document.teams)
        yield from (("tenant", tenant.id, tenant) for tenant in document.tenants)
    elif isinstance(document, NotificationDocument):
        yield from (("channel", channel.name, channel) for channel in document.channels)
    else:
        rules = getattr(document, "rules", ())
        yield from ((f"{document.type} rule", rule.id, rule) for rule in rules)


def _repeated_ids(documents: Sequence[Document]) -> Iterator[PolicyError]:
    """Ids within one document are compared when it is decoded; these are two documents with one id."""
    first: dict[tuple[str, str], tuple[Document, Located]] = {}
    for document in documents:
        for kind, name, item in _named(document):
            owner, before = first.setdefault((kind, name), (document, item))
            if owner is not document:
                field = "id" if hasattr(item, "id") else "name"
                problem = f"the {kind} {shown(name)} stands already at {_place(before)}"
                yield item.where.error(field, problem, "give each its own")


def _settings(documents: Sequence[Document]) -> Iterator[PolicyError]:
    settings = [document for document in documents if isinstance(document, SettingsDocument)]
    for extra in settings[1:]:
        problem = f"a second gateway-settings; the first stands at {_place(settings[0])}"
        yield extra.where.error("type", problem, "merge them into one")
    named = [d for d in documents if isinstance(d, TaggingDocument) and "header" in d.where.lines]
    for other in named[1:]:
        if other.header.lower() != named[0].header.lower():
            problem = f"{shown(other.header)} is not the header that {_place(named[0])} names"
            yield other.where.error("header", problem, "name it once")


def _prices(documents: Sequence[Document]) -> Iterator[PolicyError]:
    """Private prices that pricing cannot read: kinds it does not meter, rates too fine to count."""
    for document in documents:
        if not isinstance(document, ProviderDocument):
            continue
        for model in (model for account in document.all_accounts() for model in account.models):
            for index, dated in enumerate(private_costs(model)):
                try:
                    private_price(dated.cost)
                except PricingError as error:
                    entry = f"[{index}]" if isinstance(model.cost, tuple) else ""
                    problem, _, cure = error.problem.partition("; ")
                    yield model.where.error(f"cost{entry}.{error.field}", problem, cure or "write another price")


def _nested(documents: Sequence[Document]) -> Iterator[PolicyError]:
    """A chain leads to real targets: a virtual model inside a virtual model has no price and may loop."""
    routing = [document for document in documents if isinstance(document, RoutingDocument)]
    virtual = {
        name
        for document in routing
        for rule in document.rules
        if isinstance(rule.when.models, tuple)
        for name in rule.when.models
    }
    for document in routing:
        for rule in document.rules:
            own = set(rule.when.models) if isinstance(rule.when.models, tuple) else set()
            for target in rule.load_balance_targets:
                # A rule may route a concrete name to itself among others; only another rule's name is nesting.
                if target.target in virtual - own:
                    problem = f"{shown(target.target)} is itself a virtual model"
                    yield target.where.error("target", problem, "name an account/model that serves")
