"""The attempts of one request, as try makes them: the first as it was admitted, each later one with a hold of its own.

What a later attempt is judged by is what the request began with (caller, names, path), which travels in the chain; its
target, price and rules are those now in force. It resolves the attempt before it and takes its hold in one step. A
caller whose budget does not carry it gets the failure of the attempt that was made, and is told why none followed:
the provider's failure is what happened, and a client may retry it, which a refusal would forbid.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from ext_proc.dialects import registry
from ext_proc.dialects.interface import Endpoint, RequestFacts
from ext_proc.exchange import answers
from ext_proc.exchange.chain import Chain
from ext_proc.exchange.charging import by_failure
from ext_proc.exchange.compact import compact
from ext_proc.exchange.controls import Controls
from ext_proc.exchange.cutting import cut_of
from ext_proc.exchange.effects import AskHold, Refuse
from ext_proc.exchange.errors import UnboundedError
from ext_proc.exchange.leads import Lead
from ext_proc.exchange.ledger_refusals import ledger_refusal, store_refusal
from ext_proc.exchange.planning import Candidate, candidate, on_store_failure, plan
from ext_proc.exchange.proposal import Proposal
from ext_proc.exchange.routes import Option, Routed, facts_for
from ext_proc.exchange.sending import Outgoing, outgoing
from ext_proc.exchange.targets import Target, resolve_target
from ext_proc.exchange.terms import Terms
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger.ids import minted_us, of_attempt
from ext_proc.ledger.interface import GRANTED, MAY_BE_HELD, Basis, Charge, Code, HoldReply, HoldRequest, Resolution
from ext_proc.policy.snapshot import MatchFacts, OnStoreFailure
from ext_proc.refusal import Refusal, RefusalType
from ext_proc.routing.virtual_models import Member

TIMED_OUT_PERMILLE: Final = 900
"""An attempt that ended without an answer after this share of its time limit has used it up. The worker that tells how
long it ran need not be the one that began it, and on a busy machine each knows the time only so well: a reset in the
last tenth is rather estimated than a limit that struck taken for a reset, which charges nothing."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt about to be made. `ticket` is that of the attempt before it; of the first, its own.

    `tried_status` is what the attempt before was answered with, 0 where no answer came.
    """

    number: int
    chain: Chain
    ticket: Ticket
    tried_status: int
    body: bytes
    now_us: int
    set_before: tuple[str, ...] = ()  # headers that rules have set for the attempts before

    @property
    def target(self) -> str:
        """What this attempt is sent to."""
        return self.chain.targets[self.number - 1]

    @property
    def timed_out(self) -> bool:
        """Whether the attempt before used up its time: then nobody knows what the provider has done for it."""
        limit_ms, waited_us = self.chain.first_byte_ms, self.now_us - self.began_us
        return not self.tried_status and limit_ms is not None and waited_us >= limit_ms * TIMED_OUT_PERMILLE

    @property
    def began_us(self) -> int:
        """When the attempt before began."""
        return minted_us(self.ticket.hold_id) + self.ticket.began_ms * 1_000


@dataclass(frozen=True, slots=True)
class Send:
    """Send the attempt so. `ticket` None: the one it was admitted with is right."""

    account: str
    path: str
    body: bytes
    set_headers: tuple[tuple[str, str], ...]
    remove_headers: tuple[str, ...]
    ticket: Ticket | None
    answer: dict[str, str]
    go_on: tuple[int, ...] = ()  # the statuses after which the next attempt is made


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Answer the client with the failure. `resolution` is what the ledger is still to be told."""

    refuse: Refuse
    resolution: Resolution | None


@dataclass(frozen=True, slots=True)
class Held:
    """A later attempt that asks for its hold."""

    attempt: Attempt
    terms: Terms
    proposal: Proposal
    member: Member | None

    @property
    def ask(self) -> AskHold:
        """The hold it asks for."""
        return AskHold(self.proposal.hold, on_store_failure(self.proposal.candidates[0]))

    def abandoned(self, reply: HoldReply) -> Resolution | None:
        """What to tell the ledger where nobody waits for the attempt any more: it was never sent."""
        if reply.code not in MAY_BE_HELD:
            return None
        return Resolution(self.proposal.hold.hold_id, Charge(), Basis.RELEASED, realms=reply.realms)

    def answered(self, reply: HoldReply) -> Send | GiveUp:
        """What follows from the ledger's answer."""
        settings = self.terms.snapshot.settings
        if reply.code in GRANTED:
            return self._send(reply)
        if reply.code is not Code.REFUSED:
            return _give_up(self.attempt, self.terms, store_refusal(), self.abandoned(reply))
        asked = answers.asked(self.proposal, reply)
        now_us = reply.stamp.redis_us if reply.stamp else self.attempt.now_us
        return _give_up(self.attempt, self.terms, ledger_refusal(reply, asked, settings, now_us), None)

    def _send(self, reply: HoldReply) -> Send:
        before, facts, candidate = self.attempt.ticket, self.proposal.facts, self.proposal.candidates[0]
        target = candidate.target
        granted = reply.output_limit // facts.choices
        inject = reply.output_limit < candidate.bounds.output_max or candidate.sets_limit
        ticket = replace(
            before,
            hold_id=self.proposal.hold.hold_id,
            target=target.name,
            price=target.price,
            input_tokens=candidate.bounds.input_tokens,
            output_limit=reply.output_limit,
            began_ms=(self.attempt.now_us - minted_us(before.hold_id)) // 1_000,
            cut=cut_of(candidate.rules, self.proposal.dialect, facts, self.proposal.caller.plan),
            store_failed=reply.stamp is None,
            realms=reply.realms,
            learned_input=candidate.bounds.input.learned,
            learned_output=candidate.bounds.output_learned,
            prompt_bytes=candidate.telling_bytes,
            traffic="" if inject else candidate.traffic,
            units=candidate.units,
        )
        sent = outgoing(
            self.proposal.dialect,
            self.attempt.chain.path,
            facts,
            target,
            granted if inject else None,
            overridden=self.member is not None and bool(self.member.override_params),
        )
        answer = {"resolved_model": target.name, "attempts": str(self.attempt.number)}
        if inject:
            answer["output_limit"] = str(granted)
        return _sent(self.attempt, target, self.member, sent=sent, ticket=ticket, answer=answer)


def first(attempt: Attempt, terms: Terms) -> Send | GiveUp:
    """The first attempt, as it was admitted."""
    found = _read(attempt, terms)
    if isinstance(found, Refusal):
        return _give_up(attempt, terms, found, by_failure(attempt.ticket, 0, attempt.now_us, sent=False))
    endpoint, facts, target, member = found
    overridden = member is not None and bool(member.override_params)
    chain = attempt.chain
    sent = outgoing(endpoint.dialect, chain.path, facts, target, chain.output_limit, overridden=overridden)
    return _sent(attempt, target, member, sent=sent, ticket=None, answer={"attempts": "1"})


def ask(attempt: Attempt, terms: Terms) -> Held | GiveUp:
    """A later attempt: what it asks of the ledger."""
    resolution = by_failure(
        attempt.ticket,
        attempt.tried_status,
        attempt.now_us,
        sent=True,
        timed_out=attempt.timed_out,
        learned=terms.calibration.of(attempt.ticket.target),
    )
    found = _read(attempt, terms)
    if isinstance(found, Refusal):
        return _give_up(attempt, terms, found, resolution)
    endpoint, facts, target, member = found
    chain = attempt.chain
    match = MatchFacts(caller=chain.caller, requested_model=chain.requested_model, target=target.name)
    if barred := terms.snapshot.target_refusal(match, facts.geo or target.region):
        return _give_up(attempt, terms, barred, resolution)
    try:
        way = candidate(target, facts, match, terms)
    except UnboundedError:
        refusal = Refusal(RefusalType.NOT_ALLOWED, HTTPStatus.BAD_REQUEST, "it cannot be bounded", "")
        return _give_up(attempt, terms, refusal, resolution)
    request = HoldRequest(
        # By Envoy's count: the ticket is an older one where the attempt before died before it got its own.
        hold_id=of_attempt(attempt.ticket.hold_id, attempt.number),
        plans=(plan(way),),
        lease_ms=terms.lease_ms,
        context=_context(chain, way),
        series=chain.series,
        previous=resolution,
        top_by=terms.snapshot.settings.top_consumer_by,
        keep_if_unavailable=on_store_failure(way) is not OnStoreFailure.REFUSE,
    )
    routed = Routed((Option(target, facts, member),), Controls())
    return Held(attempt, terms, Proposal(endpoint, facts, chain.caller, (way,), request, (Lead(routed),)), member)


def _context(chain: Chain, way: Candidate) -> str:
    """The journal's context of a later attempt: who asked for what is as it was."""
    own = {
        "served_model": way.target.name,
        "rules": [rule.account.expanded_id for rule in way.rules],
        "unpriced": way.target.unpriced,
    }
    return compact({**json.loads(chain.context), **own})


def _read(attempt: Attempt, terms: Terms) -> tuple[Endpoint, RequestFacts, Target, Member | None] | Refusal:
    """The request as this attempt's target gets it. What admission could read can be read again."""
    chain = attempt.chain
    endpoint = Endpoint(registry.dialect(attempt.ticket.dialect), chain.path)
    target = resolve_target(attempt.target, endpoint.dialect, terms, attempt.now_us)
    if isinstance(target, Refusal):  # a newer policy set has no such target
        return target
    member = terms.virtual_models.member(chain.rule, attempt.target)
    facts = endpoint.dialect.read_request(attempt.body, path=chain.path)
    return endpoint, facts_for(member, facts, endpoint), target, member


def _sent(
    attempt: Attempt,
    target: Target,
    member: Member | None,
    *,
    sent: Outgoing,
    ticket: Ticket | None,
    answer: dict[str, str],
) -> Send:
    """Envoy keeps what an earlier attempt did to the headers: each attempt says all of them anew."""
    own = dict(member.set_headers) if member is not None else {}
    others = tuple(name for name in attempt.set_before if name not in own)
    return Send(
        account=target.account.name,
        path=sent.path,
        body=attempt.body if sent.body is None else sent.body,
        set_headers=tuple(own.items()),
        remove_headers=(*attempt.chain.removed, *others, *(member.remove_headers if member is not None else ())),
        ticket=ticket,
        answer=answer,
        go_on=_go_on(attempt, member),
    )


def _go_on(attempt: Attempt, member: Member | None) -> tuple[int, ...]:
    """The statuses after which another attempt follows this one; none after the last. `member` None: a newer policy set
    has no such target, and its sequence goes on as one that says nothing.
    """
    following = attempt.chain.targets[attempt.number : attempt.number + 1]
    if not following:
        return ()
    rule = member or Member(name=attempt.target)
    return rule.goes_on_after(to_itself=following[0] == attempt.target)


def _give_up(attempt: Attempt, terms: Terms, why: Refusal, resolution: Resolution | None) -> GiveUp:
    """The failure that happened, with why nothing followed it."""
    failed = attempt.ticket.target
    happened = f"answered {attempt.tried_status}" if attempt.tried_status else "did not answer"
    refusal = Refusal(
        type=RefusalType.PROVIDER_FAILED,
        status=_status(attempt),
        message=f"'{failed}' {happened}, and '{attempt.target}' was not tried: {why.message}",
        mitigation=why.mitigation or "Retry in a moment.",
        context={**why.context, "failed": failed, "not_tried": attempt.target, "because": why.type.value},
    )
    dialect = registry.dialect(attempt.ticket.dialect)
    return GiveUp(answers.refuse(refusal, dialect, terms.snapshot.settings, attempt.chain.request_id), resolution)


def _status(attempt: Attempt) -> HTTPStatus:
    if not attempt.tried_status:
        return HTTPStatus.GATEWAY_TIMEOUT if attempt.timed_out else HTTPStatus.BAD_GATEWAY
    try:
        return HTTPStatus(attempt.tried_status)
    except ValueError:  # a status of the provider's own, such as 529
        return HTTPStatus.SERVICE_UNAVAILABLE
