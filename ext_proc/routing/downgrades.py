"""What `constrained` does: which target gives way to which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ext_proc.policy.condition import Condition, holds
from ext_proc.policy.conditions import condition_of
from ext_proc.policy.documents.common import ANYONE
from ext_proc.policy.documents.routing import RoutingDocument
from ext_proc.policy.rules import attributes_of
from ext_proc.policy.snapshot import MatchFacts, Snapshot


@dataclass(frozen=True, slots=True)
class Swaps:
    """One entry of `downgrades`: for whom, and dearer target → cheaper target."""

    condition: Condition
    targets: Mapping[str, str]


class Downgrades:
    """All swaps of a snapshot. The most specific `when` that holds applies; of equals the first in file order."""

    def __init__(self, swaps: Sequence[Swaps], virtual_models: frozenset[str]) -> None:
        self._swaps = sorted(swaps, key=lambda entry: -len(entry.condition))
        self._virtual_models = virtual_models

    @classmethod
    def of(cls, snapshot: Snapshot) -> Downgrades:
        """Compile the `downgrades` of every routing document."""
        swaps = [
            Swaps(condition_of(entry.when), entry.swap)
            for document in snapshot.documents_of(RoutingDocument)
            for entry in document.downgrades
        ]
        return cls(swaps, snapshot.virtual_models)

    def swap(self, facts: MatchFacts) -> str | None:
        """What the target of these facts gives way to when an account is constrained; None: it is not premium."""
        if not self._swaps:
            return None
        attributes = attributes_of(facts, self._virtual_models)
        for entry in self._swaps:
            if holds(entry.condition, attributes):
                cheaper = entry.targets.get(facts.target) or entry.targets.get(ANYONE)
                # A target that others are swapped for is not itself premium under the wildcard.
                return cheaper if cheaper != facts.target else None
        return None
