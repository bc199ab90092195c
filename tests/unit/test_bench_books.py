"""The soak's books: they balance when all is well, and every way in which they do not is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.soak.books import balance
from bench.soak.records import Balance, Billed, Disruption, Expected, Posted, Sent

OK = frozenset({200})
SENT = Sent("s1", "chat", Expected.ANSWERED, OK, "search", began=10.0, ended=11.0, status=200, whole=True)
BILLED = Billed("s1", "answered", 700)
POSTED = Posted(
    id="s1",
    hold_id="h.1",
    cost_center="search",
    basis="reported",
    is_correction=False,
    hold_nanodollars=1_000,
    charge_nanodollars=700,
    tokens=30,
)
KILLED = Disruption("worker", "SIGKILL", began=11.5, ended=13.0)
STOPPED = Disruption("worker", "SIGTERM", began=10.5, ended=13.0)


def accounts(spent: int, held: int = 0, tokens: int = 30) -> Sequence[Balance]:
    return (
        Balance("everything", None, spent, held),
        Balance("per-center", "search", spent, held),
        Balance("all-tokens", None, tokens, 0),
    )


def test_books_that_balance_have_no_findings() -> None:
    """A request charged what it was billed, in accounts that hold the sum of the journal, leaves nothing to say."""
    assert balance([SENT], [BILLED], [POSTED], accounts(700), []).findings == []


LEFT = replace(SENT, expected=Expected.LEFT, whole=False, statuses=frozenset({0, 200}))
GONE = Billed("s1", "client_gone", None)
ESTIMATE = replace(POSTED, basis="estimated", charge_nanodollars=400)
EXPIRED = replace(POSTED, basis="expired", charge_nanodollars=1_000)


def test_an_estimate_balances_where_the_client_left() -> None:
    """What a client left is charged more than nothing and at most its hold."""
    assert balance([LEFT], [GONE], [ESTIMATE], accounts(400), []).findings == []


def test_a_hold_may_expire_where_a_worker_was_killed() -> None:
    """A kill explains a charge in full, and the error its client saw."""
    broken = replace(SENT, status=0, whole=False)
    books = balance([broken], [], [EXPIRED], accounts(1_000), [KILLED])
    assert books.findings == []
    assert sum(books.explained.values()) == 2


@pytest.mark.parametrize(
    ("finding", "books"),
    [
        ("charged 701", (SENT, [BILLED], [replace(POSTED, charge_nanodollars=701)], accounts(701), [])),
        ("in the journal twice", (SENT, [BILLED], [POSTED, POSTED], accounts(1_400, tokens=60), [])),
        ("not in the journal", (SENT, [BILLED], [], accounts(0, tokens=0), [])),
        ("never saw it", (SENT, [], [POSTED], accounts(700), [])),
        ("account everything", (SENT, [BILLED], [POSTED], accounts(699), [])),
        ("5 still held", (SENT, [BILLED], [POSTED], accounts(700, held=5), [])),
        ("account all-tokens", (SENT, [BILLED], [POSTED], accounts(700, tokens=29), [])),
        ("an estimate of 400", (SENT, [BILLED], [ESTIMATE], accounts(400), [])),
        ("nothing was killed", (SENT, [BILLED], [EXPIRED], accounts(1_000), [])),
        ("nothing was killed", (SENT, [BILLED], [EXPIRED], accounts(1_000), [STOPPED])),
        ("not the 1000", (SENT, [BILLED], [replace(EXPIRED, charge_nanodollars=9)], accounts(9), [KILLED])),
        ("charged nothing", (LEFT, [GONE], [replace(ESTIMATE, charge_nanodollars=0)], accounts(0), [])),
        ("status 503", (replace(SENT, status=503), [BILLED], [POSTED], accounts(700), [])),
        ("status 503", (replace(SENT, status=503), [BILLED], [POSTED], accounts(700), [STOPPED])),
        ("broken off", (replace(SENT, whole=False), [BILLED], [POSTED], accounts(700), [])),
        ("nobody sent it", (replace(SENT, id="s2"), [BILLED], [POSTED], accounts(700), [])),
    ],
)
def test_whatever_does_not_balance_is_found(
    finding: str,
    books: tuple[Sent, Sequence[Billed], Sequence[Posted], Sequence[Balance], Sequence[Disruption]],
) -> None:
    """One nano-dollar, one lost or doubled charge, one error without a cause: each has its finding."""
    sent, billed, posted, balances, disruptions = books
    findings = balance([sent], billed, posted, balances, disruptions).findings
    assert any(finding in one for one in findings), findings
