"""From a request to what is asked of the ledger: who, which rules, at most how much.

One pure function, `propose`, which admission and `tollgate explain` share. It reads the request, finds the caller, the
target and its price, matches the rules, bounds the tokens, and words the hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ext_proc.batches.ticket import BatchTicket
from ext_proc.dialects import batch, registry
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import Dialect, Endpoint, RequestFacts
from ext_proc.exchange import request_refusals as refused
from ext_proc.exchange.compact import compact
from ext_proc.exchange.controls import read_controls
from ext_proc.exchange.errors import UnboundedError
from ext_proc.exchange.events import RequestHead
from ext_proc.exchange.leads import Asking, Lead, leads_of, ways_of
from ext_proc.exchange.planning import Candidate, on_store_failure, plan
from ext_proc.exchange.routes import Routed, route
from ext_proc.exchange.saving import NOT_SAVED, Saved, ScoreWanted, save
from ext_proc.exchange.targets import Target
from ext_proc.exchange.terms import Terms
from ext_proc.identity import access
from ext_proc.identity.caller import Caller
from ext_proc.identity.errors import MetadataError
from ext_proc.identity.resolve import resolve_caller
from ext_proc.ledger.interface import HoldRequest
from ext_proc.policy.guardrails import GuardrailFinding
from ext_proc.policy.paths import lies_below
from ext_proc.policy.snapshot import Batch, InvalidTag, MatchFacts, OnStoreFailure, Settings, Snapshot, TagFinding
from ext_proc.refusal import Refusal, RefusalType
from ext_proc.routing.savings import Scored
from ext_proc.routing.selection import draw_of


@dataclass(frozen=True, slots=True)
class Understood:
    """A request that is read: what speaks there, who calls, for which target. Rules have not been asked yet."""

    endpoint: Endpoint
    facts: RequestFacts
    target: Target
    match: MatchFacts
    routed: Routed
    asked: Routed  # how it is routed without a saving rule
    saved: Saved = NOT_SAVED


@dataclass(frozen=True, slots=True)
class Proposal:
    """A request that may be admitted, if the ledger grants its hold."""

    endpoint: Endpoint
    facts: RequestFacts
    caller: Caller
    candidates: tuple[Candidate, ...]
    hold: HoldRequest
    leads: tuple[Lead, ...]
    audited: tuple[str, ...] = ()  # what would have refused it, were it not in audit mode: rule ids, tags
    audited_savings: tuple[str, ...] = ()  # saving rules in audit mode that would have swapped its model
    batch: BatchTicket | None = None  # where it is a batch: what its later calls will know of it

    @property
    def on_store_failure(self) -> OnStoreFailure:
        """What happens when Redis does not answer: the most careful of what the deciding rules say."""
        return on_store_failure(self.candidates[0])

    def lead_of(self, candidate: Candidate) -> Lead:
        """The lead whose plan a candidate is."""
        return self.leads[candidate.lead]

    @property
    def dialect(self) -> Dialect:
        """The dialect the caller speaks."""
        return self.endpoint.dialect


@dataclass(frozen=True, slots=True)
class Unmetered:
    """A request that passes without metering: on a path that policy lets pass, or a call about a batch (`batch`)."""

    account: str
    path: str
    batch: BatchTicket | None = None


def propose(  # noqa: PLR0917  what admission knows, in the order in which it came to know it
    head: RequestHead, body: bytes, terms: Terms, hold_id: str, request_id: str, scored: Scored | None = None
) -> Proposal | Unmetered | Refusal | ScoreWanted:
    """Judge one request up to the hold. A Refusal is an expected outcome, never an exception."""
    understood = understand(head, body, terms, draw_of(hold_id), scored)
    if not isinstance(understood, Understood):
        return understood
    endpoint, facts, match = understood.endpoint, understood.facts, understood.match
    caller = match.caller
    tags = tagged(match, terms.snapshot)
    if isinstance(tags, Refusal):
        return tags
    asking = Asking(endpoint.dialect, endpoint.upstream_path, match, body, terms, head.now_us)
    leads = leads_of(understood.routed, understood.saved.rule, understood.asked, terms.health)
    try:
        leads, ways = ways_of(leads, asking)
    except UnboundedError:
        return refused.unbounded()
    breached = asking.breached(ways[0], facts)
    if refusals := [finding.refusal for finding in breached if finding.enforced]:
        first = refused.with_the_rest(refusals)
        return refused.of_every_target(first, facts.model) if understood.routed.all_barred else first
    hold = HoldRequest(
        hold_id=hold_id,
        plans=tuple(plan(way) for way in ways),
        lease_ms=terms.lease_ms,
        context=context_of(endpoint.dialect, facts, caller, ways[0], request_id),
        series=series_of(caller, terms.snapshot.settings),
        top_by=terms.snapshot.settings.top_consumer_by,
        keep_if_unavailable=on_store_failure(ways[0]) is not OnStoreFailure.REFUSE,
    )
    return Proposal(
        endpoint=endpoint,
        facts=facts,
        caller=caller,
        candidates=ways,
        hold=hold,
        leads=leads,
        audited=audited(tags, breached),
        audited_savings=understood.saved.audited,
    )


@dataclass(frozen=True, slots=True)
class TagFindings:
    """What is amiss with a request's tags that only audits say."""

    missing: tuple[TagFinding, ...]
    invalid: tuple[InvalidTag, ...]


def tagged(match: MatchFacts, snapshot: Snapshot) -> TagFindings | Refusal:
    """Whether the tags are those that policy wants."""
    findings = snapshot.missing_tags(match)
    if enforced := [finding for finding in findings if finding.enforced]:
        return refused.not_tagged(enforced, snapshot.settings.metadata_header)
    invalid = snapshot.invalid_tags(match.caller)
    if enforced_tags := [tag for tag in invalid if tag.enforced]:
        return refused.invalid_tags(enforced_tags)
    return TagFindings(findings, invalid)


def understand(
    head: RequestHead, body: bytes, terms: Terms, draw: int = 0, scored: Scored | None = None
) -> Understood | Unmetered | Refusal | ScoreWanted:
    """Read one request: all that is known of it before any budget is asked. `draw`: what a choice at random goes by.

    `scored`: what came of the scorer that an earlier call wanted asked.
    """
    endpoint = registry.resolve(head.method, head.path)
    caller = caller_of(head, terms)
    if isinstance(caller, Refusal):
        return caller
    if endpoint is None:
        return unmetered(head, caller, terms.snapshot)
    encoding = head.first.get("content-encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        return refused.encoded(encoding)
    try:
        content_type = head.first.get("content-type", "")
        facts = endpoint.dialect.read_request(body, path=endpoint.upstream_path, content_type=content_type)
    except DialectError as error:
        return refused.invalid(
            RefusalType.INVALID_REQUEST, f"{error.field}: {error.problem}", "Correct the request body and resend it."
        )
    controls = read_controls(head)
    if isinstance(controls, Refusal):
        return controls
    route_as = partial(route, facts, endpoint, caller, head, terms, controls=controls, draw=draw)
    asked = route_as()
    if isinstance(asked, Refusal):
        return asked
    match = MatchFacts(caller, facts.model, asked.options[0].target.name, head.first)
    saved = save(match, asked, terms, now_us=head.now_us, scored=scored, route=lambda name: route_as(name=name))
    if isinstance(saved, ScoreWanted):
        return saved
    routed = saved.routed or asked
    first = routed.options[0]
    return Understood(endpoint, first.facts, first.target, match.served_by(first.target.name), routed, asked, saved)


def caller_of(head: RequestHead, terms: Terms) -> Caller | Refusal:
    """Who calls, if they may come in and use this path."""
    endpoint = registry.resolve(head.method, head.path)
    path = head.path if endpoint is None else endpoint.upstream_path
    try:
        caller = resolve_caller(head.headers, terms.snapshot, terms.identities, now_us=head.now_us, claims=head.claims)
    except MetadataError as error:
        return refused.invalid(RefusalType.INVALID_METADATA, str(error), error.cure)
    return caller if isinstance(caller, Refusal) else access.path_refusal(caller, path) or caller


def audited(tags: TagFindings, breached: tuple[GuardrailFinding, ...]) -> tuple[str, ...]:
    """What would have refused a request, were it not in audit mode: rule ids, tags."""
    rules = (*(finding.rule_id for finding in tags.missing), *(finding.rule_id for finding in breached))
    return tuple(dict.fromkeys((*rules, *(f"tag:{tag.tag}" for tag in tags.invalid))))


def context_of(
    dialect: Dialect,
    facts: RequestFacts,
    caller: Caller,
    candidate: Candidate,
    request_id: str,
    *,
    batch_requests: int = 0,
) -> str:
    """The part of the journal entry that is known at admission."""
    identity = {
        "user": caller.user,
        "team": caller.team,
        "virtual_account": caller.virtual_account,
        "tenant": caller.tenant,
        "verified": caller.verified,
        "source": caller.source.value,
        "key": caller.key_id,
    }
    return compact(
        {
            "request_id": request_id,
            "caller": identity,
            "tags": dict(caller.tags),
            **({"overridden_tags": list(caller.overridden)} if caller.overridden else {}),
            "requested_model": facts.model,
            "served_model": candidate.target.name,
            "dialect": dialect.name,
            "operation": dialect.operation,
            "stream": facts.stream,
            "rules": [rule.account.expanded_id for rule in candidate.rules],
            "unpriced": candidate.target.unpriced,
            **({"batch_requests": batch_requests} if batch_requests else {}),
        }
    )


def series_of(caller: Caller, settings: Settings) -> tuple[tuple[str, str], ...]:
    """The tags whose spend is kept: for reports, and for the largest consumer that a refusal names."""
    names = dict.fromkeys((*settings.series_tags, *settings.top_consumer_by))
    values = {**caller.tags}
    if caller.tenant is not None:
        values["tenant"] = caller.tenant
    return tuple((name, values[name]) for name in names if name in values)


def unmetered(head: RequestHead, caller: Caller, snapshot: Snapshot) -> Unmetered | Refusal:
    """What becomes of a path at which no dialect speaks."""
    path, settings = head.path.partition("?")[0], snapshot.settings
    batches_pass = settings.batch is Batch.ALLOW
    if batch.starts_batch(head.method, path) and not batches_pass:
        return refused.batch(head)
    passes = batches_pass and batch.belongs_to_batch(path)
    passes |= lies_below(path, settings.unmetered_paths)
    account = snapshot.accounts.get(registry.dialect_for_path(path).default_account)
    if not passes or account is None:
        return refused.unknown_path(head)
    match = MatchFacts(caller=caller, requested_model="", target=f"{account.name}/", headers=head.first)
    return snapshot.guardrails.unread_refusal(match, account.region, path) or Unmetered(account.name, head.path)
