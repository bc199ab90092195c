"""Which requests may leave their answers to Envoy's own parsers, by what is asked for and how it is held."""

from __future__ import annotations

from ext_proc.exchange.proposal import Proposal
from ext_proc.ledger.interface import AccountState, HoldReply, Measure

NATIVE_ANSWER_BYTES_MAX = 8 << 20
"""Above what a model can write within its longest output; far below what Envoy may buffer, past which it would answer
500 in place of an answer that was paid for."""


def may_be_native(proposal: Proposal, reply: HoldReply) -> bool:
    """Whether the end record of this request will tell its usage, in time."""
    return proposal.batch is None and _is_small(proposal, reply.output_limit) and not _is_tight(reply.states)


def _is_small(proposal: Proposal, output_limit: int) -> bool:
    size = proposal.dialect.native_answer_bytes(proposal.facts, output_limit)
    return size is not None and size <= NATIVE_ANSWER_BYTES_MAX


def _is_tight(states: tuple[AccountState, ...]) -> bool:
    """Whether the next request may depend on when this one settles, for an account has less room than is held on it.

    Then meter settles, which does so with the last byte of the answer; an end record comes some time after it, and a
    client that asks again at once would be refused for the hold of what it has been answered.
    """
    return any(
        state.account.cap - state.spent < 2 * state.held
        for state in states
        if state.deciding and state.account.measure is not Measure.REQUESTS  # a request is one, held or charged
    )
