"""The live table of `tollgate up` and `tollgate budgets`: accounts as text for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ext_proc.admin.accounts import bucket_text, state_of
from ext_proc.ledger.interface import AccountBalance, Measure
from ext_proc.pricing.money import NANODOLLARS_PER_DOLLAR

SHARED = "(shared)"

_HEADINGS = ("BUCKET", "RULE", "SPENT", "HELD", "CAP", "STATE", "RESETS IN")
_NUMERIC = frozenset({2, 3, 4})
_GAP = "  "
_SHRINKABLE = (0, 1)  # texts of people; figures are never cut
_SHRUNK_MIN = 8
_SECONDS_OF = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_FINE_BELOW_NANODOLLARS = 10 * NANODOLLARS_PER_DOLLAR


@dataclass(frozen=True, slots=True)
class Row:
    """One line, as texts in the order of the headings, and how far the account is used."""

    cells: tuple[str, ...]
    used_permille: int


def row_of(balance: AccountBalance, now_us: int) -> Row:
    """One account's row. `now_us` is the time to count the reset from, microseconds."""
    amounts = (amount_text(value, balance.measure) for value in (balance.spent, balance.held, balance.cap))
    end_us = balance.window_end_us
    cells = (
        _printable(_values(balance.bucket) or SHARED),
        _printable(balance.rule),
        *amounts,
        state_of(balance.spent, balance.cap).value,
        "never" if end_us is None else duration_text(-(-(end_us - now_us) // 1_000_000)),
    )
    return Row(cells, balance.spent * 1_000 // balance.cap if balance.cap > 0 else 1_000)


def rows_of(balances: Sequence[AccountBalance], now_us: int) -> list[Row]:
    """Rows by document, rule and bucket."""
    ordered = sorted(balances, key=lambda one: (one.document, one.template, bucket_text(one.bucket), one.rule))
    return [row_of(balance, now_us) for balance in ordered]


def render(rows: Sequence[Row], *, width: int, rows_max: int | None = None) -> str:
    """The table, lines at most `width` wide where its figures allow that. Past `rows_max` the least used rows are left
    out and counted in a last line.
    """
    shown = list(rows) if rows_max is None else _most_used(rows, rows_max)
    lines = [_HEADINGS, *(row.cells for row in shown)]
    widths = _fit([max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))], width)
    text = [_line(line, widths) for line in lines]
    if len(shown) < len(rows):
        text.append(f"… and {len(rows) - len(shown)} more, used less")
    elif not rows:
        text.append("no budget has been used yet")
    return "\n".join(text) + "\n"


def duration_text(seconds: int) -> str:
    """The two largest units: `2d 3h`, `5m 0s`, `42s`; `now` when it is over."""
    if seconds <= 0:
        return "now"
    index = next(index for index, (_, size) in enumerate(_SECONDS_OF) if seconds >= size)
    counts: list[str] = []
    for name, size in _SECONDS_OF[index : index + 2]:
        count, seconds = divmod(seconds, size)
        counts.append(f"{count}{name}")
    return " ".join(counts)


def amount_text(amount: int, measure: Measure) -> str:
    """Dollars with two decimals, four below ten dollars; counts with separators. Less than shown is `<$0.0001`."""
    if measure is not Measure.COST:
        return f"{amount:,}"
    decimals = 4 if 0 < abs(amount) < _FINE_BELOW_NANODOLLARS else 2
    step = NANODOLLARS_PER_DOLLAR // 10**decimals
    sign, steps = ("-" if amount < 0 else ""), (abs(amount) + step // 2) // step
    if steps == 0 and amount != 0:
        return f"<{sign}$0.{1:0{decimals}d}"
    whole, fraction = divmod(steps, 10**decimals)
    return f"{sign}${whole:,}.{fraction:0{decimals}d}"


def _values(bucket: tuple[tuple[str, str | None], ...]) -> str:
    """`search`, `web, ada`: the keys are in the rule's name more often than not, and lines are short."""
    return ", ".join("(none)" if value is None else value for _, value in bucket)


def _printable(text: str) -> str:
    """Tags come from clients: what could move a cursor or colour a terminal becomes a question mark."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _most_used(rows: Sequence[Row], count: int) -> list[Row]:
    """The rows used most, in their given order."""
    if len(rows) <= count:
        return list(rows)
    kept = sorted(range(len(rows)), key=lambda index: (-rows[index].used_permille, index))[:count]
    return [rows[index] for index in sorted(kept)]


def _fit(widths: list[int], width: int) -> list[int]:
    """Column widths that fit, taking from the wider of the shrinkable columns first."""
    over = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    while over > 0:
        column = max(_SHRINKABLE, key=lambda index: widths[index])
        if widths[column] <= _SHRUNK_MIN:
            break
        widths[column] -= 1
        over -= 1
    return widths


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        text = cell if len(cell) <= width else cell[: width - 1] + "…"
        padded.append(text.rjust(width) if column in _NUMERIC else text.ljust(width))
    return _GAP.join(padded).rstrip()
