"""Why a request would be admitted, swapped, shortened or refused: admission itself, with everything it saw kept.

Nothing is decided here. The request goes through the admission machine as one of Envoy's would, over a ledger in memory
that has taken over the balances of the accounts in question; what is added is only what the machine throws away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ext_proc.exchange.admission import Admission
from ext_proc.exchange.answers import ignored_headers
from ext_proc.exchange.calibration import Key
from ext_proc.exchange.effects import (
    AcknowledgeHead,
    AdmissionEffect,
    AskHold,
    AskScore,
    Forward,
    PassUnmetered,
    Recall,
    Refuse,
)
from ext_proc.exchange.events import HoldAnswered, Recalled, RequestBody, RequestHead, ScoreAnswered
from ext_proc.exchange.planning import Candidate
from ext_proc.exchange.proposal import Proposal, Understood, caller_of, propose, understand
from ext_proc.exchange.saving import ScoreWanted
from ext_proc.exchange.terms import Terms
from ext_proc.identity.caller import Caller
from ext_proc.ledger import ids
from ext_proc.ledger.amounts import amount
from ext_proc.ledger.interface import AccountSpec, Code, HoldReply, Plan, Posting
from ext_proc.ledger.memory import MemoryLedger
from ext_proc.ledger.standing import Standing
from ext_proc.ledger.windows import WindowCache
from ext_proc.policy.trials import Trial, trials
from ext_proc.refusal import Refusal
from ext_proc.routing.savings import Scored
from ext_proc.routing.selection import draw_of

ReadStandings = Callable[[Iterable[AccountSpec], int], Awaitable[Mapping[AccountSpec, Standing]]]
"""Reads what accounts hold at a time (Redis microseconds), and changes nothing."""

_NOT_RANDOM = bytes(8)
_REQUEST_ID = "req_explained"


@dataclass(frozen=True, slots=True)
class Asked:
    """What one way to serve the request asks of one account."""

    posting: Posting
    amount: int  # in the account's step, at the output that was granted, or else at the least
    standing: Standing
    window_end_us: int | None

    @property
    def account(self) -> AccountSpec:
        """The account."""
        return self.posting.account


@dataclass(frozen=True, slots=True)
class Way:
    """One way to serve the request, in the order in which they are tried. `reply`: what the ledger says to it alone."""

    candidate: Candidate
    plan: Plan
    reply: HoldReply
    output_tokens: int
    asked: tuple[Asked, ...]
    chosen: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """One request, judged. What was not reached is None or empty: a request refused for its path has no rules.

    `live`: the balances are those of a Redis, else every account starts at zero.
    """

    head: RequestHead
    body_bytes: int
    version: str  # of the policy set
    live: bool
    outcome: Forward | Refuse | PassUnmetered
    ignored_headers: tuple[str, ...] = ()
    unasked: ScoreWanted | None = None  # the scorer that admission would ask: judged as if it gave no score
    caller: Caller | None = None
    understood: Understood | None = None
    trials: tuple[Trial, ...] = ()
    ways: tuple[Way, ...] = ()
    reply: HoldReply | None = None
    proposal: Proposal | None = None
    standings: Mapping[AccountSpec, Standing] = field(default_factory=dict)
    output_cap: int | None = None  # of the guardrails, on a request that names no limit

    @property
    def learnable(self) -> frozenset[Key]:
        """What the holds of its ways would take of a calibration."""
        ways = [(way.candidate.target.name, way.candidate.traffic) for way in self.ways]
        return frozenset(ways) | {(target, "") for target, _ in ways}

    @property
    def scored(self) -> Scored | None:
        """What the request was judged by in place of a score."""
        return None if self.unasked is None else Scored(self.unasked.rule_id, None)

    @property
    def ends_us(self) -> Mapping[AccountSpec, int | None]:
        """When the window of each account asked ends."""
        return {asked.account: asked.window_end_us for way in self.ways for asked in way.asked}


async def explain(head: RequestHead, body: bytes, terms: Terms, read: ReadStandings | None = None) -> Explanation:
    """Judge one request at `head.now_us`. `read` gives the balances it is judged against; None: all are zero."""
    admission = Admission(terms, ids.mint(head.now_us, _NOT_RANDOM), _REQUEST_ID)
    effects = admission.receive(head)
    if isinstance(effects[-1], AcknowledgeHead):
        effects = admission.receive(RequestBody(body, head.now_us))
    unasked: ScoreWanted | None = None
    if isinstance(effects[-1], AskScore):
        unasked = effects[-1].wanted
        effects = admission.receive(ScoreAnswered(None))
    if isinstance(effects[-1], Recall):  # nothing is looked up: a file is judged as one that never passed
        effects = admission.receive(Recalled(None))
    standings: Mapping[AccountSpec, Standing] = {}
    reply: HoldReply | None = None
    last = effects[-1]
    if isinstance(last, AskHold):
        postings = [posting for plan in last.request.plans for posting in plan.postings]
        if read is not None:
            standings = await read((posting.account for posting in postings), head.now_us)
        reply = await _ledger(standings, head.now_us).hold(last.request)
        effects = admission.receive(HoldAnswered(reply))
    found = Explanation(
        head=head,
        body_bytes=len(body),
        version=terms.snapshot.version,
        live=read is not None,
        outcome=_outcome(effects),
        ignored_headers=ignored_headers(head, terms.snapshot.settings.metadata_header),
        unasked=unasked,
        reply=reply,
        standings=standings,
    )
    found = _with_what_was_read(found, body, terms, admission.hold_id)
    return found if reply is None else await _with_ways(found, body, terms, reply, admission.hold_id)


def _outcome(effects: tuple[AdmissionEffect, ...]) -> Forward | Refuse | PassUnmetered:
    outcome = effects[-1]
    assert isinstance(outcome, Forward | Refuse | PassUnmetered), "an admission ends with its answer"
    return outcome


def _with_what_was_read(found: Explanation, body: bytes, terms: Terms, hold_id: str) -> Explanation:
    caller = caller_of(found.head, terms)
    understood = understand(found.head, body, terms, draw_of(hold_id), found.scored)
    if isinstance(caller, Refusal):
        return found
    if not isinstance(understood, Understood):
        return replace(found, caller=caller)
    return replace(
        found,
        caller=caller,
        understood=understood,
        trials=trials(terms.snapshot, understood.match),
        output_cap=terms.snapshot.output_cap(understood.match),
    )


async def _with_ways(found: Explanation, body: bytes, terms: Terms, reply: HoldReply, hold_id: str) -> Explanation:
    proposal = propose(found.head, body, terms, hold_id, _REQUEST_ID, found.scored)
    assert isinstance(proposal, Proposal), "a hold was asked for, and proposing depends on nothing else"
    windows = WindowCache()
    ways = []
    for index, (candidate, plan) in enumerate(zip(proposal.candidates, proposal.hold.plans, strict=True)):
        alone = await _ledger(found.standings, found.head.now_us).hold(replace(proposal.hold, plans=(plan,)))
        granted = alone.code is Code.HELD
        output = alone.output_limit if granted else plan.output_min
        asked = tuple(_asked(posting, output, found, windows) for posting in plan.postings)
        chosen = reply.code is Code.HELD and reply.plan_index == index
        ways.append(Way(candidate, plan, alone, output, asked, chosen))
    return replace(found, proposal=proposal, ways=tuple(ways))


def _asked(posting: Posting, output: int, found: Explanation, windows: WindowCache) -> Asked:
    bounds = windows.bounds(posting.account.window, found.head.now_us)
    standing = found.standings.get(posting.account, Standing())
    return Asked(posting, amount(posting, output), standing, None if bounds is None else bounds[1])


def _ledger(standings: Mapping[AccountSpec, Standing], now_us: int) -> MemoryLedger:
    """A ledger of one moment, that nobody else holds on."""
    ledger = MemoryLedger(lambda: now_us)
    for account, standing in standings.items():
        ledger.stand(account, standing)
    return ledger
