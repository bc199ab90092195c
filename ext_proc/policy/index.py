"""Which conditions a request fulfils, without trying them all.

Conditions are filed by what they match on (tuple space search): all that constrain the same attributes share one table,
keyed by the values they want. A request looks itself up once in each table whose attributes it has, so the cost grows
with the number of *shapes* of rules and of matches, not with the number of rules. What a key cannot say (negations,
long lists) is checked on the few that were found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

from ext_proc.policy.condition import Attributes, Clause, Condition, holds

MAX_KEYS_PER_RULE = 64
"""A rule whose lists multiply to more keys than this leaves its longest lists to the check."""

_Key = tuple[str, ...]


class Index:
    """The conditions of a list of rules, by position."""

    def __init__(self, conditions: Sequence[Condition]) -> None:
        self._always: list[int] = []
        self._tables: dict[_Key, dict[_Key, list[int]]] = {}
        self._rest: list[Condition] = []
        for position, condition in enumerate(conditions):
            keyed = _keyed(condition)
            self._rest.append(tuple(clause for clause in condition if clause not in keyed))
            if not keyed:
                self._always.append(position)
                continue
            table = self._tables.setdefault(tuple(clause.attribute for clause in keyed), {})
            for key in product(*(sorted(clause.values) for clause in keyed)):
                table.setdefault(key, []).append(position)
        self._led_by = _leaders(tuple(self._tables))

    def matching(self, attributes: Attributes) -> list[int]:
        """The positions of all conditions a request fulfils, rising."""
        found = set(self._always)
        for attribute in attributes:
            for shape in self._led_by.get(attribute, ()):
                values = [attributes.get(name, ()) for name in shape]
                table = self._tables[shape]
                for key in product(*values):
                    found.update(table.get(key, ()))
        return sorted(position for position in found if holds(self._rest[position], attributes))


def _keyed(condition: Condition) -> tuple[Clause, ...]:
    """The clauses that become a rule's key: positive, one per attribute, shortest lists first, in attribute order."""
    shortest: dict[str, Clause] = {}
    for clause in sorted((c for c in condition if not c.negated), key=lambda c: len(c.values)):
        shortest.setdefault(clause.attribute, clause)
    keys = 1
    chosen: list[Clause] = []
    for clause in shortest.values():
        keys *= len(clause.values)
        if keys > MAX_KEYS_PER_RULE and chosen:
            break
        chosen.append(clause)
    return tuple(sorted(chosen, key=lambda c: c.attribute))


def _leaders(shapes: tuple[_Key, ...]) -> dict[str, tuple[_Key, ...]]:
    """Shapes by the attribute of theirs that the fewest shapes share: a request without it never visits them."""
    shared = Counter(attribute for shape in shapes for attribute in shape)
    led: dict[str, list[_Key]] = {}
    for shape in shapes:
        led.setdefault(min(shape, key=lambda attribute: (shared[attribute], attribute)), []).append(shape)
    return {attribute: tuple(group) for attribute, group in led.items()}
