"""Public prices from a file: taken whole or not at all, and the last good ones stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ext_proc.pricing.book import PriceBook
from ext_proc.pricing.catalogue_file import CatalogueWatch, read
from ext_proc.pricing.errors import CatalogueError
from tests.catalogue_kit import catalogue_json

NOW_US = 1_790_000_000_000_000


def input_rate(watch: CatalogueWatch) -> int:
    """Pico-dollars per input token of the one model."""
    price = PriceBook(catalogue=watch.catalogue).price("openai", "gpt-4o-mini", NOW_US)
    assert price is not None
    return price.tiers[0].rates.input_uncached


def test_a_published_file_prices_models(tmp_path: Path) -> None:
    """Rates are exact, the version names the content, the date is the file's, and models it lacks are unpriced."""
    file = tmp_path / "data.json"
    file.write_text(catalogue_json(input_mtok=0.0375))
    os.utime(file, (1_700_000_000, 1_700_000_000))

    watch = CatalogueWatch(file)
    book = PriceBook(catalogue=watch.catalogue)

    assert input_rate(watch) == 37_500
    assert watch.status.version.startswith("genai-prices-file-")
    assert book.version == watch.status.version
    assert watch.status.age_seconds(1_700_000_060_000_000) == 60
    assert book.context_window("openai", "gpt-4o-mini") == 128_000
    assert book.price("openai", "gpt-4o", NOW_US) is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[", "line 1: is no JSON"),
        ("{}", "is no list of providers"),
        ("[]", "prices no model"),
        ('[{"name": "OpenAI"}]', "0.id: is missing"),
        (catalogue_json(input_mtok=-1), "openai/gpt-4o-mini: the rate of input_uncached is no price"),
        (catalogue_json(output_mtok=2_000_000), "openai/gpt-4o-mini: the rate of output is no price"),
        (catalogue_json(input_mtok="dear"), "0.models.0.prices.input_mtok: is 'dear'; it must be a number"),
        (catalogue_json(input_mtok="NaN"), "0.models.0.prices.input_mtok: is 'NaN'; it must be a number"),
    ],
)
def test_a_file_that_holds_no_prices_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    """The error names the file, the place and what to mount instead."""
    file = tmp_path / "data.json"
    file.write_text(content)

    with pytest.raises(CatalogueError) as refused:
        read(file)

    assert str(refused.value).startswith(f"{file}: ")
    assert problem in str(refused.value)
    assert "mount a file such as" in str(refused.value)


def test_a_changed_file_swaps_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    """Good, broken, gone, good again: each told once, the last good one in force throughout."""
    file = tmp_path / "data.json"
    file.write_text(catalogue_json())
    watch = CatalogueWatch(file)
    first = watch.status.version
    assert not watch.poll()

    file.write_text(catalogue_json()[:-1])
    assert not watch.poll()
    assert (watch.status.refused, watch.status.version, input_rate(watch)) == (1, first, 150_000)
    assert "is no JSON" in watch.status.problem
    assert not watch.poll()
    assert watch.status.refused == 1

    file.unlink()
    assert not watch.poll()
    assert "cannot be read" in watch.status.problem

    file.write_text(catalogue_json(input_mtok=0.3))
    assert watch.poll()
    assert (watch.status.problem, watch.status.loaded, input_rate(watch)) == ("", 2, 300_000)
    assert watch.status.version != first


def test_an_edit_that_is_taken_back_is_healthy_again(tmp_path: Path) -> None:
    """The same content is no swap, but the problem is gone."""
    file = tmp_path / "data.json"
    file.write_text(catalogue_json())
    watch = CatalogueWatch(file)
    file.write_text("broken")
    watch.poll()

    file.write_text(catalogue_json())

    assert not watch.poll()
    assert (watch.status.problem, watch.status.loaded) == ("", 1)


def test_the_last_good_file_outlives_a_restart(tmp_path: Path) -> None:
    """A start that finds a broken file takes what was kept, with its date; without anything kept it is refused."""
    file, kept = tmp_path / "data.json", tmp_path / "kept.json"
    file.write_text(catalogue_json(input_mtok=0.3))
    os.utime(file, (1_700_000_000, 1_700_000_000))
    before = CatalogueWatch(file, last_good=kept).status
    file.write_text("broken")

    after = CatalogueWatch(file, last_good=kept)

    assert (after.status.version, after.status.dated_us) == (before.version, before.dated_us)
    assert input_rate(after) == 300_000
    assert "is no JSON" in after.status.problem
    with pytest.raises(CatalogueError):
        CatalogueWatch(file, last_good=tmp_path / "nothing.json")
