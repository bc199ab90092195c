"""`when`, compiled: a conjunction of clauses over what a request is known by.

A request is a mapping attribute → the values it has: `subject` (`user:alice`, `team:search`, …), `model`, `account`,
`plan`, and `metadata.<key>` per tag. A clause holds when one of the request's values is in its set (or, negated, when
none is).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SUBJECT = "subject"
MODEL = "model"
ACCOUNT = "account"
PLAN = "plan"
METADATA = "metadata."

Attributes = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition on one attribute."""

    attribute: str
    values: frozenset[str]
    negated: bool = False

    def holds(self, attributes: Attributes) -> bool:
        """Whether a request fulfils it. An attribute the request lacks fulfils only a negated clause."""
        present = attributes.get(self.attribute, ())
        return any(value in self.values for value in present) != self.negated


Condition = tuple[Clause, ...]
"""All clauses must hold; the empty condition holds always."""


def holds(condition: Condition, attributes: Attributes) -> bool:
    """Whether a request fulfils a whole condition."""
    return all(clause.holds(attributes) for clause in condition)
