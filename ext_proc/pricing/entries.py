"""A public catalogue as it was read: providers, their models, how names match, and what is listed for each.

The form is that of the genai-prices project, which publishes the data; `catalogue.py` says what it means in our rates.
Reading it needs none of that project's code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal

_COMPACT_DATE = re.compile(r"(?<=-)(20\d\d)(\d\d)(\d\d)(?=[-:]|$)")
"""`-20251211` in a name, as routers write it, is `-2025-12-11` in the catalogue."""


@dataclass(frozen=True, slots=True)
class Clause:
    """Which names a model answers to. `kind` with a text: equals, contains, starts_with, ends_with or regex; with
    clauses: or, and.
    """

    kind: str
    of: str | tuple[Clause, ...]

    def matches(self, name: str) -> bool:
        """`name` in lower case."""
        if isinstance(self.of, tuple):
            joined = any if self.kind == "or" else all
            return joined(clause.matches(name) for clause in self.of)
        match self.kind:
            case "equals":
                return name == self.of.lower()
            case "contains":
                return self.of.lower() in name
            case "starts_with":
                return name.startswith(self.of.lower())
            case "ends_with":
                return name.endswith(self.of.lower())
            case _:
                return re.search(self.of, name) is not None


@dataclass(frozen=True, slots=True)
class Tiered:
    """Dollars that depend on the size of the prompt. `tiers`: (from how many tokens, dollars), rising."""

    base: Decimal
    tiers: tuple[tuple[int, Decimal], ...]


Listed = Mapping[str, Decimal | Tiered]
"""The catalogue's own key (`input_mtok`) → dollars."""

Constraint = date | tuple[time, time] | None
"""From a day on; between two times of each day; always."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is listed while the constraint holds; a later entry comes before an earlier one."""

    listed: Listed
    constraint: Constraint = None


@dataclass(frozen=True, slots=True)
class Variant:
    """What is listed besides, where a response says that it was served so: `when` maps dimensions to values."""

    when: Mapping[str, str]
    listed: Listed
    constraint: Constraint = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model of a provider."""

    id: str
    match: Clause
    entries: tuple[Entry, ...] = ()
    variants: tuple[Variant, ...] = ()
    context_window: int | None = None
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class Provider:
    """`fallbacks`: whose models it sells besides its own."""

    id: str
    models: tuple[Model, ...] = ()
    fallbacks: tuple[str, ...] = ()

    def find(self, name: str, others: Mapping[str, Provider]) -> Model | None:
        """The first model that answers to a name, here or at those whose models it sells; then by its date's other
        form.
        """
        name = name.lower()
        sellers = (self, *(others[other] for other in self.fallbacks if other in others))
        found = _first(sellers, name)
        if found is None and (dashed := _COMPACT_DATE.sub(_dashed, name)) != name:
            found = _first(sellers, dashed)
        return found


def _first(sellers: Iterable[Provider], name: str) -> Model | None:
    return next((model for seller in sellers for model in seller.models if model.match.matches(name)), None)


def _dashed(compact: re.Match[str]) -> str:
    year, month, day = compact.groups()
    try:
        return date(int(year), int(month), int(day)).isoformat()
    except ValueError:
        return compact[0]
