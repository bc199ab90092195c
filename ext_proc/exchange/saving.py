"""Whether a cheaper model is to serve a request as well: the rules of `savings`, applied to one request.

A saving never costs an answer: where the cheaper model cannot serve (nobody has it, its window is too small, a
guardrail or the caller's key forbids it) the next rule is asked, and in the end the request goes on as it came.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ext_proc.exchange.bounds import bound
from ext_proc.exchange.routes import Option, Routed
from ext_proc.exchange.terms import Terms
from ext_proc.policy.documents.savings import Scorer
from ext_proc.policy.snapshot import MatchFacts
from ext_proc.refusal import Refusal
from ext_proc.routing.savings import Measured, Scored, agrees, question

RouteName = Callable[[str], Routed | Refusal]
"""Routes the request as if it had named this model."""


@dataclass(frozen=True, slots=True)
class Saved:
    """`routed` None: no rule swaps it. `audited` are the rules in audit mode that would have."""

    routed: Routed | None = None
    rule: str = ""
    audited: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoreWanted:
    """The scorer of a rule is to be asked before the request can be judged."""

    rule_id: str
    scorer: Scorer
    question: dict[str, object]


NOT_SAVED: Final = Saved()


def save(
    match: MatchFacts, asked: Routed, terms: Terms, *, now_us: int, scored: Scored | None, route: RouteName
) -> Saved | ScoreWanted:
    """What the first rule that is about a request does with it. `asked` is how it is routed without any.

    A request is scored once: a rule with a scorer, below one whose scorer kept the model, is passed over.
    """
    if not terms.savings:
        return NOT_SAVED
    first = asked.options[0]
    measured = Measured(first.facts, now_us, lambda: _input_tokens(first, terms))
    audited: list[str] = []
    for swap in terms.savings.swaps(match, measured):
        routed = route(swap.to)
        if isinstance(routed, Refusal) or not _can_serve(routed, asked, match, measured, terms):
            continue
        if swap.rule.audit:
            audited.append(swap.rule.id)
            continue
        scorer = swap.rule.scorer
        if scorer is not None:
            if scored is None:
                return ScoreWanted(swap.rule.id, scorer, question(swap, match, measured))
            if scored.rule_id != swap.rule.id or not agrees(scorer, scored):
                continue
        return Saved(routed, swap.rule.id, tuple(audited))
    return Saved(audited=tuple(audited))


def _can_serve(routed: Routed, asked: Routed, match: MatchFacts, measured: Measured, terms: Terms) -> bool:
    option, before = routed.options[0], asked.options[0]
    account, wanted = option.target.account, asked.controls.provider
    if routed.all_barred or (wanted is not None and account.name != wanted):
        return False
    if account.client_credential and account.name != before.target.account.name:
        return False  # a client's own provider key is good for the account it was brought for
    window = terms.prices.context_window(account.provider, option.target.model)
    if window is not None and measured.input_tokens > window:
        return False
    return _is_allowed(option, match, terms)


def _is_allowed(option: Option, match: MatchFacts, terms: Terms) -> bool:
    facts = MatchFacts(match.caller, match.requested_model, option.target.name, match.headers)
    return terms.snapshot.target_refusal(facts, option.facts.geo or option.target.region) is None


def _input_tokens(first: Option, terms: Terms) -> int:
    """The estimate that a hold would begin with."""
    bounds = bound(
        first.facts,
        strict=False,
        default_output_tokens=1,
        min_output_tokens=None,
        context_window=None,
        learned=terms.calibration.of(first.target.name),
    )
    return bounds.input_tokens
