"""Which sequences of provider accounts a policy set can try one after the other. Pure.

Envoy chooses the cluster of the n-th attempt from a list that stands in its configuration: one list per sequence. So
the sequences are enumerated when a policy set is loaded, from the same rules and in the same way by whoever
configures Envoy and by the workers who choose among them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import perm
from typing import Final

from ext_proc.routing.virtual_models import Member, VirtualModel, VirtualModels

CHAIN_PREFIX: Final = "tollgate-chain-"
TARGETS_MAX: Final = 4
"""How many different targets one request tries."""

ATTEMPTS_MAX: Final = 8
ORDERS_MAX: Final = 240
"""How many orders of one rule are configured; a rule with more targets tries fewer of them per request."""

Accounts = tuple[str, ...]


def depth(targets: int) -> int:
    """How many of so many targets one request may try."""
    wanted = min(targets, TARGETS_MAX)
    while wanted > 1 and perm(targets, wanted) > ORDERS_MAX:
        wanted -= 1
    return wanted


def attempts(members: Sequence[Member], targets: int, tries_max: int = ATTEMPTS_MAX) -> tuple[Member, ...]:
    """The member of each attempt, in order, of a rule with so many targets: retries first, then the next target.

    `tries_max`: how often one target is tried in a row at most.
    """
    chosen = members[: depth(targets)]
    return tuple(member for member in chosen for _ in range(min(member.tries, tries_max)))[:ATTEMPTS_MAX]


def account_of(member: Member) -> str:
    """The provider account of a member."""
    return member.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Chains:
    """Every sequence that can occur, and the name of its cluster."""

    clusters: Mapping[str, Accounts]  # cluster name → accounts, one per attempt
    _by_sequence: Mapping[Accounts, str]

    @classmethod
    def of(cls, virtual_models: VirtualModels, accounts: Mapping[str, object]) -> Chains:
        """The chains of a policy set's rules, through the accounts that exist."""
        sequences = {
            sequence for rule in virtual_models.rules for sequence in _sequences(rule) if set(sequence) <= set(accounts)
        }
        beginnings = {sequence[:length] for sequence in sequences for length in range(2, len(sequence))}
        whole = sorted(sequence for sequence in sequences if len(sequence) > 1 and sequence not in beginnings)
        clusters = {cluster_name(sequence): sequence for sequence in whole}
        by_sequence = {
            sequence[:length]: name for name, sequence in clusters.items() for length in range(2, len(sequence) + 1)
        }
        return cls(clusters, by_sequence)

    def cluster(self, accounts: Accounts) -> str | None:
        """The cluster whose attempts go to these accounts in this order; None where there is none."""
        return self._by_sequence.get(accounts)


def cluster_name(accounts: Accounts) -> str:
    """A sequence's cluster: the same name in every process."""
    return CHAIN_PREFIX + hashlib.blake2b("\n".join(accounts).encode(), digest_size=8).hexdigest()


def _sequences(rule: VirtualModel) -> Iterator[Accounts]:
    count = len(rule.members)
    # A client may ask for fewer retries than the rule grants.
    for tries_max in range(1, max((member.tries for member in rule.members), default=1) + 1):
        for ordered in permutations(rule.members, depth(count)):
            # Who may not follow is left out where others come first.
            kept = (*ordered[:1], *(member for member in ordered[1:] if member.may_follow))
            yield tuple(account_of(member) for member in attempts(kept, count, tries_max))
