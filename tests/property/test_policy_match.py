"""Whole documents against an oracle that reads `when` as the specification words it, without any index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ext_proc.identity.caller import Caller
from ext_proc.policy.loader import load_files
from ext_proc.policy.snapshot import MatchFacts
from ext_proc.policy.yaml_source import SourceFile

NAMES = st.sampled_from(["a", "b", "c"])
TAGS = st.sampled_from(["cost_center", "repo", "environment"])
TARGETS = st.sampled_from(["one/m", "one/n", "two/m"])
VIRTUAL = "chat"
SUBJECTS = st.one_of(
    st.builds("{}:{}".format, st.sampled_from(["user", "team", "virtualaccount", "virtual-account", "tenant"]), NAMES),
    st.just("*"),
)


def lists(of: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    """One to three different values."""
    return st.lists(of, min_size=1, max_size=3, unique=True)


def filters(of: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, list[str]]]:
    """A V2 filter."""
    return st.fixed_dictionaries({}, optional={"in": lists(of), "not_in": lists(of)})


KINDS = ("users", "teams", "virtual_accounts", "tenants")
WHENS = st.fixed_dictionaries(
    {},
    optional={
        "subjects": lists(SUBJECTS) | st.fixed_dictionaries({}, optional={kind: filters(NAMES) for kind in KINDS}),
        "models": lists(TARGETS | st.just(VIRTUAL) | st.just("*")) | filters(TARGETS | st.just(VIRTUAL)),
        "provider_accounts": filters(st.sampled_from(["one", "two"])),
        "metadata": st.dictionaries(
            TAGS.filter(lambda tag: tag != "environment"), NAMES | lists(NAMES) | filters(NAMES)
        ),
        "plans": lists(NAMES),
        "environments": lists(NAMES),
    },
)
RULES = st.fixed_dictionaries(
    {"when": WHENS, "audit_mode": st.booleans()},
    optional={
        "budget_applies_per": st.lists(
            st.sampled_from(["user", "team", "model", "metadata.repo", "tenant"]), min_size=1, max_size=2, unique=True
        ),
        "on_missing_key": st.sampled_from(["bucket", "skip"]),
    },
)
MAYBE = st.none() | NAMES
CALLERS = st.builds(
    Caller,
    user=MAYBE,
    team=MAYBE,
    virtual_account=MAYBE,
    tenant=MAYBE,
    plan=MAYBE,
    tags=st.dictionaries(TAGS, NAMES),
)
FACTS = st.builds(MatchFacts, CALLERS, TARGETS | st.just(VIRTUAL), TARGETS)


def matches(when: Mapping[str, Any], facts: MatchFacts) -> bool:
    """All conditions that are present hold."""
    caller = facts.caller
    models = {facts.target} | ({facts.requested_model} & {VIRTUAL})
    checks = [
        _subjects(when.get("subjects"), caller),
        _any_of(when.get("models"), models),
        _filter(when.get("provider_accounts", {}), {facts.target.split("/")[0]}),
        _any_of(when.get("plans"), {caller.plan}),
        _any_of(when.get("environments"), {caller.tags.get("environment")}),
        *(_tag(wanted, caller.tags.get(tag)) for tag, wanted in when.get("metadata", {}).items()),
    ]
    return all(checks)


def _subjects(wanted: list[str] | Mapping[str, Any] | None, caller: Caller) -> bool:
    named = {
        "user": caller.user,
        "team": caller.team,
        "virtualaccount": caller.virtual_account,
        "virtual-account": caller.virtual_account,
        "tenant": caller.tenant,
    }
    if wanted is None or "*" in wanted:
        return True
    if isinstance(wanted, list):
        return any(named[subject.split(":")[0]] == subject.split(":")[1] for subject in wanted)
    by_kind = {
        "users": caller.user,
        "teams": caller.team,
        "virtual_accounts": caller.virtual_account,
        "tenants": caller.tenant,
    }
    return all(_filter(chosen, {by_kind[kind]}) for kind, chosen in wanted.items())


def _tag(wanted: str | list[str] | Mapping[str, Any], value: str | None) -> bool:
    if isinstance(wanted, str):
        return value == wanted
    return value in wanted if isinstance(wanted, list) else _filter(wanted, {value})


def _any_of(wanted: list[str] | Mapping[str, Any] | None, present: set[str | None] | set[str]) -> bool:
    if isinstance(wanted, Mapping):
        return _filter(wanted, present)
    return wanted is None or "*" in wanted or any(value in wanted for value in present)


def _filter(chosen: Mapping[str, Any], present: set[str | None] | set[str]) -> bool:
    inside = "in" not in chosen or any(value in chosen["in"] for value in present)
    return inside and not any(value in chosen.get("not_in", ()) for value in present)


def _value(key: str, facts: MatchFacts) -> str | None:
    if key.startswith("metadata."):
        return facts.caller.tags.get(key.removeprefix("metadata."))
    return facts.target if key == "model" else getattr(facts.caller, key)


@given(
    st.lists(st.lists(RULES, min_size=1, max_size=6), min_size=1, max_size=3), st.lists(FACTS, min_size=1, max_size=5)
)
def test_a_snapshot_matches_what_the_specification_says(
    documents: list[list[dict[str, Any]]], requests: list[MatchFacts]
) -> None:
    """Same rules in the same order, same buckets, and per document one decision: that of its first match."""
    routing: dict[str, Any] = {
        "name": "routing",
        "type": "gateway-load-balancing-config",
        "rules": [
            {
                "id": "chat",
                "type": "priority-based-routing",
                "when": {"models": [VIRTUAL]},
                "load_balance_targets": [{"target": "one/m"}],
            }
        ],
    }
    written = [routing] + [
        {
            "name": f"d{number}",
            "type": "gateway-budget-config",
            "rules": [
                {"id": f"{number}-{index}", "limit_to": 1, "unit": "cost_per_day", **rule}
                for index, rule in enumerate(rules)
            ],
        }
        for number, rules in enumerate(documents)
    ]
    snapshot = load_files([SourceFile("a.yaml", "\n---\n".join(map(json.dumps, written)).encode())])

    for facts in requests:
        expected: list[tuple[str, tuple[tuple[str, str | None], ...], bool]] = []
        for number, rules in enumerate(documents):
            first = True
            for index, rule in enumerate(rules):
                bucket = tuple((key, _value(key, facts)) for key in rule.get("budget_applies_per", ()))
                skipped = rule.get("on_missing_key") == "skip" and any(value is None for _, value in bucket)
                if matches(rule["when"], facts) and not skipped:
                    expected.append((f"{number}-{index}", bucket, first and not rule["audit_mode"]))
                    first = False

        assert [(r.account.rule_id, r.account.bucket, r.deciding) for r in snapshot.match(facts)] == expected
