"""Matching: documents mean what the specification says, rule by rule and bucket by bucket."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ext_proc.identity.caller import Caller
from ext_proc.ledger.interface import Measure, Period, Window, WindowKind
from ext_proc.policy import rules
from ext_proc.policy.snapshot import ConstrainAction, OnExhausted
from tests.policy_kit import DOLLAR, by_id, facts, snapshot

V1 = """
name: budget-controls
type: gateway-budget-config
rules:
  - id: "ml-team"
    when:
      subjects: ["team:ml", "virtual-account:batch"]
      models: ["openai-main/gpt-4o"]
    limit_to: 5000
    unit: cost_per_month
    budget_applies_per: ["team"]
    alerts:
      thresholds: [75, 87.5, 100]
      notification_target:
        - type: email
          notification_channel: "budget-alerts"
          to_emails: ["lead@example.com"]
        - type: slack-bot
          notification_channel: truefoundry:slack:test-bot:notification-channel:tfy-slack-bot
          channels: ["#notification-test"]
  - id: "project-{metadata.project_id}-daily"
    when:
      metadata:
        environment: "production"
    limit_to: 0.000001
    unit: cost_per_day
    audit_mode: false
  - id: "user-daily-budget"
    when: {}
    limit_to: 100
    unit: tokens_per_day
    budget_applies_per: ["user", "virtualaccount"]
    audit_mode: true
"""


def test_a_v1_budget_document_loads_unchanged_and_means_the_same() -> None:
    """Units, caps, buckets, thresholds and both spellings of a virtual account are read as the schema has them."""
    loaded = snapshot(V1)

    (team,) = (rule for rule in loaded.match(facts(team="ml")) if rule.account.rule_id == "ml-team")

    assert team.account.cap == 5000 * DOLLAR
    assert team.account.measure is Measure.COST
    assert team.account.window == Window(WindowKind.CALENDAR, Period.MONTH, "UTC")
    assert team.account.bucket == (("team", "ml"),)
    assert team.account.alert_thresholds == (75, 88, 100)
    assert "ml-team" in by_id(loaded.match(facts(virtual_account="batch")))
    assert "ml-team" not in by_id(loaded.match(facts(team="ml", target="openai-main/gpt-4o-mini")))


def test_the_first_matching_rule_decides_while_all_track() -> None:
    """Of the rules of one document only the first that matches decides; the rest keep count."""
    matched = snapshot(V1).match(facts({"environment": "production", "project_id": "p1"}, team="ml", user="ann"))

    assert by_id(matched) == {"ml-team": True, "project-p1-daily": False, "user-daily-budget": False}


def test_an_audit_rule_that_matches_first_decides_nothing_for_the_document() -> None:
    """The decision of a first matching audit rule is always allow: the enforced rule below it only tracks."""
    document = """
name: b
type: gateway-budget-config
rules:
  - {id: watch, when: {}, limit_to: 1, unit: cost_per_day, audit_mode: true}
  - {id: wall, when: {}, limit_to: 1, unit: cost_per_day}
"""

    watch, wall = snapshot(document).match(facts())

    assert (watch.audit, watch.deciding) == (True, False)
    assert (wall.audit, wall.deciding) == (False, False)


def test_with_evaluation_all_every_matching_rule_decides() -> None:
    """`evaluation: all` makes a hierarchy of one document; audit rules still never decide."""
    document = """
name: b
type: gateway-budget-config
evaluation: all
rules:
  - {id: watch, when: {}, limit_to: 1, unit: cost_per_day, audit_mode: true}
  - {id: a, when: {}, limit_to: 1, unit: cost_per_day}
  - {id: b, when: {}, limit_to: 1, unit: cost_per_week}
"""

    assert by_id(snapshot(document).match(facts())) == {"watch": False, "a": True, "b": True}


def test_every_document_has_a_deciding_rule_of_its_own() -> None:
    """A hierarchy is one document per level: the first match of each decides."""
    template = (
        "name: {0}\ntype: gateway-budget-config\nrules: [{{id: {0}, when: {{}}, limit_to: 1, unit: cost_per_day}}]"
    )

    matched = snapshot(template.format("organisation"), template.format("cost-center")).match(facts())

    assert by_id(matched) == {"organisation": True, "cost-center": True}


def test_a_templated_id_makes_a_bucket_per_value_without_applies_per() -> None:
    """The older way to write buckets keeps one account per value, and fills the id in for people."""
    loaded = snapshot(V1)

    first, second, missing = (
        next(r for r in loaded.match(facts(tags)) if r.account.rule_id.startswith("project-")).account
        for tags in (
            {"environment": "production", "project_id": "p1"},
            {"environment": "production", "project_id": "p2"},
            {"environment": "production"},
        )
    )

    assert [a.expanded_id for a in (first, second, missing)] == [
        "project-p1-daily",
        "project-p2-daily",
        "project-(none)-daily",
    ]
    assert [a.bucket for a in (first, second, missing)] == [
        (("metadata.project_id", "p1"),),
        (("metadata.project_id", "p2"),),
        (("metadata.project_id", None),),
    ]
    assert {a.rule_id for a in (first, second, missing)} == {"project-{metadata.project_id}-daily"}


def test_a_tag_value_that_says_none_is_not_the_missing_value() -> None:
    """The bucket of a missing key is a value of its own: nobody can name it."""
    document = """
name: b
type: gateway-budget-config
rules: [{id: r, when: {}, limit_to: 1, unit: cost_per_day, budget_applies_per: [metadata.repo]}]
"""
    loaded = snapshot(document)

    (named,), (missing,) = loaded.match(facts({"repo": "(none)"})), loaded.match(facts({}))

    assert named.account.bucket == (("metadata.repo", "(none)"),)
    assert missing.account.bucket == (("metadata.repo", None),)


def test_an_empty_tag_is_a_missing_one() -> None:
    """Nobody can make a bucket of their own by sending an empty value."""
    document = """
name: b
type: gateway-budget-config
rules: [{id: r, when: {}, limit_to: 1, unit: cost_per_day, budget_applies_per: [metadata.repo, user]}]
"""

    (rule,) = snapshot(document).match(facts({"repo": ""}, user=""))

    assert rule.account.bucket == (("metadata.repo", None), ("user", None))


def test_the_time_zone_is_part_of_calendar_accounts_only() -> None:
    """A lifetime has no zone: writing one does not start the account anew."""
    document = """
name: b
type: gateway-budget-config
rules:
  - {id: day, when: {}, limit_to: 1, unit: cost_per_day, timezone: Europe/Berlin}
  - {id: life, when: {}, limit_to: 1, unit: cost_per_lifetime, timezone: Europe/Berlin}
"""

    day, life = snapshot(document).match(facts())

    assert (day.account.window.timezone, life.account.window.timezone) == ("Europe/Berlin", "UTC")


@pytest.mark.parametrize(
    ("unit", "extra", "expected"),
    [
        ("cost_per_day", "", ["r"]),
        ("cost_per_lifetime", "", []),
        ("cost_per_lifetime", ", on_missing_key: bucket", ["r"]),
        ("cost_per_day", ", on_missing_key: skip", []),
    ],
)
def test_a_missing_key_is_a_bucket_or_skips_the_rule(unit: str, extra: str, expected: list[str]) -> None:
    """By default a missing tag is the bucket `(none)`, but skips lifetime budgets per tag."""
    document = f"""
name: b
type: gateway-budget-config
rules: [{{id: r, when: {{}}, limit_to: 1, unit: {unit}, budget_applies_per: [metadata.workflow_id]{extra}}}]
"""
    loaded = snapshot(document)

    assert list(by_id(loaded.match(facts({})))) == expected
    assert list(by_id(loaded.match(facts({"workflow_id": "w"})))) == ["r"]


def test_a_missing_key_can_be_refused() -> None:
    """`on_missing_key: refuse` reports the lacking key as an enforced finding, for matching requests alone."""
    document = """
name: b
type: gateway-budget-config
rules:
  - {id: r, when: {metadata: {cost_center: ci}}, limit_to: 1, unit: cost_per_day, budget_applies_per: [metadata.repo],
     on_missing_key: refuse}
"""
    loaded = snapshot(document)

    (finding,) = loaded.missing_tags(facts({"cost_center": "ci"}))

    assert (finding.rule_id, finding.missing, finding.enforced) == ("r", ("repo",), True)
    assert loaded.missing_tags(facts({"cost_center": "ci", "repo": "x"})) == ()
    assert loaded.missing_tags(facts({"cost_center": "search"})) == ()


def test_required_tags_are_found_missing_per_rule() -> None:
    """A tagging rule reports what is missing or empty, and whether that is enforced."""
    document = """
name: t
type: gateway-tagging-config
rules:
  - {id: everyone, when: {}, required: [cost_center, repo], mode: enforce}
  - {id: production, when: {environments: [production]}, required: [pipeline], mode: audit}
"""
    loaded = snapshot(document)

    found = loaded.missing_tags(facts({"cost_center": "", "repo": "r", "environment": "production"}))

    assert [(f.rule_id, f.missing, f.enforced) for f in found] == [
        ("everyone", ("cost_center",), True),
        ("production", ("pipeline",), False),
    ]


def test_a_cap_can_depend_on_the_plan_of_the_tenant() -> None:
    """`limit_to: {by: tenant.plan}` takes the cap of the caller's plan, and the default for every other."""
    document = """
name: b
type: gateway-budget-config
rules:
  - id: r
    when: {}
    limit_to: {by: tenant.plan, values: {free: 5, pro: 100}, default: 7}
    unit: cost_per_day
    budget_applies_per: [tenant]
"""
    loaded = snapshot(document)

    caps = [loaded.match(facts(tenant="acme", plan=plan))[0].account.cap for plan in ("free", "pro", "gold")]

    assert [*caps, loaded.match(facts())[0].account.cap] == [5 * DOLLAR, 100 * DOLLAR, 7 * DOLLAR, 7 * DOLLAR]


def test_a_concrete_model_matches_what_serves_and_a_virtual_one_what_was_requested() -> None:
    """A request that was swapped to a cheaper model burns the quota of the model that serves."""
    loaded = snapshot(
        """
name: routing
type: gateway-load-balancing-config
rules:
  - id: chat
    type: priority-based-routing
    when: {models: [chat]}
    load_balance_targets: [{target: openai-main/gpt-4o}, {target: openai-main/gpt-4o-mini, priority: 1}]
""",
        """
name: b
type: gateway-budget-config
evaluation: all
rules:
  - {id: virtual, when: {models: [chat]}, limit_to: 1, unit: cost_per_day}
  - {id: large, when: {models: [openai-main/gpt-4o]}, limit_to: 1, unit: cost_per_day}
  - {id: small, when: {models: [openai-main/gpt-4o-mini]}, limit_to: 1, unit: cost_per_day}
""",
    )

    assert list(by_id(loaded.match(facts(requested="chat", target="openai-main/gpt-4o-mini")))) == ["virtual", "small"]
    requested_large = facts(requested="openai-main/gpt-4o", target="openai-main/gpt-4o-mini")
    assert list(by_id(loaded.match(requested_large))) == ["small"]


def test_all_matching_rate_rules_decide_unless_they_audit() -> None:
    """Rate rules are checked independently of each other: any of them may refuse."""
    document = """
name: rates
type: gateway-rate-limiting-config
rules:
  - {id: a, when: {}, limit_to: 10, unit: requests_per_minute, rate_limit_applies_per: [user, metadata.repo]}
  - {id: b, when: {}, limit_to: 1000, unit: tokens_per_day, audit_mode: true}
  - {id: c, when: {}, limit_to: 4, unit: concurrent_requests}
"""

    a, b, c = snapshot(document).match(facts({"repo": "x"}, user="ann"))

    assert (a.account.window, a.account.measure) == (Window(WindowKind.SLIDING, Period.MINUTE), Measure.REQUESTS)
    assert a.account.bucket == (("user", "ann"), ("metadata.repo", "x"))
    assert (c.account.window, c.account.measure) == (Window(WindowKind.OPEN), Measure.CONCURRENT)
    assert [rule.deciding for rule in (a, b, c)] == [True, False, True]


def test_a_tag_value_outside_the_glossary_is_found_with_its_cure() -> None:
    """Listed values and patterns are held; `unknown_value` says whether that refuses or only counts."""
    document = """
name: t
type: gateway-tagging-config
tags:
  cost_center: {unknown_value: refuse, values: [{value: search}, {value: ads}]}
  repo: {pattern: '[a-z]+'}
  free: {description: Anything goes.}
"""
    loaded = snapshot(document)

    found = loaded.invalid_tags(Caller(tags={"cost_center": "serch", "repo": "a-b", "free": "?"}))

    assert [(f.tag, f.enforced) for f in found] == [("cost_center", True), ("repo", False)]
    assert [f.problem for f in found] == [
        "The tag 'cost_center' has the value 'serch', which is not known.",
        "The tag 'repo' has the value 'a-b', which does not look like one.",
    ]
    assert [f.cure for f in found] == ["Did you mean 'search'?", "Write a value that fits [a-z]+"]
    assert loaded.invalid_tags(Caller(tags={"cost_center": "ads", "repo": "", "free": ""})) == ()


V2 = """
name: per-user
type: tenant-budget-config
mode: enforce
limits: {cost_per_day: 10, cost_per_month: 100}
applies_to:
  type: per-user
  overrides:
    - {users: [ann, bob], limits: {cost_per_day: 50}}
    - {users: [bob, eve], limits: {cost_per_week: 5}}
when:
  subjects: {users: {not_in: [root]}}
  provider_accounts: {in: [openai-main]}
  metadata: {environment: {in: [production, staging]}}
---
name: search-lifetime
type: team-budget-config
team_name: search
mode: audit
limits: {cost_per_lifetime: 1000}
applies_to: {type: metadata, metadata: project}
"""


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("zoe", [("day", 10), ("month", 100)]),
        ("ann", [("day", 50)]),
        ("bob", [("day", 50)]),
        ("eve", [("week", 5)]),
        ("root", []),
    ],
)
def test_a_v2_budget_has_a_cap_per_period_and_overrides_per_entity(user: str, expected: list[tuple[str, int]]) -> None:
    """An override replaces all base limits of its entities; of two overrides the first wins; all caps decide."""
    matched = snapshot(V2).match(facts({"environment": "staging"}, user=user))

    assert [(r.account.window.period, r.account.cap) for r in matched] == [(p, c * DOLLAR) for p, c in expected]
    assert all(r.deciding and r.account.bucket == (("user", user),) for r in matched)


@pytest.mark.parametrize(
    ("tags", "target"),
    [({"environment": "dev"}, "openai-main/gpt-4o"), ({}, "openai-main/gpt-4o"), ({"environment": "staging"}, "a/b")],
)
def test_v2_filters_must_all_hold(tags: dict[str, str], target: str) -> None:
    """`in` needs the value to be there, for tags and provider accounts alike."""
    assert snapshot(V2).match(facts(tags, target, user="zoe")) == ()


def test_a_team_budget_is_about_its_team_only() -> None:
    """A team budget in audit mode tracks per tag, and skips requests without the tag: it is a lifetime budget."""
    loaded = snapshot(V2)

    (rule,) = loaded.match(facts({"project": "p"}, team="search"))

    assert (rule.account.rule_id, rule.account.cap, rule.deciding, rule.audit) == (
        "search-lifetime",
        1000 * DOLLAR,
        False,
        True,
    )
    assert rule.account.window == Window(WindowKind.LIFETIME)
    assert loaded.match(facts({"project": "p"}, team="ads")) == ()
    assert loaded.match(facts({}, team="search")) == ()


def test_an_entity_that_gains_an_override_keeps_what_it_spent() -> None:
    """The account of a user is the same with and without an override of the same period: only the cap moves."""
    loaded = snapshot(V2)

    base, override = (
        next(
            r for r in loaded.match(facts({"environment": "staging"}, user=u)) if r.account.window.period is Period.DAY
        )
        for u in ("zoe", "ann")
    )

    assert replace(override.account, cap=base.account.cap, bucket=base.account.bucket) == base.account


def test_a_throttled_rule_carries_the_rate_of_its_bucket() -> None:
    """`throttle` is a rate account of the same rule and bucket, used once the budget is constrained."""
    document = """
name: b
type: gateway-budget-config
rules:
  - id: r
    when: {}
    limit_to: 10
    unit: cost_per_day
    budget_applies_per: [user]
    constrained: {at: 75, action: throttle, limit_to: 6, unit: requests_per_minute}
    on_exhausted: latch
"""

    (rule,) = snapshot(document).match(facts(user="ann"))

    assert rule.on_exhausted is OnExhausted.LATCH
    assert rule.constrained is not None
    assert (rule.constrained.action, rule.constrained.spent_below(rule.account.cap)) == (
        ConstrainAction.THROTTLE,
        7_500_000_000,
    )
    throttle = rule.constrained.throttle
    assert throttle is not None
    assert (throttle.bucket, throttle.cap, throttle.window) == (
        (("user", "ann"),),
        6,
        Window(WindowKind.SLIDING, Period.MINUTE),
    )


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("", (90, ConstrainAction.DOWNGRADE)),
        (", constrained: {at: 80}", (80, ConstrainAction.DOWNGRADE)),
        (", constrained: {action: refuse_premium}", (90, ConstrainAction.REFUSE_PREMIUM)),
        (", constrained: {action: none}", None),
        (", audit_mode: true", (90, ConstrainAction.DOWNGRADE)),
    ],
)
def test_a_rule_is_constrained_at_ninety_percent_unless_it_says_otherwise(
    extra: str, expected: tuple[int, ConstrainAction] | None
) -> None:
    """Downgrading at 90 % is the default; `none` fails fast at the cap; an audit rule tells what it would do."""
    document = (
        f"name: b\ntype: gateway-budget-config\nrules: [{{id: r, when: {{}}, limit_to: 1, unit: cost_per_day{extra}}}]"
    )

    (rule,) = snapshot(document).match(facts())

    found = rule.constrained and (rule.constrained.at_percent, rule.constrained.action)
    assert found == expected


def test_matched_rules_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients choose bucket values: the memory of accounts is bounded, and forgetting changes no answer."""
    monkeypatch.setattr(rules, "MAX_KEPT_ACCOUNTS", 10)
    loaded = snapshot(V1)

    first = [loaded.match(facts(user=f"u{n}")) for n in range(50)]

    assert len(loaded.rules._kept) <= 10
    assert first == [loaded.match(facts(user=f"u{n}")) for n in range(50)]
