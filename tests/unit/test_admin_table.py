"""The live table: what a person reads, in any width, whatever clients put in their tags."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.admin.accounts import State, state_of
from ext_proc.admin.table import amount_text, duration_text, render, rows_of
from ext_proc.ledger.interface import AccountBalance, Measure, Period, Window, WindowKind

DOLLAR = 1_000_000_000
NOW_US = int(datetime(2026, 5, 17, 12, tzinfo=UTC).timestamp()) * 1_000_000
BALANCE = AccountBalance(
    rule="search-team-weekly",
    template="search-team-weekly",
    document="platform",
    document_type="gateway-budget-config",
    bucket=(("metadata.cost_center", "search"), ("user", None)),
    measure=Measure.COST,
    window=Window(WindowKind.CALENDAR, Period.WEEK),
    window_start_us=NOW_US - 3_600_000_000,
    window_end_us=NOW_US + (2 * 86_400 + 3 * 3_600 + 59) * 1_000_000,
    cap=500 * DOLLAR,
    spent=460 * DOLLAR,
    held=1_234_567,
)


def table(*balances: AccountBalance, width: int = 120, rows_max: int | None = None) -> str:
    return render(rows_of(balances, NOW_US), width=width, rows_max=rows_max)


def test_a_row_says_all_there_is_to_know() -> None:
    """Bucket, rule, spent, held, cap, state and time to the reset stand under their headings."""
    lifetime = replace(
        BALANCE,
        rule="tokens",
        template="tokens",
        bucket=(),
        measure=Measure.TOKENS,
        window=Window(WindowKind.LIFETIME),
        window_start_us=None,
        window_end_us=None,
        cap=1_000_000,
        spent=12_345,
        held=0,
    )

    assert table(BALANCE, lifetime) == (
        "BUCKET          RULE                  SPENT     HELD        CAP  STATE        RESETS IN\n"
        "search, (none)  search-team-weekly  $460.00  $0.0012    $500.00  constrained  2d 3h\n"
        "(shared)        tokens               12,345        0  1,000,000  ok           never\n"
    )


def test_an_empty_table_says_so() -> None:
    """Before the first request there is a heading and a sentence."""
    assert table().endswith("no budget has been used yet\n")


def test_long_names_are_cut_and_figures_are_not() -> None:
    """In a narrow terminal bucket and rule give way; every amount stays whole."""
    long = replace(BALANCE, rule="a-very-long-rule-name" * 3, bucket=(("metadata.repo", "r" * 100),))
    lines = table(long, width=80).splitlines()

    assert all(len(line) <= 80 for line in lines)
    assert "…" in lines[1]
    assert "$460.00" in lines[1]
    assert "$500.00" in lines[1]


def test_the_most_used_rows_are_kept_in_order() -> None:
    """When there are more accounts than lines, the least used ones are counted instead."""
    balances = [
        replace(BALANCE, bucket=(), rule=f"rule-{number}", template=f"rule-{number}", spent=number * DOLLAR)
        for number in range(9)
    ]
    lines = table(*balances, rows_max=3).splitlines()

    assert [line.split()[1] for line in lines[1:4]] == ["rule-6", "rule-7", "rule-8"]
    assert lines[4] == "… and 6 more, used less"


def test_a_tag_cannot_write_to_the_terminal() -> None:
    """Escape sequences, newlines and direction marks in a tag are shown as question marks."""
    nasty = replace(BALANCE, bucket=(("metadata.x", "\x1b[2J\n\r\u202e\u0007evil"),), rule="a\nb")
    text = table(nasty)

    assert "?[2J????evil" in text
    assert "a?b" in text
    assert len(text.splitlines()) == 2


@given(text=st.text(), width=st.integers(1, 200))
def test_every_account_is_one_printable_line(text: str, width: int) -> None:
    """No bucket and no width makes a row anything but one printable line."""
    lines = table(replace(BALANCE, bucket=(("metadata.x", text),)), width=width).split("\n")

    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "now"), (0, "now"), (1, "1s"), (60, "1m 0s"), (3_661, "1h 1m"), (86_399, "23h 59m"), (90_000, "1d 1h")],
)
def test_durations(seconds: int, text: str) -> None:
    """The two largest units are shown."""
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("amount", "measure", "text"),
    [
        (0, Measure.COST, "$0.00"),
        (1, Measure.COST, "<$0.0001"),
        (49_999, Measure.COST, "<$0.0001"),
        (50_000, Measure.COST, "$0.0001"),
        (9_999_999_999, Measure.COST, "$10.0000"),
        (10 * DOLLAR, Measure.COST, "$10.00"),
        (1_234_567_890_000_000, Measure.COST, "$1,234,567.89"),
        (-2 * DOLLAR, Measure.COST, "-$2.0000"),
        (1_234_567, Measure.TOKENS, "1,234,567"),
    ],
)
def test_amounts(amount: int, measure: Measure, text: str) -> None:
    """Dollars are rounded for reading, from integers; nothing that was spent looks like zero."""
    assert amount_text(amount, measure) == text


@pytest.mark.parametrize(
    ("spent", "cap", "state"),
    [
        (0, 100, State.OK),
        (74, 100, State.OK),
        (75, 100, State.SOFT),
        (89, 100, State.SOFT),
        (90, 100, State.CONSTRAINED),
        (99, 100, State.CONSTRAINED),
        (100, 100, State.EXHAUSTED),
        (250, 100, State.EXHAUSTED),
        (0, 0, State.EXHAUSTED),
        (3 * 2**53 // 4 - 1, 2**53, State.OK),
        (3 * 2**53 // 4, 2**53, State.SOFT),
    ],
)
def test_states_change_at_their_percentage(spent: int, cap: int, state: State) -> None:
    """75, 90 and 100 % of the cap, to the nano-dollar, without floating point."""
    assert state_of(spent, cap) is state
