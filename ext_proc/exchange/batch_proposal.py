"""Batches, up to what is asked of the ledger: who, which rules, at most how much all requests of it cost together.

Two pure steps. `begin` reads a call of a batch API as it comes in; where it is about a file or a batch that came
earlier, what is remembered of that is needed first (`Recalling`), and `go_on` judges it. A batch is sent as it is:
nothing in it is rewritten, so it is neither swapped nor clamped, and its requests name the provider's own model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ext_proc.batches.calls import Api, BatchCall, Step, file_key, read_call
from ext_proc.batches.errors import BatchError
from ext_proc.batches.summary import Request, Summary, read_inline, requests_inline, requests_of_file, summed
from ext_proc.batches.ticket import LEASE_MS, BatchTicket, payer_of
from ext_proc.dialects import multipart, registry
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import Endpoint
from ext_proc.exchange import request_refusals as refused
from ext_proc.exchange.bounds import EXTERNAL_INPUT_TOKENS, HOLD_BYTES_PER_TOKEN_MILLI, bound, tokens_of
from ext_proc.exchange.controls import Controls
from ext_proc.exchange.errors import UnboundedError
from ext_proc.exchange.events import Recalled, RequestHead
from ext_proc.exchange.leads import Lead
from ext_proc.exchange.ledger_refusals import store_refusal
from ext_proc.exchange.planning import BatchSize, Candidate, candidates, plan
from ext_proc.exchange.proposal import (
    Proposal,
    Unmetered,
    audited,
    caller_of,
    context_of,
    series_of,
    tagged,
    unmetered,
)
from ext_proc.exchange.routes import Routed, route
from ext_proc.exchange.targets import Target, cheaper_target
from ext_proc.exchange.terms import Terms, upstream_path
from ext_proc.identity.caller import Caller
from ext_proc.ledger.interface import HoldRequest
from ext_proc.policy.guardrails import GuardedRequest
from ext_proc.policy.snapshot import Batch, MatchFacts
from ext_proc.pricing.price import BATCH_TIER
from ext_proc.refusal import Refusal

_FILE_FIELDS = frozenset({"purpose", "expires_after[anchor]", "expires_after[seconds]"})
_FILE_HINT = "upload its requests through this gateway (POST /v1/files, purpose=batch), as the same caller"


@dataclass(frozen=True, slots=True)
class Incoming:
    """A call of a batch API as it comes in."""

    call: BatchCall
    head: RequestHead
    terms: Terms
    hold_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Recalling:
    """A call that waits for what is remembered under its key."""

    incoming: Incoming
    caller: Caller
    key: tuple[str, str, str]
    document: dict[str, object]  # of a call that makes a batch


def call_of(head: RequestHead, terms: Terms) -> BatchCall | None:
    """The call of a batch API that this request makes, where policy wants batches held and its account is there."""
    if terms.snapshot.settings.batch is not Batch.HOLD:
        return None
    call = read_call(head.method, head.path)
    return call if call is not None and call.account in terms.accounts else None


def begin(incoming: Incoming, body: bytes) -> Recalling | Proposal | Unmetered | Refusal:
    """Judge one call as far as it says everything itself."""
    head = incoming.head
    caller = caller_of(head, incoming.terms)
    if isinstance(caller, Refusal):
        return caller
    encoding = head.first.get("content-encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        return refused.encoded(encoding)
    call = incoming.call
    account, path = incoming.terms.accounts[call.account], call.path.partition("?")[0]
    match = _match(caller, "", f"{account.name}/", incoming)
    if barred := incoming.terms.snapshot.guardrails.unread_refusal(match, account.region, path):
        return barred
    try:
        return _begun(incoming, body, caller)
    except BatchError as error:
        return refused.batch_invalid(error.place, error.problem)


def _begun(incoming: Incoming, body: bytes, caller: Caller) -> Recalling | Proposal | Unmetered | Refusal:
    call = incoming.call
    match call.step:
        case Step.UPLOAD:
            return _upload(incoming, body, caller)
        case Step.CREATE if call.api is Api.ANTHROPIC:
            guarded = _Guarded(caller, incoming)
            summary = summed(guarded.watch(requests_inline(read_inline(body))))
            return guarded.refusal or _proposed(incoming, summary, caller)
        case Step.CREATE:
            document = read_inline(body)
            named = document.get("input_file_id")
            if not isinstance(named, str) or not named:
                raise BatchError("input_file_id", f"is missing; {_FILE_HINT}")
            return Recalling(incoming, caller, file_key(call.account, named), document)
        case _:
            return Recalling(incoming, caller, call.key, {})


def go_on(asking: Recalling, recalled: Recalled) -> Proposal | Unmetered | Refusal:
    """Judge the call by what is remembered."""
    incoming, caller = asking.incoming, asking.caller
    if recalled.failed:
        return store_refusal()
    known = None if recalled.text is None else BatchTicket.decode(recalled.text)
    if known is not None and known.payer != payer_of(caller):
        known = None
    if incoming.call.step is not Step.CREATE:
        # Of a batch that did not come through here nothing is known: its path is a path like any other.
        return unmetered(incoming.head, caller, incoming.terms.snapshot) if known is None else _about(incoming, known)
    if known is None or known.summary is None:
        return refused.batch_unknown_file(asking.key[2], _FILE_HINT)
    summary = known.summary
    if asking.document.get("endpoint") != summary.path:
        return refused.batch_invalid("endpoint", f"is not that of the file's requests; write {summary.path!r}")
    try:
        return _proposed(incoming, summary, caller)
    except BatchError as error:
        return refused.batch_invalid(error.place, error.problem)


def _about(incoming: Incoming, known: BatchTicket) -> Unmetered:
    """A call about a file or a batch that came through here."""
    call = incoming.call
    reads = call.step in {Step.STATUS, Step.RESULTS} and known.ticket is not None
    return Unmetered(call.account, _sent_to(incoming), replace(known, step=call.step) if reads else None)


def _upload(incoming: Incoming, body: bytes, caller: Caller) -> Unmetered | Refusal:
    """A file of requests: nothing is spent yet. What its batch will cost is summed up, and guardrails are asked."""
    try:
        form = multipart.parse(body, incoming.head.first.get("content-type", ""))
        fields = form.fields()
    except DialectError as error:
        raise BatchError(error.field, error.problem) from None
    if (purpose := fields.get("purpose")) != "batch":
        raise BatchError("purpose", f"is {str(purpose)[:40]!r}; only files of batch requests pass here")
    if unknown := sorted(fields.keys() - _FILE_FIELDS):
        raise BatchError(unknown[0][:64], "is not known for a file of batch requests; leave it out")
    if [part.name for part in form.files] != ["file"]:
        raise BatchError("file", "is not the one file of the form; upload one file of requests")
    guarded = _Guarded(caller, incoming)
    summary = summed(guarded.watch(requests_of_file(body[form.files[0].start : form.files[0].end])))
    if guarded.refusal is not None:
        return guarded.refusal
    call = incoming.call
    ticket = BatchTicket(call.api, Step.UPLOAD, call.account, payer_of(caller), summary=summary)
    return Unmetered(call.account, _sent_to(incoming), ticket)


def _sent_to(incoming: Incoming) -> str:
    return upstream_path(incoming.terms.accounts[incoming.call.account], incoming.call.path)


class _Guarded:
    """Requests of a batch as they pass the guardrails, one by one. `refusal`: of the first that is refused."""

    def __init__(self, caller: Caller, incoming: Incoming) -> None:
        self.refusal: Refusal | None = None
        self._caller, self._incoming = caller, incoming
        self._snapshot = incoming.terms.snapshot

    def watch(self, requests: Iterator[Request]) -> Iterator[Request]:
        """The same requests."""
        for request in requests:
            if self.refusal is None and self._snapshot.guardrails.rules:
                self.refusal = self._refusal(request)
            yield request

    def _refusal(self, request: Request) -> Refusal | None:
        facts = request.facts
        match = _match(self._caller, facts.model, f"{self._incoming.call.account}/{facts.model}", self._incoming)
        bounds = bound(facts, strict=False, default_output_tokens=0, min_output_tokens=None, context_window=None)
        asked = GuardedRequest(
            body_bytes=request.size_bytes,
            input_tokens=bounds.input_tokens,
            output_tokens=None if facts.output_limit is None else bounds.output_max,
            document=facts.document,
            path=request.path,
            region=facts.geo or self._incoming.terms.accounts[self._incoming.call.account].region_of(facts.model),
        )
        enforced = [found.refusal for found in self._snapshot.guard(match, asked) if found.enforced]
        if not enforced:
            return None
        return replace(enforced[0], message=f"{request.place}: {enforced[0].message}")


def _proposed(incoming: Incoming, summary: Summary, caller: Caller) -> Proposal | Refusal:
    """What the whole batch asks of the ledger."""
    call, terms = incoming.call, incoming.terms
    endpoint = Endpoint(registry.dialect(summary.dialect), call.path)
    routed = _routed(incoming, summary, endpoint, caller)
    if isinstance(routed, Refusal):
        return routed
    target = routed.options[0].target
    match = _match(caller, summary.model, target.name, incoming)
    tags = tagged(match, terms.snapshot)
    if isinstance(tags, Refusal):
        return tags
    if barred := terms.snapshot.target_refusal(match, summary.geo or target.region):
        return barred
    cheaper = cheaper_target(target, endpoint.dialect, match, terms, incoming.head.now_us)
    way = _candidate(summary, target, cheaper, match, terms)
    if isinstance(way, Refusal):
        return way
    facts, settings = summary.facts(0), terms.snapshot.settings
    hold = HoldRequest(
        hold_id=incoming.hold_id,
        plans=(plan(way),),
        lease_ms=LEASE_MS,
        context=context_of(endpoint.dialect, facts, caller, way, incoming.request_id, batch_requests=summary.requests),
        series=series_of(caller, settings),
        top_by=settings.top_consumer_by,
    )
    ticket = BatchTicket(call.api, Step.CREATE, call.account, payer_of(caller), requests=summary.requests)
    return Proposal(endpoint, facts, caller, (way,), hold, (Lead(routed),), audited(tags, ()), batch=ticket)


def _routed(incoming: Incoming, summary: Summary, endpoint: Endpoint, caller: Caller) -> Routed | Refusal:
    call = incoming.call
    routed = route(summary.facts(0), endpoint, caller, incoming.head, incoming.terms, controls=Controls(), draw=0)
    if isinstance(routed, Refusal):
        return routed
    target = routed.options[0].target
    if routed.rule is not None or target.model != summary.model or target.account.name != call.account:
        problem = f"{summary.model!r} is a name of this gateway's, and a batch is sent as it is; name a model of "
        raise BatchError("model", f"{problem}{call.account}'s provider")
    return routed


def _candidate(
    summary: Summary, target: Target, cheaper: Target | None, match: MatchFacts, terms: Terms
) -> Candidate | Refusal:
    """The one way to serve it: whole, at batch rates. A constrained budget that would swap its model refuses it."""
    cap = terms.snapshot.output_cap(match)
    default = terms.snapshot.settings.default_output_tokens if cap is None else cap
    priced = replace(target, price=target.price.served_by(BATCH_TIER))
    facts = summary.facts(default)
    try:
        first = candidates(priced, cheaper, facts, match, terms)[0]
    except UnboundedError:
        return refused.unbounded()
    strict = any(rule.strict for rule in first.rules if rule.deciding)
    if ((strict or cap is not None) and summary.unlimited_choices) or (strict and summary.external_inputs):
        return refused.batch_unbounded()
    # Neither may the output be shrunk, nor does one model's window bound the sum of many requests.
    bounds = bound(facts, strict=strict, default_output_tokens=default, min_output_tokens=None, context_window=None)
    size = BatchSize(summary.requests, _largest_input(summary, strict=strict))
    return replace(first, bounds=bounds, batch=size, traffic="")  # a sum teaches nothing about single requests


def _largest_input(summary: Summary, *, strict: bool) -> int:
    """The input tokens that no request of the batch is held above."""
    tokens = tokens_of(summary.largest_prompt_bytes, 1_000 if strict else HOLD_BYTES_PER_TOKEN_MILLI)
    return tokens + summary.largest_overhead_tokens + summary.largest_external_inputs * EXTERNAL_INPUT_TOKENS


def _match(caller: Caller, model: str, target: str, incoming: Incoming) -> MatchFacts:
    return MatchFacts(caller=caller, requested_model=model, target=target, headers=incoming.head.first)
