"""From a request to what is asked of the ledger: who, which rules, at most how much.

One pure function, `propose`, which admission and `tollgate explain` share. It reads the request, finds the caller, the
target and its price, matches the rules, bounds the tokens, and words the hold.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from ext_proc.dialects import registry
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import Dialect, Endpoint, RequestFacts
from ext_proc.dialects.providers import speaks
from ext_proc.exchange import request_refusals as refused
from ext_proc.exchange.bounds import TokenBounds, bound
from ext_proc.exchange.errors import UnboundedError
from ext_proc.exchange.events import RequestHead
from ext_proc.exchange.terms import Terms
from ext_proc.identity.caller import Caller
from ext_proc.identity.errors import MetadataError
from ext_proc.identity.resolve import resolve_caller
from ext_proc.ledger.interface import HoldRequest, Measure, Plan, Posting, WindowKind
from ext_proc.policy.guardrails import GuardedRequest, GuardrailFinding
from ext_proc.policy.snapshot import (
    InvalidTag,
    MatchedRule,
    MatchFacts,
    OnInsufficient,
    ProviderAccount,
    Snapshot,
    TagFinding,
    Unpriced,
)
from ext_proc.pricing.price import Price, Tier
from ext_proc.pricing.usage import Rates
from ext_proc.refusal import Refusal, RefusalType

FREE: Final = Price(tiers=(Tier(0, Rates()),), version="free")
"""The price of a model that `unpriced: free` lets pass."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a request may finally be sent to, and what that costs."""

    account: ProviderAccount
    model: str
    price: Price
    unpriced: bool = False

    @property
    def name(self) -> str:
        """`account/model`."""
        return f"{self.account.name}/{self.model}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to serve the request: the plan at the same index of the hold asks for it."""

    target: Target
    rules: tuple[MatchedRule, ...]
    bounds: TokenBounds
    sets_limit: bool


@dataclass(frozen=True, slots=True)
class Proposal:
    """A request that may be admitted, if the ledger grants its hold."""

    endpoint: Endpoint
    facts: RequestFacts
    caller: Caller
    candidates: tuple[Candidate, ...]
    hold: HoldRequest
    audited: tuple[str, ...] = ()  # what would have refused it, were it not in audit mode: rule ids, tags

    @property
    def dialect(self) -> Dialect:
        """The dialect the caller speaks."""
        return self.endpoint.dialect


@dataclass(frozen=True, slots=True)
class Unmetered:
    """A request on a path that policy lets pass without metering."""

    account: str
    path: str


def propose(
    head: RequestHead, body: bytes, terms: Terms, hold_id: str, request_id: str
) -> Proposal | Unmetered | Refusal:
    """Judge one request up to the hold. A Refusal is an expected outcome, never an exception."""
    endpoint = registry.resolve(head.method, head.path)
    if endpoint is None:
        return _unmetered(head, terms.snapshot) or refused.unknown_path(head)
    try:
        caller = resolve_caller(head.headers, terms.snapshot)
        facts = endpoint.dialect.read_request(body, path=endpoint.upstream_path)
    except MetadataError as error:
        return refused.invalid(RefusalType.INVALID_METADATA, str(error), error.cure)
    except DialectError as error:
        return refused.invalid(
            RefusalType.INVALID_REQUEST, f"{error.field}: {error.problem}", "Correct the request body and resend it."
        )
    target = _target(facts.model, endpoint.dialect, terms, head.now_us)
    if isinstance(target, Refusal):
        return target
    match = MatchFacts(caller=caller, requested_model=facts.model, target=target.name, headers=head.first)
    findings = terms.snapshot.missing_tags(match)
    if enforced := [finding for finding in findings if finding.enforced]:
        return refused.not_tagged(enforced, terms.snapshot.settings.metadata_header)
    invalid = terms.snapshot.invalid_tags(caller)
    if enforced_tags := [tag for tag in invalid if tag.enforced]:
        return refused.invalid_tags(enforced_tags)
    try:
        candidate = _candidate(target, facts, match, terms)
    except UnboundedError:
        return refused.unbounded()
    breached = terms.snapshot.guard(match, _guarded(body, facts, candidate.bounds))
    if refusals := [finding.refusal for finding in breached if finding.enforced]:
        return refused.with_the_rest(refusals)
    hold = HoldRequest(
        hold_id=hold_id,
        plans=(_plan(candidate),),
        lease_ms=terms.lease_ms,
        context=_context(endpoint.dialect, facts, caller, candidate, request_id),
        series=_series(caller, terms.snapshot.settings.series_tags),
    )
    return Proposal(endpoint, facts, caller, (candidate,), hold, _audited(findings, invalid, breached))


def _audited(
    findings: tuple[TagFinding, ...], invalid: tuple[InvalidTag, ...], breached: tuple[GuardrailFinding, ...]
) -> tuple[str, ...]:
    rules = (*(finding.rule_id for finding in findings), *(finding.rule_id for finding in breached))
    return tuple(dict.fromkeys((*rules, *(f"tag:{tag.tag}" for tag in invalid))))


def _guarded(body: bytes, facts: RequestFacts, bounds: TokenBounds) -> GuardedRequest:
    return GuardedRequest(
        body_bytes=len(body),
        input_tokens=bounds.input_tokens,
        output_tokens=None if facts.output_limit is None else bounds.output_max,
        document=facts.document,
    )


def _candidate(target: Target, facts: RequestFacts, match: MatchFacts, terms: Terms) -> Candidate:
    rules = terms.snapshot.match(match)
    deciding = [rule for rule in rules if rule.deciding]
    strict = any(rule.strict for rule in deciding)
    output_cap = terms.snapshot.output_cap(match)
    unlimited = facts.output_limit is None
    bounds = bound(
        facts,
        strict=strict,
        default_output_tokens=terms.snapshot.settings.default_output_tokens if output_cap is None else output_cap,
        min_output_tokens=_min_output_tokens(deciding),
        context_window=terms.prices.context_window(target.account.provider, target.model),
    )
    # What must not be exceeded is written into a request that names no limit of its own.
    return Candidate(target, rules, bounds, sets_limit=unlimited and (strict or output_cap is not None))


def _min_output_tokens(deciding: list[MatchedRule]) -> int | None:
    """How far the output may be shrunk: only where every budget that decides says clamp; rate limits follow them."""
    budgets = [rule for rule in deciding if rule.account.window.kind in {WindowKind.CALENDAR, WindowKind.LIFETIME}]
    if not budgets or any(rule.on_insufficient is not OnInsufficient.CLAMP for rule in budgets):
        return None
    return max(rule.min_output_tokens for rule in budgets)


def _plan(candidate: Candidate) -> Plan:
    bounds, price = candidate.bounds, candidate.target.price
    postings = tuple(
        Posting(
            account=rule.account,
            deciding=rule.deciding,
            fixed=_fixed(rule.account.measure, bounds, price),
            per_output_milli=_per_output_milli(rule.account.measure, price),
        )
        for rule in candidate.rules
    )
    return Plan(candidate.target.name, postings, bounds.output_min, bounds.output_max)


def _fixed(measure: Measure, bounds: TokenBounds, price: Price) -> int:
    """What a plan asks of an account before any output, in the account's smallest step."""
    match measure:
        case Measure.COST:
            picodollars = bounds.input_tokens * price.dearest_input_rate() + price.dearest_request_rate()
            return -(-picodollars // 1_000)
        case Measure.TOKENS | Measure.INPUT_TOKENS:
            return bounds.input_tokens
        case Measure.OUTPUT_TOKENS:
            return 0
        case Measure.REQUESTS | Measure.CONCURRENT:
            return 1


def _per_output_milli(measure: Measure, price: Price) -> int:
    """What each output token adds, in thousandths of the step: pico-dollars are thousandths of nano-dollars."""
    match measure:
        case Measure.COST:
            return price.dearest_output_rate()
        case Measure.TOKENS | Measure.OUTPUT_TOKENS:
            return 1_000
        case Measure.INPUT_TOKENS | Measure.REQUESTS | Measure.CONCURRENT:
            return 0


def _target(model: str, dialect: Dialect, terms: Terms, now_us: int) -> Target | Refusal:
    """Which account and model serve: `account/model` as written, else the account of the dialect."""
    accounts = terms.accounts
    prefix, slash, bare = model.partition("/")
    if slash and prefix in accounts:
        account, name = accounts[prefix], bare
    elif slash or dialect.default_account not in accounts:
        why = f"no provider account is named '{prefix}'" if slash else "no provider account serves it"
        return refused.unknown_model(model, why, accounts)
    else:
        account, name = accounts[dialect.default_account], model
    if not speaks(account.provider, dialect.name):
        return refused.unknown_model(model, f"account '{account.name}' does not speak {dialect.name}", terms.accounts)
    return _priced(account, name, terms, now_us)


def _priced(account: ProviderAccount, model: str, terms: Terms, now_us: int) -> Target | Refusal:
    price = terms.prices.price(account.provider, model, now_us, account=account.name)
    if price is not None:
        return Target(account, model, price)
    declared = any(entry.name == model for entry in account.models)
    rule = terms.snapshot.settings.unpriced
    if rule is None and not declared:
        return refused.unknown_model(
            f"{account.name}/{model}", "neither the price catalogue nor its account knows it", terms.accounts
        )
    match rule or Unpriced.CEILING:
        case Unpriced.REFUSE:
            return refused.unpriced(f"{account.name}/{model}")
        case Unpriced.CEILING:
            ceiling = terms.prices.ceiling(account.provider, now_us, account=account.name)
            return Target(account, model, ceiling, unpriced=True)
        case Unpriced.FREE:
            return Target(account, model, FREE, unpriced=True)


def _context(dialect: Dialect, facts: RequestFacts, caller: Caller, candidate: Candidate, request_id: str) -> str:
    """The part of the journal entry that is known at admission."""
    identity = {
        "user": caller.user,
        "team": caller.team,
        "virtual_account": caller.virtual_account,
        "tenant": caller.tenant,
        "verified": caller.verified,
    }
    return json.dumps(
        {
            "request_id": request_id,
            "caller": identity,
            "tags": dict(caller.tags),
            "requested_model": facts.model,
            "served_model": candidate.target.name,
            "dialect": dialect.name,
            "operation": dialect.operation,
            "stream": facts.stream,
            "rules": [rule.account.expanded_id for rule in candidate.rules],
            "unpriced": candidate.target.unpriced,
        },
        separators=(",", ":"),
        ensure_ascii=False,
    )


def _series(caller: Caller, names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    values = {**caller.tags}
    if caller.tenant is not None:
        values["tenant"] = caller.tenant
    return tuple((name, values[name]) for name in names if name in values)


def _unmetered(head: RequestHead, snapshot: Snapshot) -> Unmetered | None:
    path = head.path.partition("?")[0]
    if not any(
        path == allowed or path.startswith(allowed.rstrip("/") + "/") for allowed in snapshot.settings.unmetered_paths
    ):
        return None
    account = registry.dialect_for_path(path).default_account
    return Unmetered(account, head.path) if account in snapshot.accounts else None
