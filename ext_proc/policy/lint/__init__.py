"""What in a policy set is allowed and yet looks like a mistake: `tollgate check` prints these as warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ext_proc.policy.errors import PolicyError
from ext_proc.policy.lint.chains import chain_warnings
from ext_proc.policy.lint.matching import matching_warnings
from ext_proc.policy.lint.people import people_warnings
from ext_proc.policy.lint.prices import price_warnings
from ext_proc.policy.lint.residency import residency_warnings
from ext_proc.policy.lint.secrets import secret_warnings
from ext_proc.policy.lint.streams import stream_warnings
from ext_proc.policy.snapshot import MatchFacts, Snapshot
from ext_proc.policy.yaml_source import SourceFile
from ext_proc.pricing.book import PriceBook


@dataclass(frozen=True, slots=True)
class PricesAt:
    """The price book of the set, and the moment (microseconds) whose prices count."""

    book: PriceBook
    at_us: int


def lint(
    snapshot: Snapshot,
    *,
    files: Sequence[SourceFile] = (),
    samples: Sequence[MatchFacts] = (),
    prices: PricesAt | None = None,
) -> list[PolicyError]:
    """Every warning of a set, in file and line order.

    `files` are searched for secrets; `samples` are requests of which each rule should match one; without `prices`
    nothing is said about costs.
    """
    found = [*matching_warnings(snapshot, samples), *people_warnings(snapshot), *secret_warnings(files)]
    found += residency_warnings(snapshot)
    found += chain_warnings(snapshot)
    found += stream_warnings(snapshot)
    if prices is not None:
        found += price_warnings(snapshot, prices.book, prices.at_us)
    return sorted(set(found))
