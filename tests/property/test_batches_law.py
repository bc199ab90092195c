"""Whatever requests a batch holds: under a strict budget its results never cost more than was held for it."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ext_proc.batches.calls import Api
from ext_proc.batches.results import Results
from ext_proc.dialects import registry
from ext_proc.exchange.effects import AskHold, Forward
from ext_proc.exchange.events import HoldAnswered
from ext_proc.ledger.interface import Code, HoldReply, Measure, Stamp
from ext_proc.pricing.price import BATCH_TIER
from ext_proc.pricing.usage import Usage
from tests.batch_kit import BUDGET, NOW_US, admission, begun, inline, jsonl, message_result, terms

STRICT = terms(BUDGET.replace("unit:", "admission: strict, unit:"))

REQUESTS = st.lists(
    st.fixed_dictionaries({
        "max_tokens": st.integers(1, 64_000),
        "messages": st.text(min_size=1, max_size=400).map(lambda text: [{"role": "user", "content": text}]),
    }),
    min_size=1,
    max_size=6,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(requests=REQUESTS, data=st.data())
def test_a_strict_hold_covers_whatever_the_results_say(requests: list[dict[str, Any]], data: st.DataObject) -> None:
    """Each answer reads at most the bytes of its prompt as tokens and what the provider adds, and writes within its
    limit: the sum of them all, at batch rates and rounded once, is at most the hold.
    """
    request = admission(STRICT)
    asked = begun(request, "POST", "/v1/messages/batches", inline(*requests))[-1]
    assert isinstance(asked, AskHold)
    (plan,) = asked.request.plans
    (cost,) = (posting for posting in plan.postings if posting.account.measure is Measure.COST)
    held = cost.fixed + -(-cost.per_output_milli * plan.output_max // 1_000)
    sent = request.receive(HoldAnswered(HoldReply(Code.HELD, Stamp(NOW_US, "1", 1), 0, plan.output_max)))[-1]
    assert isinstance(sent, Forward)
    assert sent.ticket.price.served_by(BATCH_TIER) == sent.ticket.price, "the ticket knows batch rates alone"

    answers = [
        message_result(
            index,
            data.draw(st.integers(0, len(one["messages"][0]["content"].encode()))),
            data.draw(st.integers(0, one["max_tokens"])),
        )
        for index, one in enumerate(requests)
    ]
    results = Results(Api.ANTHROPIC, registry.dialect("anthropic-messages"), sent.ticket.price, Usage())
    results.feed(jsonl(*answers), end=True)

    assert results.succeeded == len(requests)
    assert results.charge_nanodollars <= held


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**5)), max_size=8),
    cuts=st.lists(st.integers(0, 4_000), max_size=12),
)
def test_any_chunking_of_the_results_gives_the_same_sum(counts: list[tuple[int, int]], cuts: list[int]) -> None:
    """Lines may be cut anywhere, empty chunks included."""
    body = jsonl(*(message_result(index, *pair) for index, pair in enumerate(counts)))
    ticket_price = STRICT.prices.price("anthropic", "claude-sonnet-4-6", NOW_US)
    assert ticket_price is not None

    def read(bounds: list[int]) -> tuple[int, int, Usage]:
        results = Results(Api.ANTHROPIC, registry.dialect("anthropic-messages"), ticket_price, Usage())
        for start, stop in itertools.pairwise(bounds):
            results.feed(body[start:stop], end=stop == bounds[-1] and start == bounds[-2])
        results.feed(b"", end=True)
        assert results.readable
        return results.succeeded, results.charge_nanodollars, results.usage

    whole = [0, len(body)]
    assert read([0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]) == read(whole)
