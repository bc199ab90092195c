"""The savings page: its figures are those of the price book, its documents load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ext_proc.pricing.book import PriceBook
from ext_proc.pricing.usage import Usage
from tests.policy_kit import snapshot

PAGE = (Path(__file__).parents[2] / "docs" / "savings.md").read_text("utf-8")
NOW_US = 1_779_000_000_000_000
NANODOLLARS_PER_DOLLAR = 1_000_000_000
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in PAGE.splitlines()
    if re.match(r"\| [a-z ]+ \| \w+/", line)
]


def dollars_per_thousand(model: str, input_tokens: int, output_tokens: int) -> float:
    """What a thousand such requests cost."""
    provider, _, name = model.partition("/")
    price = PriceBook({}).price(provider, name, NOW_US)
    assert price is not None, model
    charge = price.charge_nanodollars(Usage(input_uncached=input_tokens, output=output_tokens))
    return charge * 1_000 / NANODOLLARS_PER_DOLLAR


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}")
def test_the_figures_are_those_of_the_price_book(row: tuple[str, ...]) -> None:
    """Before, after, and the share that is saved."""
    _, model, cheaper, size_in, size_out, *shown = row
    before, after = (dollars_per_thousand(name, int(size_in), int(size_out)) for name in (model, cheaper))
    assert shown == [f"${before:.2f}", f"${after:.2f}", f"{(1 - after / before) * 100:.0f} %"]


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_the_recipes_load(text: str) -> None:
    """What the page shows can be pasted."""
    assert snapshot(text).documents


def test_there_are_rows() -> None:
    """A table that nobody finds would be right for ever."""
    assert len(ROWS) == 5
