"""Compiled rules: which of them a request falls on, and on which accounts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ext_proc.identity.caller import Caller
from ext_proc.ledger.interface import AccountSpec, Measure, Window
from ext_proc.policy.condition import ACCOUNT, METADATA, MODEL, PLAN, SUBJECT, Attributes, Condition
from ext_proc.policy.index import Index
from ext_proc.policy.patterns import Pattern
from ext_proc.policy.scalars import nearest, shown
from ext_proc.policy.terms import (
    Constrained,
    InvalidTag,
    MatchedRule,
    MatchFacts,
    OnExhausted,
    OnInsufficient,
    OnMissingKey,
    OnStoreFailure,
    TagFinding,
)

NONE_SHOWN = "(none)"
"""How a missing bucket key is shown."""

MAX_KEPT_ACCOUNTS = 32_768
"""Matched rules are built once per rule and bucket; past this many the memory starts anew."""

Bucket = tuple[tuple[str, str | None], ...]
"""What a rule applies per, with the values of one request."""

_NO_PLANS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Throttle:
    """The rate of a constrained account."""

    measure: Measure
    window: Window
    cap: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One budget or rate rule, ready to be asked."""

    document_type: str
    document_name: str
    id: str
    fill: Callable[[Mapping[str, str]], str] | None = None  # a templated id → its text
    condition: Condition
    keys: tuple[str, ...]  # what it applies per
    measure: Measure
    window: Window
    cap: int
    caps_by_plan: Mapping[str, int] = field(default_factory=lambda: _NO_PLANS)
    thresholds: tuple[int, ...] = ()
    first_match: bool = False
    audit: bool = False
    on_missing_key: OnMissingKey = OnMissingKey.BUCKET
    on_insufficient: OnInsufficient = OnInsufficient.REFUSE
    min_output_tokens: int = 1
    strict: bool = False
    on_store_failure: OnStoreFailure = OnStoreFailure.REFUSE
    on_exhausted: OnExhausted = OnExhausted.REFUSE
    cuts_streams: bool = False
    constrained: Constrained | None = None
    throttle: Throttle | None = None
    mitigation: str | None = None
    dashboard: str | None = None

    def cap_for(self, plan: str | None) -> int:
        """The cap, which may depend on the tenant's plan."""
        return self.cap if plan is None else self.caps_by_plan.get(plan, self.cap)


def attributes_of(facts: MatchFacts, virtual_models: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """What a request is known by. A concrete model is the one that serves; a virtual one is what was requested."""
    models = (facts.target, facts.requested_model) if facts.requested_model in virtual_models else (facts.target,)
    attributes = attributes_of_caller(facts.caller)
    attributes[MODEL] = models
    attributes[ACCOUNT] = (facts.target.partition("/")[0],)
    return attributes


def attributes_of_caller(caller: Caller) -> dict[str, tuple[str, ...]]:
    """What is known before the model is."""
    kinds = (
        ("user", caller.user),
        ("team", caller.team),
        ("virtualaccount", caller.virtual_account),
        ("tenant", caller.tenant),
    )
    attributes: dict[str, tuple[str, ...]] = {f"{METADATA}{key}": (value,) for key, value in caller.tags.items()}
    attributes[SUBJECT] = tuple(f"{kind}:{name}" for kind, name in kinds if name)
    if caller.plan is not None:
        attributes[PLAN] = (caller.plan,)
    return attributes


class RuleSet:
    """All budget and rate rules of a snapshot, in order."""

    def __init__(self, rules: Sequence[Rule], virtual_models: frozenset[str]) -> None:
        self.rules = tuple(rules)
        self._virtual_models = virtual_models
        self._index = Index([rule.condition for rule in self.rules])
        self._refusing = frozenset(
            index for index, rule in enumerate(self.rules) if rule.on_missing_key is OnMissingKey.REFUSE
        )
        self._cutting: dict[str, list[Rule]] = {}
        for rule in self.rules:
            if rule.cuts_streams and not rule.audit:
                self._cutting.setdefault(rule.id, []).append(rule)
        self._kept: dict[tuple[int, tuple[str | None, ...], int, bool], MatchedRule] = {}

    def match(self, facts: MatchFacts) -> tuple[MatchedRule, ...]:
        """Every rule the request falls on, in document and rule order."""
        matched: list[MatchedRule] = []
        decided: set[tuple[str, str]] = set()
        for index in self._index.matching(attributes_of(facts, self._virtual_models)):
            rule = self.rules[index]
            values = tuple(_read(key, facts) for key in rule.keys)
            if rule.on_missing_key is OnMissingKey.SKIP and None in values:
                continue
            decides = True
            if rule.first_match:
                document = (rule.document_type, rule.document_name)
                decides = document not in decided
                decided.add(document)
            matched.append(self._matched(index, values, rule.cap_for(facts.caller.plan), decides))
        return tuple(matched)

    def missing_keys(self, facts: MatchFacts) -> tuple[TagFinding, ...]:
        """The rules with `on_missing_key: refuse` that lack one."""
        if not self._refusing:
            return ()
        findings: list[TagFinding] = []
        for index in self._index.matching(attributes_of(facts, self._virtual_models)):
            rule = self.rules[index]
            if index in self._refusing:
                missing = tuple(key.removeprefix(METADATA) for key in lacking(rule, facts))
                if missing:
                    findings.append(TagFinding(rule.id, missing, enforced=not rule.audit))
        return tuple(findings)

    def cutting(self, named: Iterable[tuple[str, Bucket]], plan: str | None) -> tuple[AccountSpec, ...]:
        """Of these rules, as written, in these buckets: the accounts that cut streams, with the caps they have now."""
        return tuple(
            _build(rule, tuple(value for _, value in bucket), rule.cap_for(plan), decides=True).account
            for rule_id, bucket in named
            for rule in self._cutting.get(rule_id, ())
            if rule.keys == tuple(key for key, _ in bucket)
        )

    def accounts(self, rule_id: str, bucket: Mapping[str, str | None]) -> tuple[AccountSpec, ...]:
        """The accounts of a rule, named as written or filled in, in one bucket: what no request has to match."""
        found = []
        for rule in self.rules:
            if set(rule.keys) == set(bucket):
                account = _build(rule, tuple(bucket[key] for key in rule.keys), rule.cap, decides=True).account
                if rule_id in {rule.id, account.expanded_id}:
                    found.append(account)
        return tuple(found)

    def _matched(self, index: int, values: tuple[str | None, ...], cap: int, decides: bool) -> MatchedRule:
        key = (index, values, cap, decides)
        made = self._kept.get(key)
        if made is None:
            if len(self._kept) >= MAX_KEPT_ACCOUNTS:
                self._kept.clear()
            made = self._kept[key] = _build(self.rules[index], values, cap, decides=decides)
        return made


def lacking(rule: Rule, facts: MatchFacts) -> tuple[str, ...]:
    """The keys of a rule's bucket that a request lacks."""
    return tuple(key for key in rule.keys if _read(key, facts) is None)


def _build(rule: Rule, values: tuple[str | None, ...], cap: int, *, decides: bool) -> MatchedRule:
    """`decides`: nothing but audit mode would keep the rule from deciding."""
    shown = {key: NONE_SHOWN if value is None else value for key, value in zip(rule.keys, values, strict=True)}
    account = AccountSpec(
        document_type=rule.document_type,
        document_name=rule.document_name,
        rule_id=rule.id,
        expanded_id=rule.id if rule.fill is None else rule.fill(shown),
        bucket=tuple(zip(rule.keys, values, strict=True)),
        measure=rule.measure,
        window=rule.window,
        cap=cap,
        alert_thresholds=rule.thresholds,
        latch=rule.on_exhausted is OnExhausted.LATCH and not rule.audit,
    )
    constrained = rule.constrained
    if constrained is not None and rule.throttle is not None:
        rate = rule.throttle
        throttle = replace(
            account, measure=rate.measure, window=rate.window, cap=rate.cap, alert_thresholds=(), latch=False
        )
        constrained = replace(constrained, throttle=throttle)
    return MatchedRule(
        account=account,
        deciding=decides and not rule.audit,
        audit=rule.audit,
        on_insufficient=rule.on_insufficient,
        min_output_tokens=rule.min_output_tokens,
        strict=rule.strict,
        on_store_failure=rule.on_store_failure,
        mitigation=rule.mitigation,
        dashboard=rule.dashboard,
        on_exhausted=rule.on_exhausted,
        cuts_streams=rule.cuts_streams,
        constrained=constrained,
        would_decide=decides and rule.audit,
        subject=_subject(rule.condition),
    )


def _subject(condition: Condition) -> tuple[str, str] | None:
    """The one tag value or caller that a condition names: `("cost_center", "search")`, `("team", "search")`.

    None where it names several, because then the rule's id says it better.
    """
    named = [
        next(iter(clause.values))
        if clause.attribute == SUBJECT
        else f"{clause.attribute.removeprefix(METADATA)}:{next(iter(clause.values))}"
        for clause in condition
        if len(clause.values) == 1
        and not clause.negated
        and (clause.attribute == SUBJECT or clause.attribute.startswith(METADATA))
    ]
    if len(named) != 1:
        return None
    kind, _, name = named[0].partition(":")
    return kind, name


def _read(key: str, facts: MatchFacts) -> str | None:
    """The value of one bucket key on a request; an empty one is a missing one."""
    caller = facts.caller
    if key.startswith(METADATA):
        return caller.tags.get(key[len(METADATA) :]) or None
    match key:
        case "model":
            return facts.target
        case "user":
            return caller.user or None
        case "team":
            return caller.team or None
        case "virtualaccount":
            return caller.virtual_account or None
        case _:
            assert key == "tenant", f"no bucket key {key!r}"
            return caller.tenant or None


@dataclass(frozen=True, slots=True)
class TagRule:
    """Tags that matching requests must carry."""

    id: str
    condition: Condition
    required: tuple[str, ...]
    enforced: bool


class TagRuleSet:
    """All tagging rules, in order."""

    def __init__(
        self, rules: Sequence[TagRule], virtual_models: frozenset[str], glossary: Sequence[TagValues] = ()
    ) -> None:
        self.rules = tuple(rules)
        self._glossary = tuple(glossary)
        self._virtual_models = virtual_models
        self._index = Index([rule.condition for rule in self.rules])

    def missing(self, facts: MatchFacts) -> tuple[TagFinding, ...]:
        """What matching rules require and the request lacks; an empty value is a missing one."""
        findings: list[TagFinding] = []
        for index in self._index.matching(attributes_of(facts, self._virtual_models)):
            rule = self.rules[index]
            missing = tuple(key for key in rule.required if not facts.caller.tags.get(key))
            if missing:
                findings.append(TagFinding(rule.id, missing, rule.enforced))
        return tuple(findings)

    def invalid(self, tags: Mapping[str, str]) -> tuple[InvalidTag, ...]:
        """The tags of a request whose values the glossary does not allow; empty ones are missing, not invalid."""
        present = ((known, tags.get(known.tag)) for known in self._glossary)
        return tuple(found for known, value in present if value and (found := known.check(value)) is not None)


@dataclass(frozen=True, slots=True)
class TagValues:
    """What the glossary allows as values of one tag. None: anything."""

    tag: str
    values: frozenset[str] | None
    pattern: Pattern | None
    pattern_text: str
    enforced: bool

    def check(self, value: str) -> InvalidTag | None:
        """What is wrong with a value."""
        if self.values is not None and value not in self.values:
            problem = f"The tag '{self.tag}' has the value {shown(value)}, which is not known."
            cure = nearest(value, tuple(sorted(self.values)))
        elif self.pattern is not None and self.pattern.fullmatch(value) is None:
            problem = f"The tag '{self.tag}' has the value {shown(value)}, which does not look like one."
            cure = f"write a value that fits {self.pattern_text}"
        else:
            return None
        return InvalidTag(self.tag, problem, f"{cure[:1].upper()}{cure[1:]}", self.enforced)


@dataclass(frozen=True, slots=True)
class OverrideRule:
    """Tags the gateway sets for matching callers."""

    condition: Condition
    tags: Mapping[str, str]


class OverrideRuleSet:
    """All metadata rules, in order."""

    def __init__(self, rules: Sequence[OverrideRule]) -> None:
        self._rules = tuple(rules)
        self._index = Index([rule.condition for rule in self._rules])

    def tags(self, caller: Caller) -> dict[str, str]:
        """The tags set for a caller; of two rules that set one tag, the later wins."""
        tags: dict[str, str] = {}
        if self._rules:
            attributes: Attributes = attributes_of_caller(caller)
            for index in self._index.matching(attributes):
                tags.update(self._rules[index].tags)
        return tags
