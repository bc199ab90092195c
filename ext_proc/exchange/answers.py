"""What admission tells Envoy and the caller: the forwarded request with its ticket, or the refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus

from ext_proc.dialects import error_body
from ext_proc.dialects.interface import Dialect
from ext_proc.exchange.chain import Attempts, Chain
from ext_proc.exchange.content import NO_WISH, Wish
from ext_proc.exchange.cutting import cut_of
from ext_proc.exchange.effects import Forward, Refuse
from ext_proc.exchange.events import RequestHead
from ext_proc.exchange.ledger_refusals import Asked
from ext_proc.exchange.native import may_be_native
from ext_proc.exchange.planning import Candidate
from ext_proc.exchange.proposal import Proposal
from ext_proc.exchange.sending import outgoing
from ext_proc.exchange.ticket import Ticket
from ext_proc.identity.claims import CERTIFICATE_HEADER
from ext_proc.identity.keys import holds_key
from ext_proc.identity.presented import CREDENTIAL_HEADERS, SIGNATURE_HEADERS, presented
from ext_proc.ledger.interface import AccountState, HoldReply, Measure, WindowKind
from ext_proc.policy.snapshot import ConstrainAction, ErrorFormat, MatchedRule, Settings
from ext_proc.refusal import Refusal
from ext_proc.routing.virtual_models import Member

CLIENT_CREDENTIALS = (*CREDENTIAL_HEADERS, *SIGNATURE_HEADERS, CERTIFICATE_HEADER, "proxy-authorization", "cookie")
"""Headers that may carry a client's credential: they never reach a provider, unless its account is used with them."""

_ASCII_JSON = json.JSONEncoder(separators=(",", ":"))

RECOGNISED_TFY_HEADERS = frozenset(
    {
        "x-tfy-metadata",
        "x-tfy-provider-name",
        "x-tfy-strict-openai",
        "x-tfy-retry-config",
        "x-tfy-request-timeout",
        "x-tfy-ttft-timeout-ms",
        "x-tfy-logging-config",
        "x-tfy-mcp-headers",
    }
)
"""The `x-tfy-*` request headers that mean something; any other is ignored, counted and named in the answer."""


def ignored_headers(head: RequestHead, metadata_header: str) -> tuple[str, ...]:
    """The `x-tfy-*` headers that mean nothing to us: identity that is silently ignored is how attribution is lost."""
    names = {name for name, _ in head.headers if name.startswith("x-tfy-")}
    return tuple(sorted(names - RECOGNISED_TFY_HEADERS - {metadata_header}))


def headers_to_remove(head: RequestHead, metadata_header: str, *, client_credential: bool = False) -> tuple[str, ...]:
    """What must not reach a provider: credentials, our own headers, and encodings that only we would have to undo.

    `client_credential`: the account is used with the client's own provider key, which stays where the client put it.
    A virtual key is removed from whatever header a client has put it in.
    """
    names = {name for name, _ in head.headers}
    misplaced = {name for name, value in head.headers if holds_key(value)}
    if client_credential:
        names -= set(presented(head.headers).others)
    return tuple(
        sorted(
            name
            for name in names
            if name in CLIENT_CREDENTIALS
            or name.startswith("x-tfy-")
            or name in {metadata_header, "accept-encoding"}
            or name in misplaced
        )
    )


def forward(
    proposal: Proposal,
    reply: HoldReply,
    head: RequestHead,
    settings: Settings,
    request_id: str,
    *,
    native: bool,
    wish: Wish = NO_WISH,
) -> Forward:
    """The answer to a granted hold: rewrite what the granted plan asks for, and hand out the ticket.

    `native`: Envoy's own parsers are there to read the usage. They hide nothing from the client, keep a whole answer in
    memory, do not know which attempt they read, and are heard of late, so they are given only what they can take.
    `wish`: to be logged; an answer that is passes meter.
    """
    candidate = proposal.candidates[reply.plan_index]
    lead = proposal.lead_of(candidate)
    facts, leader = lead.option.facts, lead.option.target
    granted_limit = reply.output_limit // facts.choices
    clamped = reply.output_limit < candidate.bounds.output_max
    inject = clamped or candidate.sets_limit
    asks_usage = facts.stream and not facts.wants_usage
    downgraded = candidate.target.name != leader.name
    swapper = candidate.after.account if downgraded and candidate.after is not None else None
    rule = swapper.expanded_id if swapper is not None else lead.saving
    verdict = "downgrade" if downgraded or lead.saving else "clamp" if clamped else "pass"
    limit = granted_limit if inject else None
    cut = cut_of(candidate.rules, proposal.dialect, facts, proposal.caller.plan)
    removed = headers_to_remove(
        head, settings.metadata_header, client_credential=candidate.target.account.client_credential
    )
    chain = _chain(proposal, candidate, reply, removed=removed, output_limit=limit, request_id=request_id)
    ticket = Ticket(
        hold_id=proposal.hold.hold_id,
        dialect=proposal.dialect.name,
        operation=proposal.dialect.operation,
        requested_model=facts.model,
        target=candidate.target.name,
        price=candidate.target.price,
        input_tokens=candidate.bounds.input_tokens,
        output_limit=reply.output_limit,
        verdict=verdict,
        verdict_rule=rule,
        stream=facts.stream,
        hide_usage=asks_usage,
        labels=metric_labels(proposal, settings),
        would_refuse=would_refuse(proposal, reply),
        would_downgrade=would_downgrade(proposal, reply),
        native=native
        and chain is None
        and cut is None
        and not asks_usage
        and not wish.granted
        and may_be_native(proposal, reply),
        cut=cut,
        store_failed=reply.stamp is None,
        realms=reply.realms,
        learned_input=candidate.bounds.input.learned,
        learned_output=candidate.bounds.output_learned,
        prompt_bytes=candidate.telling_bytes,
        traffic="" if inject else candidate.traffic,
        units=candidate.units,
        logged_as=request_id if wish.granted else "",
    )
    member = lead.option.member if not downgraded else None
    sent = outgoing(
        proposal.dialect,
        proposal.endpoint.upstream_path,
        facts,
        candidate.target,
        limit,
        overridden=_overridden(member),
    )
    return Forward(
        ticket=ticket,
        account=candidate.target.account.name,
        path=sent.path,
        body=sent.body,
        remove_headers=(*removed, *(member.remove_headers if member else ())),
        set_headers=tuple(member.set_headers.items()) if member else (),
        limits=lead.routed.limits((candidate.target.name,)) if chain is None else chain[0].limits,
        chain=None if chain is None else chain[1],
        cluster=None if chain is None else chain[0].cluster,
        swapped_by=swapper.rule_id if swapper is not None else lead.saving,
        batch=None if proposal.batch is None else replace(proposal.batch, ticket=ticket).encode(),
        answer=_answer(candidate, reply, ticket, request_id)
        | ({"output_limit": str(granted_limit)} if inject else {})
        | ({"content_log": wish.told} if wish.told else {})
        | _ignored(ignored_headers(head, settings.metadata_header)),
    )


def _chain(
    proposal: Proposal,
    candidate: Candidate,
    reply: HoldReply,
    *,
    removed: tuple[str, ...],
    output_limit: int | None,
    request_id: str,
) -> tuple[Attempts, Chain] | None:
    """The attempts that may be made, and what try must know of them. None: there is one, and admit has prepared it.

    Without Redis there is one: the next would have to be held.
    """
    lead = proposal.lead_of(candidate)
    attempts, rule = lead.chain, lead.routed.rule
    is_leader = candidate.target.name == lead.option.target.name and not candidate.throttled
    if attempts is None or rule is None or reply.stamp is None or not is_leader:
        return None
    retries_only = all(target == candidate.target.name for target in attempts.targets)
    if not candidate.fallbacks and not retries_only:
        return None
    chain = Chain(
        rule=rule.id,
        targets=attempts.targets,
        caller=proposal.caller,
        requested_model=proposal.facts.model,
        path=proposal.endpoint.upstream_path,
        request_id=request_id,
        removed=removed,
        output_limit=output_limit,
        first_byte_ms=attempts.limits.first_byte_ms,
        context=proposal.hold.context,
        series=proposal.hold.series,
    )
    return attempts, chain


def _overridden(member: Member | None) -> bool:
    return member is not None and bool(member.override_params)


def refuse(refusal: Refusal, dialect: Dialect, settings: Settings, request_id: str) -> Refuse:
    """The refusal in the caller's dialect (or flat), with the headers that the SDKs obey."""
    body = error_body.flat(refusal) if settings.error_format is ErrorFormat.FLAT else dialect.error_body(refusal)
    headers = {
        "content-type": "application/json",
        "x-tollgate-verdict": f"refuse; type={refusal.type}" + (f"; rule={refusal.rule}" if refusal.rule else ""),
        "x-tollgate-request-id": request_id,
    }
    if refusal.retry_after_seconds is not None:
        headers["retry-after"] = str(refusal.retry_after_seconds)
    if refusal.status is HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if refusal.should_retry is not None:
        headers["x-should-retry"] = "true" if refusal.should_retry else "false"
    return Refuse(refusal, body, headers)


def asked(proposal: Proposal, reply: HoldReply) -> Asked:
    """What the refused proposal asked for in the plan that was tried last, for the words of the refusal."""
    candidate, plan = proposal.candidates[reply.plan_index], proposal.hold.plans[reply.plan_index]
    throttles = {
        rule.constrained.throttle: rule
        for rule in candidate.throttled
        if rule.constrained is not None and rule.constrained.throttle is not None
    }
    return Asked(
        output_max=candidate.bounds.output_max,
        output_milli={posting.account: posting.per_output_milli for posting in plan.postings},
        rules={rule.account: rule for rule in candidate.rules} | throttles,
        tags=proposal.caller.tags,
    )


def would_refuse(proposal: Proposal, reply: HoldReply) -> tuple[str, ...]:
    """The rules in audit mode that would have refused this request: tags, guardrails, accounts past their cap, and
    constrained ones that would not have let a premium model through.
    """
    past_cap = (
        state.account.rule_id
        for rule, state in _audited(proposal, reply)
        if state.spent + state.held > state.account.cap
        or _is_constrained(proposal, reply, rule, state, ConstrainAction.REFUSE_PREMIUM)
    )
    return tuple(dict.fromkeys((*proposal.audited, *past_cap)))


def would_downgrade(proposal: Proposal, reply: HoldReply) -> tuple[str, ...]:
    """The rules in audit mode that would have sent this request to a cheaper model: saving rules, and budgets that are
    constrained.
    """
    constrained = (
        state.account.rule_id
        for rule, state in _audited(proposal, reply)
        if _is_constrained(proposal, reply, rule, state, ConstrainAction.DOWNGRADE)
    )
    return tuple(dict.fromkeys((*proposal.audited_savings, *constrained)))


def _audited(proposal: Proposal, reply: HoldReply) -> Iterator[tuple[MatchedRule, AccountState]]:
    """The rules that nothing but audit mode keeps from deciding, and their accounts with this request's hold."""
    rules = {rule.account: rule for rule in proposal.candidates[reply.plan_index].rules if rule.would_decide}
    return ((rules[state.account], state) for state in reply.states if state.account in rules)


def _is_constrained(
    proposal: Proposal, reply: HoldReply, rule: MatchedRule, state: AccountState, action: ConstrainAction
) -> bool:
    constrained = rule.constrained
    if constrained is None or constrained.action is not action or not proposal.candidates[reply.plan_index].gives_way:
        return False
    return state.spent >= constrained.spent_below(state.account.cap)


def metric_labels(proposal: Proposal, settings: Settings) -> tuple[str, ...]:
    """User, tenant and the configured metadata keys, in the order the metrics expect."""
    caller = proposal.caller
    user = (caller.user or caller.virtual_account or "") if settings.user_label else ""
    return (user, caller.tenant or "", *(caller.tags.get(key, "") for key in settings.metric_labels))


def _verdict(ticket: Ticket) -> str:
    refusing = (f"would_refuse={rule}" for rule in ticket.would_refuse)
    downgrading = (f"would_downgrade={rule}" for rule in ticket.would_downgrade)
    decided_by = (f"rule={ticket.verdict_rule}",) if ticket.verdict_rule else ()
    return "; ".join((ticket.verdict, *decided_by, *refusing, *downgrading))


def _answer(candidate: Candidate, reply: HoldReply, ticket: Ticket, request_id: str) -> dict[str, str]:
    rules = {
        "matched": [rule.account.expanded_id for rule in candidate.rules],
        "deciding": [rule.account.expanded_id for rule in candidate.rules if rule.deciding],
    }
    return {
        "resolved_model": ticket.target,
        "verdict": _verdict(ticket),
        "request_id": request_id,
        "applied_rules": _ASCII_JSON.encode(rules),  # it becomes a header value
        **_remaining(reply.states, Measure.REQUESTS, "requests", reply),
        **_remaining(reply.states, Measure.TOKENS, "tokens", reply),
    }


def _ignored(names: tuple[str, ...]) -> dict[str, str]:
    return {"ignored_headers": ", ".join(names)} if names else {}


def _remaining(states: tuple[AccountState, ...], measure: Measure, noun: str, reply: HoldReply) -> dict[str, str]:
    """`x-ratelimit-*` of the tightest deciding rate limit of this measure, as OpenAI writes them."""
    limits = [
        state
        for state in states
        if state.deciding and state.account.measure is measure and state.account.window.kind is WindowKind.SLIDING
    ]
    if not limits or reply.stamp is None:
        return {}
    tightest = min(limits, key=lambda state: state.account.cap - state.spent - state.held)
    remaining = max(0, tightest.account.cap - tightest.spent - tightest.held)
    reset_us = max(0, (tightest.window_end_us or reply.stamp.redis_us) - reply.stamp.redis_us)
    return {
        f"ratelimit_limit_{noun}": str(tightest.account.cap),
        f"ratelimit_remaining_{noun}": str(remaining),
        f"ratelimit_reset_{noun}": _go_duration(reset_us // 1_000),
    }


def _go_duration(milliseconds: int) -> str:
    """`6m0s`, `1.5s`, `20ms`: how OpenAI writes the time to a reset."""
    whole_seconds, rest_ms = divmod(milliseconds, 1_000)
    if not whole_seconds:
        return f"{rest_ms}ms"
    minutes, whole_seconds = divmod(whole_seconds, 60)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{whole_seconds}.{rest_ms:03d}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds
