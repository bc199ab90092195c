"""Plans: the ways a request may be served, in the order they are asked for, and what each asks of the ledger."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ext_proc.dialects.interface import RequestFacts
from ext_proc.exchange.bounds import TokenBounds, bound
from ext_proc.exchange.calibration import PROMPT_BYTES_MIN, traffic_of
from ext_proc.exchange.errors import UnboundedError
from ext_proc.exchange.targets import Target
from ext_proc.exchange.terms import Terms
from ext_proc.ledger.amounts import amount
from ext_proc.ledger.interface import AccountSpec, Measure, Plan, Posting, WindowKind
from ext_proc.policy.snapshot import (
    ConstrainAction,
    MatchedRule,
    MatchFacts,
    OnExhausted,
    OnInsufficient,
    OnStoreFailure,
)
from ext_proc.pricing.usage import NO_USAGE, UNITS, Usage


@dataclass(frozen=True, slots=True)
class BatchSize:
    """What of a batch its sums do not say. Its requests wait in a queue of the provider's: none is in flight here."""

    requests: int
    largest_input_tokens: int  # of one request: which price tiers one can reach


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to serve the request: the plan at the same index of the hold asks for it.

    `constraining` are the rules that send requests on to a later plan once they are constrained. `after`: this plan is
    taken only once that rule has spent `after_spent`: it is constrained, or `exhausted`, and then only keeps count of a
    server of one's own. `throttled`: this plan is the one of callers that a constrained rule slows down.
    """

    target: Target
    rules: tuple[MatchedRule, ...]
    bounds: TokenBounds
    sets_limit: bool  # the bound is written into the request, which names none of its own
    input_kinds: frozenset[str]  # the rates its input can be billed at
    geo: str | None = None  # where it asks to be served
    units: Usage = NO_USAGE  # what it is billed by besides tokens, as far as the request tells
    traffic: str = ""  # which requests' outputs it is one of; "": a limit bounds its output
    constraining: tuple[MatchedRule, ...] = ()
    after: MatchedRule | None = None
    after_spent: int | None = None
    exhausted: bool = False
    gives_way: bool = False  # a swap names a cheaper target for it
    throttled: tuple[MatchedRule, ...] = ()
    lead: int = 0  # which of the request's leads it belongs to
    leaves_at: int | None = None  # taken only while less than so many percent of each deciding budget are spent
    fallbacks: tuple[Candidate, ...] = ()  # what may serve if this target fails: held at the dearest of them
    batch: BatchSize | None = None  # where it is many requests, handed in at once

    @property
    def telling_bytes(self) -> int:
        """The prompt bytes that tell, with the tokens reported for them, how many of them make a token; 0: none do."""
        if self.batch is not None:
            return 0
        bound = self.bounds.input
        return 0 if bound.external_inputs or bound.prompt_bytes < PROMPT_BYTES_MIN else bound.prompt_bytes


def candidates(
    target: Target,
    cheaper: Target | None,
    facts: RequestFacts,
    match: MatchFacts,
    terms: Terms,
    *,
    fallbacks: tuple[Candidate, ...] = (),
) -> tuple[Candidate, ...]:
    """The ways to serve a request, first choice first. `cheaper` is what the target gives way to, `fallbacks` are what
    may serve if it fails.

    Raises UnboundedError where strict admission cannot bound one of them.
    """
    first = candidate(target, facts, match, terms)
    if cheaper is not None:
        first = replace(first, gives_way=True)
    acting = [rule for rule in first.rules if rule.deciding and rule.constrained is not None]
    if cheaper is None and not acting and not fallbacks:
        return (first,)
    by_action = {
        action: tuple(rule for rule in acting if rule.constrained and rule.constrained.action is action)
        for action in ConstrainAction
    }
    downgrading = by_action[ConstrainAction.DOWNGRADE] if cheaper is not None else ()
    premium = by_action[ConstrainAction.REFUSE_PREMIUM] if cheaper is not None else ()
    throttling = by_action[ConstrainAction.THROTTLE]
    constraining = (*downgrading, *premium, *throttling)
    found = [replace(first, constraining=constraining, fallbacks=fallbacks) if constraining or fallbacks else first]
    if fallbacks:
        found.append(replace(found[0], fallbacks=()))  # served, if not by a dearer one should it fail
    others = (*downgrading, *premium)
    found += [
        replace(first, constraining=others, after=rule, after_spent=_threshold(rule), throttled=(rule,))
        for rule in throttling
    ]
    exhausting = _exhausting(first) if cheaper is not None and cheaper.is_own else {}
    if cheaper is not None and (downgrading or exhausting):
        swapped = candidate(cheaper, facts, match.served_by(cheaper.name), terms)
        found += [replace(swapped, after=rule, after_spent=_threshold(rule)) for rule in downgrading]
        found += [replace(swapped, after=r, after_spent=spent, exhausted=True) for r, spent in exhausting.items()]
    return tuple(found)


def _exhausting(first: Candidate) -> dict[MatchedRule, int]:
    """The rules that go on with a server of one's own once they are exhausted, and what is spent by then: so much that
    the first choice does not fit any more.
    """
    rules = {rule.account: rule for rule in first.rules if rule.deciding and rule.on_exhausted is OnExhausted.DOWNGRADE}
    return {
        rules[posting.account]: max(0, posting.account.cap - amount(posting, first.bounds.output_min) + 1)
        for posting in plan(first).postings
        if posting.account in rules
    }


def on_store_failure(candidate: Candidate) -> OnStoreFailure:
    """What the deciding rules want when Redis does not answer: one that refuses prevails, then one with a share."""
    wishes = {rule.on_store_failure for rule in candidate.rules if rule.deciding}
    for wish in (OnStoreFailure.REFUSE, OnStoreFailure.LOCAL):
        if wish in wishes:
            return wish
    return OnStoreFailure.ALLOW


@dataclass(frozen=True, slots=True)
class HeldRates:
    """The dearest way each part of a request can be billed, in pico-dollars: what a hold assumes.

    `request` is what it costs besides its tokens.
    """

    input: int
    output: int
    request: int


def held_rates(candidate: Candidate) -> HeldRates:
    """The rates a candidate is held at."""
    price, input_tokens = candidate.target.price.served_in(candidate.geo), candidate.bounds.input_tokens
    if candidate.batch is not None:
        input_tokens = candidate.batch.largest_input_tokens
    return HeldRates(
        price.dearest_input_rate(input_tokens, candidate.input_kinds),
        price.dearest_output_rate(input_tokens),
        price.dearest_request_rate() + price.units_picodollars(candidate.units),
    )


def plan(candidate: Candidate) -> Plan:
    """What a candidate asks of the ledger.

    With fallbacks it holds what the dearest of them would need: the attempt that follows a failed one takes its hold in
    the step that gives this one back.
    """
    bounds = candidate.bounds
    held = [(way, held_rates(way)) for way in (candidate, *candidate.fallbacks)]

    after = candidate.after

    def posting(
        account: AccountSpec, *, deciding: bool, spent_below: int | None = None, spent_from: int | None = None
    ) -> Posting:
        fixed = max([_fixed(account.measure, way, rates) for way, rates in held])
        per_output_milli = max([_per_output_milli(account.measure, rates) for _, rates in held])
        return Posting(account, deciding, fixed, per_output_milli, spent_below=spent_below, spent_from=spent_from)

    def is_after(rule: MatchedRule) -> bool:
        return after is not None and after.account == rule.account

    postings = [
        posting(
            rule.account,
            deciding=rule.deciding and not (is_after(rule) and candidate.exhausted),
            spent_below=_spent_below(candidate, rule),
            spent_from=candidate.after_spent if is_after(rule) else None,
        )
        for rule in candidate.rules
    ]
    if after is not None and not any(map(is_after, candidate.rules)):
        # The rule does not match the cheaper target: it is asked about and charged nothing.
        postings.append(Posting(after.account, deciding=False, fixed=0, spent_from=candidate.after_spent))
    postings += [
        posting(rule.constrained.throttle, deciding=True)
        for rule in candidate.throttled
        if rule.constrained is not None and rule.constrained.throttle is not None
    ]
    return Plan(candidate.target.name, tuple(postings), bounds.output_min, bounds.output_max)


def _spent_below(candidate: Candidate, rule: MatchedRule) -> int | None:
    """From where on the plan is not taken any more: the rule is constrained, or the target is to be left."""
    limits = [_threshold(rule)] if rule in candidate.constraining else []
    if candidate.leaves_at is not None and rule.deciding and is_budget(rule):
        limits.append(-(-rule.account.cap * candidate.leaves_at // 100))
    return min((limit for limit in limits if limit is not None), default=None)


def is_budget(rule: MatchedRule) -> bool:
    """Whether it is a budget, not a rate limit."""
    return rule.account.window.kind in {WindowKind.CALENDAR, WindowKind.LIFETIME}


def _threshold(rule: MatchedRule) -> int | None:
    """What must be spent for the rule to be constrained."""
    return None if rule.constrained is None else rule.constrained.spent_below(rule.account.cap)


def candidate(target: Target, facts: RequestFacts, match: MatchFacts, terms: Terms) -> Candidate:
    """One way to serve a request, by itself. Raises UnboundedError where strict admission cannot bound it."""
    rules = terms.snapshot.match(match)
    deciding = [rule for rule in rules if rule.deciding]
    strict = any(rule.strict for rule in deciding)
    output_cap = terms.snapshot.output_cap(match)
    if any(_is_unbounded(rule, facts, target) for rule in deciding):
        raise UnboundedError
    default_output_tokens = terms.snapshot.settings.default_output_tokens
    # What must not be exceeded is written into a request that names no limit of its own.
    sets_limit = facts.output_limit is None and (strict or output_cap is not None)
    unlimited = facts.output_limit is None and not sets_limit and facts.choices == 1
    traffic = traffic_of(rule.account.rule_id for rule in rules) if unlimited else ""
    bounds = bound(
        facts,
        strict=strict,
        default_output_tokens=default_output_tokens if output_cap is None else output_cap,
        min_output_tokens=None if facts.estimated else _min_output_tokens(deciding),
        context_window=terms.prices.context_window(target.account.provider, target.model),
        learned=terms.calibration.held(target.name, traffic, default_output_tokens),
    )
    price = target.price.asked_for(facts.service_tier)
    priced = target if price is target.price else replace(target, price=price)
    return Candidate(priced, rules, bounds, sets_limit, facts.input_kinds, facts.geo, facts.units, traffic)


def _is_unbounded(rule: MatchedRule, facts: RequestFacts, target: Target) -> bool:
    """Whether a strict rule counts what is only estimated."""
    if not rule.strict or not facts.estimated:
        return False
    match rule.account.measure:
        case Measure.COST:
            return target.price.bills(facts.estimated)
        case Measure.REQUESTS | Measure.CONCURRENT:
            return False
        case _:
            return not facts.estimated <= UNITS


def _min_output_tokens(deciding: list[MatchedRule]) -> int | None:
    """How far the output may be shrunk: only where every budget that decides says clamp; rate limits follow them."""
    budgets = [rule for rule in deciding if is_budget(rule)]
    if not budgets or any(rule.on_insufficient is not OnInsufficient.CLAMP for rule in budgets):
        return None
    return max(rule.min_output_tokens for rule in budgets)


def _fixed(measure: Measure, way: Candidate, rates: HeldRates) -> int:
    """What a plan asks of an account before any output, in the account's smallest step."""
    input_tokens, requests = way.bounds.input_tokens, 1 if way.batch is None else way.batch.requests
    match measure:
        case Measure.COST:
            picodollars = input_tokens * rates.input + requests * rates.request
            return -(-picodollars // 1_000)
        case Measure.TOKENS | Measure.INPUT_TOKENS:
            return input_tokens
        case Measure.OUTPUT_TOKENS:
            return 0
        case Measure.REQUESTS:
            return requests
        case Measure.CONCURRENT:
            return 1 if way.batch is None else 0


def _per_output_milli(measure: Measure, rates: HeldRates) -> int:
    """What each output token adds, in thousandths of the step: pico-dollars are thousandths of nano-dollars."""
    match measure:
        case Measure.COST:
            return rates.output
        case Measure.TOKENS | Measure.OUTPUT_TOKENS:
            return 1_000
        case Measure.INPUT_TOKENS | Measure.REQUESTS | Measure.CONCURRENT:
            return 0
