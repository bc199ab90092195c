"""`when` as written → conditions as matched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ext_proc.policy.condition import ACCOUNT, METADATA, MODEL, PLAN, SUBJECT, Clause, Condition
from ext_proc.policy.documents.common import ANYONE, InNotIn, SubjectFilters, TagCondition, When, split_subject
from ext_proc.policy.documents.tagging import CallerWhen


def condition_of(when: When | CallerWhen | None) -> Condition:
    """All conditions of a `when`. An empty list is no condition, as a list with `*` is none."""
    return () if when is None else tuple(_clauses(when))


def _clauses(when: When | CallerWhen) -> Iterator[Clause]:
    yield from _subjects(when.subjects)
    if isinstance(when, When):
        if isinstance(when.models, InNotIn):
            yield from filter_clauses(MODEL, when.models)
        else:
            yield from _any_of(MODEL, when.models)
        if when.provider_accounts is not None:
            yield from filter_clauses(ACCOUNT, when.provider_accounts)
    yield from _tags(when.metadata)
    yield from _any_of(PLAN, when.plans)
    yield from _any_of(f"{METADATA}environment", when.environments)


def _subjects(subjects: tuple[str, ...] | SubjectFilters | None) -> Iterator[Clause]:
    if isinstance(subjects, SubjectFilters):
        kinds = (
            ("user", subjects.users),
            ("team", subjects.teams),
            ("virtualaccount", subjects.virtual_accounts),
            ("tenant", subjects.tenants),
        )
        for kind, chosen in kinds:
            if chosen is not None:
                yield from filter_clauses(SUBJECT, chosen, prefix=f"{kind}:")
    elif subjects and ANYONE not in subjects:
        yield Clause(SUBJECT, frozenset(":".join(split_subject(subject)) for subject in subjects))


def _tags(conditions: Mapping[str, TagCondition]) -> Iterator[Clause]:
    for key, wanted in conditions.items():
        attribute = f"{METADATA}{key}"
        if isinstance(wanted, InNotIn):
            yield from filter_clauses(attribute, wanted)
        else:
            yield Clause(attribute, frozenset((wanted,) if isinstance(wanted, str) else wanted))


def filter_clauses(attribute: str, chosen: InNotIn, *, prefix: str = "") -> Iterator[Clause]:
    """The clauses of one V2 filter."""
    if chosen.in_:
        yield Clause(attribute, frozenset(f"{prefix}{value}" for value in chosen.in_))
    if chosen.not_in:
        yield Clause(attribute, frozenset(f"{prefix}{value}" for value in chosen.not_in), negated=True)


def _any_of(attribute: str, values: tuple[str, ...] | None) -> Iterator[Clause]:
    if values and ANYONE not in values:
        yield Clause(attribute, frozenset(values))
