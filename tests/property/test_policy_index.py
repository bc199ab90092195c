"""The index gives the matches of a naive scan, for random rules and requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ext_proc.policy.condition import Clause, holds
from ext_proc.policy.index import MAX_KEYS_PER_RULE, Index

ATTRIBUTES = st.sampled_from(["subject", "model", "account", "plan", "metadata.a", "metadata.b", "metadata.c"])
VALUES = st.sampled_from(["1", "2", "3", "4"])
CLAUSES = st.builds(Clause, ATTRIBUTES, st.frozensets(VALUES, max_size=3), st.booleans())
WIDE = st.builds(
    Clause, ATTRIBUTES, st.sets(st.integers(0, 200), min_size=9, max_size=90).map(lambda s: frozenset(map(str, s)))
)
CONDITIONS = st.lists(CLAUSES | WIDE, max_size=5).map(tuple)
REQUESTS = st.dictionaries(ATTRIBUTES, st.lists(VALUES, max_size=3, unique=True).map(tuple))


@given(st.lists(CONDITIONS, max_size=30), REQUESTS)
def test_the_index_finds_what_a_scan_finds(
    conditions: list[tuple[Clause, ...]], request_: dict[str, tuple[str, ...]]
) -> None:
    """Same rules, same order, whatever the conditions constrain and the request has."""
    scanned = [position for position, condition in enumerate(conditions) if holds(condition, request_)]

    assert Index(conditions).matching(request_) == scanned


def test_a_rule_never_takes_more_keys_than_the_bound() -> None:
    """Lists that multiply leave the longest to the check, so that no rule can fill the memory."""
    wide = frozenset(map(str, range(10)))
    index = Index([tuple(Clause(name, wide) for name in ("a", "b", "c", "d"))])

    assert sum(len(table) for table in index._tables.values()) <= MAX_KEYS_PER_RULE
    assert index.matching({"a": ("1",), "b": ("2",), "c": ("3",), "d": ("4",)}) == [0]
    assert index.matching({"a": ("1",), "b": ("2",), "c": ("3",), "d": ("x",)}) == []
