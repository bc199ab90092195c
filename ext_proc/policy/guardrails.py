"""Guardrails: what a single request may be, whatever the budget says. Pure decisions that end in refusals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus

from ext_proc.policy.condition import Condition
from ext_proc.policy.index import Index
from ext_proc.policy.paths import lies_below
from ext_proc.policy.patterns import Pattern
from ext_proc.policy.rules import attributes_of
from ext_proc.policy.terms import MatchFacts
from ext_proc.refusal import Refusal, RefusalType


@dataclass(frozen=True, slots=True)
class GuardedRequest:
    """What guardrails look at. `document` is the parsed body; every text in it is searched for denied patterns."""

    body_bytes: int
    input_tokens: int  # as estimated
    output_tokens: int | None  # what the request may write at most, choices included; None without a limit
    document: Mapping[str, object]
    region: str | None = None  # where it would be served
    path: str = ""  # what is asked for, without a query


@dataclass(frozen=True, slots=True)
class GuardrailRule:
    """One compiled guardrail."""

    id: str
    condition: Condition
    audit: bool
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    max_body_bytes: int | None = None
    denied_patterns: tuple[tuple[str, Pattern], ...] = ()  # (name, pattern)
    allow_models: frozenset[str] | None = None
    deny_models: frozenset[str] = frozenset()
    allow_paths: tuple[str, ...] | None = None
    deny_paths: tuple[str, ...] = ()
    allowed_regions: tuple[str, ...] | None = None
    mitigation: str | None = None


@dataclass(frozen=True, slots=True)
class GuardrailFinding:
    """One guardrail that a request breaks. `enforced` False: counted and warned about only."""

    rule_id: str
    refusal: Refusal
    enforced: bool


class GuardrailSet:
    """All guardrails of a snapshot, in order."""

    def __init__(self, rules: Sequence[GuardrailRule], virtual_models: frozenset[str]) -> None:
        self.rules = tuple(rules)
        self._virtual_models = virtual_models
        self._index = Index([rule.condition for rule in self.rules])

    def check(self, facts: MatchFacts, request: GuardedRequest) -> tuple[GuardrailFinding, ...]:
        """Every guardrail the request breaks, in rule order; of one rule the first thing that is wrong."""
        findings: list[GuardrailFinding] = []
        for rule in self._matching(facts):
            refusal = next(_breaches(rule, facts, request), None)
            if refusal is not None:
                findings.append(GuardrailFinding(rule.id, refusal, enforced=not rule.audit))
        return tuple(findings)

    def target_refusal(self, facts: MatchFacts, region: str | None) -> Refusal | None:
        """Why the target of these facts may not serve; None where it may. Rules in audit mode keep nobody out."""
        rules = (rule for rule in self._matching(facts) if not rule.audit)
        return next((found for rule in rules for found in _target(rule, facts, region)), None)

    def unread_refusal(self, facts: MatchFacts, region: str | None, path: str) -> Refusal | None:
        """The same by path and region alone, for requests whose model nobody reads."""
        rules = (rule for rule in self._matching(facts) if not rule.audit)
        return next((found for rule in rules for found in (*_path(rule, path), *_region(rule, facts, region))), None)

    def output_cap(self, facts: MatchFacts) -> int | None:
        """The most output tokens any request of these facts may ask for: the limit to inject where it names none."""
        caps = [r.max_output_tokens for r in self._matching(facts) if r.max_output_tokens is not None and not r.audit]
        return min(caps, default=None)

    def _matching(self, facts: MatchFacts) -> list[GuardrailRule]:
        if not self.rules:
            return []
        return [self.rules[index] for index in self._index.matching(attributes_of(facts, self._virtual_models))]


def _breaches(rule: GuardrailRule, facts: MatchFacts, request: GuardedRequest) -> Iterator[Refusal]:
    """What is wrong with a request, the cheapest look first."""
    yield from _path(rule, request.path)
    yield from _target(rule, facts, request.region)
    if rule.max_body_bytes is not None and request.body_bytes > rule.max_body_bytes:
        yield _refusal(
            rule,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The request body of {request.body_bytes:,} bytes is larger than the {rule.max_body_bytes:,} allowed",
            "Send a smaller body: shorten the prompt, or attach files by reference.",
        )
    if rule.max_input_tokens is not None and request.input_tokens > rule.max_input_tokens:
        yield _refusal(
            rule,
            HTTPStatus.BAD_REQUEST,
            f"The input of about {request.input_tokens:,} tokens is larger than the {rule.max_input_tokens:,} allowed",
            "Shorten the prompt, or split the work into several requests.",
        )
    asked = request.output_tokens
    if rule.max_output_tokens is not None and asked is not None and asked > rule.max_output_tokens:
        yield _refusal(
            rule,
            HTTPStatus.BAD_REQUEST,
            f"The output limit of {asked:,} tokens is larger than the {rule.max_output_tokens:,} allowed",
            f"Ask for at most {rule.max_output_tokens:,} output tokens, all choices together.",
        )
    for name, pattern in rule.denied_patterns:
        if any(pattern.search(text) is not None for text in texts(request.document)):
            # The text itself is not repeated: it may be the secret the pattern is there to keep.
            yield _refusal(
                rule,
                HTTPStatus.BAD_REQUEST,
                f"The request holds something that is denied here: {name}",
                f"Remove the {name} from the request.",
            )


def _model(rule: GuardrailRule, facts: MatchFacts) -> Iterator[Refusal]:
    names = {facts.target, facts.requested_model}
    denied = bool(names & rule.deny_models)
    if rule.allow_models is not None and not names & rule.allow_models:
        denied = True
    if denied:
        allowed = ", ".join(sorted(rule.allow_models - rule.deny_models)) if rule.allow_models else ""
        cure = f"Use one of: {allowed}." if allowed else "Use another model."
        yield _refusal(
            rule,
            HTTPStatus.FORBIDDEN,
            f"Model '{facts.target}' is not allowed for this caller",
            cure,
            RefusalType.NOT_ALLOWED,
        )


def _path(rule: GuardrailRule, path: str) -> Iterator[Refusal]:
    allowed = rule.allow_paths
    if (allowed is None or lies_below(path, allowed)) and not lies_below(path, rule.deny_paths):
        return
    cure = f"Use one of: {', '.join(allowed)}." if allowed else "Use another API."
    refusal = _refusal(
        rule, HTTPStatus.FORBIDDEN, f"{path} is not allowed for this caller", cure, RefusalType.NOT_ALLOWED
    )
    yield replace(refusal, context={**refusal.context, "path": path})


def _target(rule: GuardrailRule, facts: MatchFacts, region: str | None) -> Iterator[Refusal]:
    """What keeps the target from serving, whatever the request holds."""
    yield from _model(rule, facts)
    yield from _region(rule, facts, region)


def _region(rule: GuardrailRule, facts: MatchFacts, region: str | None) -> Iterator[Refusal]:
    allowed = rule.allowed_regions
    if allowed is None or (region is not None and is_in(region, allowed)):
        return
    named = " or ".join(allowed)
    served = "names no region" if region is None else f"serves in {region}"
    refusal = _refusal(
        rule,
        HTTPStatus.FORBIDDEN,
        f"The request may be served in {named} only, and '{facts.target}' {served}",
        f"Use a model that is served in {named}.",
        RefusalType.NOT_ALLOWED,
    )
    told = {"allowed_regions": list(allowed), "target": facts.target, "region": region}
    yield replace(refusal, context={**refusal.context, **told})


def is_in(region: str, allowed: Sequence[str]) -> bool:
    """Whether a region is one of these, or lies in one: `eu-central-1` lies in `eu` and in `eu-central`."""
    return any(region == name or region.startswith(f"{name}-") for name in allowed)


def _refusal(
    rule: GuardrailRule,
    status: HTTPStatus,
    problem: str,
    cure: str,
    refusal_type: RefusalType = RefusalType.GUARDRAIL,
) -> Refusal:
    return Refusal(
        type=refusal_type,
        status=status,
        message=f"{problem} (guardrail '{rule.id}').",
        mitigation=rule.mitigation or cure,
        context={"rule": rule.id},
        should_retry=False,
    )


def texts(document: object) -> Iterator[str]:
    """Every text value in a JSON document, without recursion."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
