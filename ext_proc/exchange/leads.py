"""Who may serve a request first, in the order in which the hold asks: each lead with the plans of its own.

A request has one lead as a rule. It has more where a target is to be left once a budget is spent so far (only the
ledger knows whether it is), and where a rule saves: the last lead is then the request as it was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ext_proc.dialects.interface import Dialect, RequestFacts
from ext_proc.exchange.chain import Attempts
from ext_proc.exchange.errors import UnboundedError
from ext_proc.exchange.planning import Candidate, candidate, candidates
from ext_proc.exchange.routes import Option, Routed
from ext_proc.exchange.targets import cheaper_target
from ext_proc.exchange.terms import Terms
from ext_proc.policy.guardrails import GuardedRequest, GuardrailFinding
from ext_proc.policy.snapshot import MatchFacts, Snapshot
from ext_proc.routing.health import Health


@dataclass(frozen=True, slots=True)
class Lead:
    """One choice of who serves first. `chain`: what is tried after a failure, where something is.

    `saving`: the rule that chose it in place of what was asked for. `leaves_at`: it leads only while less than so many
    percent of each budget that decides for it are spent.
    """

    routed: Routed
    chain: Attempts | None = None
    saving: str = ""
    leaves_at: int | None = None

    @property
    def option(self) -> Option:
        """Who serves first."""
        return self.routed.options[0]


@dataclass(frozen=True, slots=True)
class Asking:
    """One request and what it is judged by, for all of its leads."""

    dialect: Dialect
    path: str  # as the client asks for it, without an account before it
    match: MatchFacts  # of the request as it was asked for
    body: bytes
    terms: Terms
    now_us: int

    def breached(self, way: Candidate, facts: RequestFacts) -> tuple[GuardrailFinding, ...]:
        """The guardrails that the request breaks when it is served this way."""
        request = GuardedRequest(
            body_bytes=len(self.body),
            input_tokens=way.bounds.input_tokens,
            output_tokens=None if facts.output_limit is None else way.bounds.output_max,
            document=facts.document,
            region=way.geo or way.target.region,
            path=self.path.partition("?")[0],
        )
        return self._snapshot.guard(self.match.served_by(way.target.name), request)

    def is_denied(self, way: Candidate, facts: RequestFacts) -> bool:
        """Whether an enforced guardrail forbids to serve it this way."""
        return any(finding.enforced for finding in self.breached(way, facts))

    @property
    def _snapshot(self) -> Snapshot:
        return self.terms.snapshot


def leads_of(routed: Routed, saving: str, asked: Routed, health: Health) -> tuple[Lead, ...]:
    """The leads of a request, first choice first. `asked` is how it is routed without the saving rule."""
    leads = [*_leads(routed, saving, health)]
    if saving:
        leads += _leads(asked, "", health)
    return tuple(leads)


def ways_of(leads: tuple[Lead, ...], asking: Asking) -> tuple[tuple[Lead, ...], tuple[Candidate, ...]]:
    """The leads with their chains, and the ways to serve the request, lead by lead.

    Raises UnboundedError where strict admission cannot bound the first choice of a lead.
    """
    ways: list[Candidate] = []
    found: list[Lead] = []
    for index, lead in enumerate(leads):
        chain, fallbacks = _fallbacks(lead, asking)
        found.append(lead if chain is None else replace(lead, chain=chain))
        target, facts = lead.option.target, lead.option.facts
        match = asking.match.served_by(target.name)
        # Where another target is to lead next, it does so before this one is swapped.
        swaps = lead.leaves_at is None
        cheaper = cheaper_target(target, asking.dialect, match, asking.terms, asking.now_us) if swaps else None
        own = candidates(target, cheaper, facts, match, asking.terms, fallbacks=fallbacks)
        is_placed = index == 0 and lead.leaves_at is None  # as candidates are by themselves
        ways += own if is_placed else [replace(way, lead=index, leaves_at=lead.leaves_at) for way in own]
    first, *others = ways
    return tuple(found), (
        first,
        *(way for way in others if not asking.is_denied(way, found[way.lead].option.facts)),
    )


def _leads(routed: Routed, saving: str, health: Health) -> Iterator[Lead]:
    """The order as it is; then, for each target that is to be left at some part of its budget, the order without it in
    front. The last one leads whatever is spent.
    """
    rest: tuple[Option, ...] = routed.options
    moved: tuple[Option, ...] = ()
    while len(rest) + len(moved) > 1 and rest:
        member = rest[0].member
        percent = None if member is None else member.leaves_at(health)
        if percent is None:
            break
        yield Lead(replace(routed, options=_in_order(rest, moved)), saving=saving, leaves_at=percent)
        rest, moved = rest[1:], (*moved, rest[0])
    yield Lead(replace(routed, options=_in_order(rest, moved)) if moved else routed, saving=saving)


def _in_order(rest: tuple[Option, ...], moved: tuple[Option, ...]) -> tuple[Option, ...]:
    """Those who must not follow only lead."""
    first, *others = (*rest, *moved)
    return (first, *(option for option in others if option.member is None or option.member.may_follow))


def _fallbacks(lead: Lead, asking: Asking) -> tuple[Attempts | None, tuple[Candidate, ...]]:
    """The attempts that may follow a failed one, and what they would ask. Without a second attempt there are none."""
    routed = lead.routed
    ways: dict[str, Candidate] = {}
    for option in routed.options[1:]:
        try:
            way = candidate(option.target, option.facts, asking.match.served_by(option.target.name), asking.terms)
        except UnboundedError:
            continue
        if not asking.is_denied(way, option.facts):
            ways[option.target.name] = way
    targets = routed.attempts(frozenset(ways) | {lead.option.target.name})
    cluster = asking.terms.chains.cluster(tuple(target.partition("/")[0] for target in targets))
    if cluster is None:
        return None, ()
    fallbacks = tuple(ways[name] for name in dict.fromkeys(targets) if name in ways)
    return Attempts(cluster, targets, routed.limits(targets)), fallbacks
