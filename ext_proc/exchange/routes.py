"""From the model a client names to the targets that may serve it, first choice first."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ext_proc.dialects import jsonbody
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.form import FormDocument
from ext_proc.dialects.interface import Endpoint, RequestFacts
from ext_proc.exchange import request_refusals as refused
from ext_proc.exchange.chain import Limits
from ext_proc.exchange.controls import PROVIDER_HEADER, Controls
from ext_proc.exchange.events import RequestHead
from ext_proc.exchange.targets import Target, resolve_target
from ext_proc.exchange.terms import Terms
from ext_proc.identity import access
from ext_proc.identity.caller import Caller
from ext_proc.identity.presented import presented
from ext_proc.policy.snapshot import MatchFacts
from ext_proc.refusal import Refusal
from ext_proc.routing.chains import ATTEMPTS_MAX, account_of, attempts
from ext_proc.routing.selection import order
from ext_proc.routing.virtual_models import Member, VirtualModel, first_byte_ms


@dataclass(frozen=True, slots=True)
class Option:
    """One target that may serve, and the request as it would be sent there. `member` None: no rule routes it."""

    target: Target
    facts: RequestFacts
    member: Member | None = None


@dataclass(frozen=True, slots=True)
class Routed:
    """The options of a request. `rule` None: the client named the target itself."""

    options: tuple[Option, ...]
    controls: Controls
    rule: VirtualModel | None = None
    barred: tuple[Refusal, ...] = ()  # why guardrails keep targets of the rule from serving
    all_barred: bool = False  # they keep every one: the only option left is the one whose refusal is shown

    def attempts(self, usable: frozenset[str]) -> tuple[str, ...]:
        """The target of each attempt, of those that are usable; one of them where no chain is needed."""
        if self.rule is None:
            return (self.options[0].target.name,)
        members = [
            option.member for option in self.options if option.member is not None and option.target.name in usable
        ]
        tries_max = ATTEMPTS_MAX if self.controls.retries is None else 1 + self.controls.retries
        return tuple(member.name for member in attempts(members, len(self.rule.members), tries_max))

    def limits(self, targets: tuple[str, ...]) -> Limits:
        """What Envoy is told of these attempts."""
        named = [option.member for option in self.options if option.target.name in targets and option.member]
        # One limit holds for all attempts: the longest, so that no target is cut before its own.
        own = [limit for member in named if (limit := first_byte_ms(member)) is not None]
        asked = [limit for limit in (self.controls.first_byte_ms, max(own, default=None)) if limit is not None]
        return Limits(
            retries=len(targets) - 1,
            first_byte_ms=min(asked, default=None),
            request_ms=self.controls.request_ms,
        )


def route(
    facts: RequestFacts,
    endpoint: Endpoint,
    caller: Caller,
    head: RequestHead,
    terms: Terms,
    *,
    controls: Controls,
    draw: int,
    name: str | None = None,
) -> Routed | Refusal:
    """The options of a request, or why there is none. `name`: the model to route in place of the one it names."""
    model = facts.model if name is None else name
    named = resolve_target(_with_provider(model, controls, terms), endpoint.dialect, terms, head.now_us)
    match = MatchFacts(
        caller=caller,
        requested_model=facts.model,
        target=named.name if isinstance(named, Target) else model,
        headers=head.first,
    )
    rule = terms.virtual_models.match(match if name is None else replace(match, requested_model=model))
    if rule is None:
        usable = _usable(named, caller, facts.model, head)
        return usable if isinstance(usable, Refusal) else Routed((Option(usable, facts),), controls)
    options: list[Option] = []
    barred: list[tuple[Option, Refusal]] = []
    why: Refusal | None = None
    for member in order(rule, match, terms.health, draw, head.now_us // 1_000_000):
        if controls.provider is not None and account_of(member) != controls.provider:
            continue
        found = resolve_target(member.name, endpoint.dialect, terms, head.now_us)
        usable = _usable(found, caller, facts.model, head)
        if isinstance(usable, Refusal):
            why = why or usable
            continue
        option = Option(usable, facts_for(member, facts, endpoint), member)
        bars = terms.snapshot.target_refusal(match.served_by(usable.name), option.facts.geo or usable.region)
        if bars is None:
            options.append(option)
        else:
            barred.append((option, bars))
    all_barred = bool(barred) and not options
    if all_barred:
        # The guardrail itself refuses the first of them, beside whatever else is wrong with the request.
        options.append(barred[0][0])
    if not options:
        return why or _nobody(model, rule, controls)
    # A client's own provider key is good for the account it was brought for, and for no other.
    leader = options[0].target.account
    kept = [option for option in options if option.target.account == leader or not _own_key(option, options[0])]
    return Routed(tuple(kept), controls, rule, tuple(refusal for _, refusal in barred), all_barred)


def facts_for(member: Member | None, facts: RequestFacts, endpoint: Endpoint) -> RequestFacts:
    """The request as this member gets it: bounded as it will be sent, with the parameters that the member overrides."""
    if member is None or not member.override_params or isinstance(facts.document, FormDocument):
        return facts  # a form is sent as it came
    body = jsonbody.dump({**facts.document, **member.override_params})
    try:
        return endpoint.dialect.read_request(body, path=endpoint.upstream_path)
    except DialectError:  # the parameters are no good in this dialect: the client's request is
        return facts


def _own_key(option: Option, leader: Option) -> bool:
    return option.target.account.client_credential or leader.target.account.client_credential


def _with_provider(model: str, controls: Controls, terms: Terms) -> str:
    """The model, at the account the client asks for where it names none itself."""
    prefix, slash, _ = model.partition("/")
    if controls.provider is None or (slash and prefix in terms.accounts):
        return model
    return f"{controls.provider}/{model}"


def _usable(target: Target | Refusal, caller: Caller, requested_model: str, head: RequestHead) -> Target | Refusal:
    """The target, if the caller may use it and brings the provider key where the account wants the client's own."""
    if isinstance(target, Refusal):
        return target
    if target.account.client_credential and not presented(head.headers).others:
        return access.no_provider_key(target.account.name)
    return access.model_refusal(caller, requested_model, target.name) or target


def _nobody(model: str, rule: VirtualModel, controls: Controls) -> Refusal:
    why = f"no target of its rule '{rule.id}' may serve this request"
    if controls.provider is not None:
        why = f"its rule '{rule.id}' has no target at '{controls.provider}' ({PROVIDER_HEADER})"
    return refused.unknown_model(model, why, sorted({account_of(member) for member in rule.members}))
