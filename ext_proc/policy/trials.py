"""How every rule of a snapshot meets one request: which match, and the first thing that keeps each other one away.

For explanations only. It tries every rule where `RuleSet.match` asks an index; both read the same conditions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ext_proc.policy.condition import Attributes, Clause, Condition
from ext_proc.policy.rules import attributes_of, lacking
from ext_proc.policy.scalars import shown
from ext_proc.policy.snapshot import MatchedRule, MatchFacts, OnMissingKey, Snapshot

_SHOWN_VALUES = 3
_TAGGING = "gateway-tagging-config"
_GUARDRAIL = "gateway-guardrail-config"


@dataclass(frozen=True, slots=True)
class Trial:
    """One rule and one request. It matches where `failed` is None and `lacks` is empty.

    `matched` is what a budget or rate rule then asks; tagging rules and guardrails have no account. `failed` is the
    first clause of `when` that does not hold, `present` what the request has there; `lacks` names the bucket keys
    without which the rule leaves a request alone. `silenced_by` is the rule that decides instead of one that tracks.
    """

    document_type: str
    document: str
    rule: str  # as written
    matched: MatchedRule | None = None
    failed: Clause | None = None
    present: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    silenced_by: str | None = None

    @property
    def matches(self) -> bool:
        """Whether the rule is about the request."""
        return self.failed is None and not self.lacks

    @property
    def why_not(self) -> str:
        """What keeps the rule away, in words; '' for one that matches."""
        if self.lacks:
            return f"the request has no {' and no '.join(self.lacks)}, and the rule skips such requests"
        return "" if self.failed is None else _words(self.failed, self.present)


def trials(snapshot: Snapshot, facts: MatchFacts) -> tuple[Trial, ...]:
    """Every rule: budgets and rate limits in the order in which they are asked, then tagging rules and guardrails."""
    attributes = attributes_of(facts, snapshot.virtual_models)
    found = list(_accounts(snapshot, facts, attributes))
    found += [_trial(_TAGGING, "", rule.id, rule.condition, attributes) for rule in snapshot.tag_rules.rules]
    found += [_trial(_GUARDRAIL, "", rule.id, rule.condition, attributes) for rule in snapshot.guardrails.rules]
    return tuple(found)


def _accounts(snapshot: Snapshot, facts: MatchFacts, attributes: Attributes) -> Iterator[Trial]:
    matched = iter(snapshot.match(facts))
    first: dict[tuple[str, str], str] = {}
    for rule in snapshot.rules.rules:
        trial = _trial(rule.document_type, rule.document_name, rule.id, rule.condition, attributes)
        if trial.matches and rule.on_missing_key is OnMissingKey.SKIP:
            trial = replace(trial, lacks=lacking(rule, facts))
        if trial.matches:
            asked = next(matched)
            before = first.setdefault((rule.document_type, rule.document_name), asked.account.expanded_id)
            tracks_for = before if not asked.deciding and not asked.audit else None
            trial = replace(trial, matched=asked, silenced_by=tracks_for)
        yield trial
    assert next(matched, None) is None, "the index finds what trying every rule finds"


def _trial(document_type: str, document: str, rule: str, condition: Condition, attributes: Attributes) -> Trial:
    failed = next((clause for clause in condition if not clause.holds(attributes)), None)
    present = () if failed is None else attributes.get(failed.attribute, ())
    return Trial(document_type, document, rule, failed=failed, present=present)


def _words(failed: Clause, present: tuple[str, ...]) -> str:
    has = " and ".join(shown(value) for value in present[:_SHOWN_VALUES])
    if failed.negated:
        return f"{failed.attribute} is {has}, which the rule leaves out"
    wanted = sorted(failed.values)
    named = " or ".join(shown(value) for value in wanted[:_SHOWN_VALUES])
    more = f" or {len(wanted) - _SHOWN_VALUES} more" if len(wanted) > _SHOWN_VALUES else ""
    if not present:
        return f"the request has no {failed.attribute}, the rule wants {named}{more}"
    return f"{failed.attribute} is {has}, the rule wants {named}{more}"
