"""The small pure parts of the ledger: ids, keys, URLs, the breaker, journal entries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.ledger import ids, keys
from ext_proc.ledger.breaker import Breaker
from ext_proc.ledger.connections import open_channel
from ext_proc.ledger.interface import AccountSpec, Basis, Measure, Period, Window, WindowKind
from ext_proc.ledger.journal import JournalFigures, entry
from ext_proc.ledger.scripts import load_scripts
from tests.ledger_kit import account

FIGURES = JournalFigures("0" * 28 + ".2", 1_000_000, -5, 10, 1, 2, Basis.REPORTED, correction=True)


@given(now_us=st.integers(0, 2**47), randomness=st.binary(min_size=8, max_size=8), attempt=st.integers(1, 50))
def test_id_tells_when_it_was_minted(now_us: int, randomness: bytes, attempt: int) -> None:
    """An id carries its mint time to the millisecond, through all its attempts."""
    hold_id = ids.mint(now_us, randomness, attempt)

    assert ids.minted_us(hold_id) == now_us // 1000 * 1000
    assert ids.of_attempt(hold_id, attempt + 1) == ids.mint(now_us, randomness, attempt + 1)


@pytest.mark.parametrize("stranger", ["", "x", "not-an-id-of-ours.1", "zzzzzzzzzzzz0000000000000000.1"])
def test_stranger_s_id_is_older_than_everything(stranger: str) -> None:
    """What is not an id of ours counts as minted at the beginning of time, and is refused as too old."""
    assert ids.minted_or_zero_us(stranger) == 0


def test_account_is_what_it_counts_not_its_cap() -> None:
    """Editing cap, thresholds or document name keeps the account; anything that it counts by makes another."""
    base = account("rule", bucket=(("metadata.repo", "core"),))
    same = AccountSpec(
        base.document_type,
        "renamed",
        base.rule_id,
        "shown",
        base.bucket,
        base.measure,
        base.window,
        7,
        (50,),
        latch=True,
    )
    others = [
        account("rule2", bucket=base.bucket),
        account("rule", bucket=(("metadata.repo", None),)),
        account("rule", bucket=(("metadata.repo", "None"),)),
        account("rule", bucket=base.bucket, measure=Measure.TOKENS),
        account("rule", bucket=base.bucket, window=Window(WindowKind.CALENDAR, Period.WEEK)),
        account("rule", bucket=base.bucket, window=Window(WindowKind.CALENDAR, Period.DAY, "Europe/Berlin")),
    ]

    assert keys.digest(same) == keys.digest(base)
    assert len({keys.digest(spec) for spec in (base, *others)}) == 1 + len(others)


@pytest.mark.parametrize("realm", ["", "a{b", "a}b", "a b", "x" * 65, "a:b"])
def test_realm_cannot_break_out_of_its_slot(realm: str) -> None:
    """A realm with a brace, a colon or a space would put its keys elsewhere: it is refused."""
    with pytest.raises(ValueError, match="realm"):
        keys.prefix(realm)


@pytest.mark.parametrize("tag", ["odd {tag}", "a:b", "", "x" * 65])
def test_odd_tag_is_a_digest_in_a_key(tag: str) -> None:
    """Only plain tag names stand in key names as they are."""
    assert keys.series_name("cost_center") == "cost_center"
    assert keys.series_name(tag).isalnum()


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("redis+sentinel://127.0.0.1:26379", "name of the primary"),
        ("redis+cluster://127.0.0.1:1,,127.0.0.1:2", "host is missing"),
        ("http://127.0.0.1", "scheme"),
    ],
)
def test_url_of_another_form_is_refused(url: str, fault: str) -> None:
    """A URL that names no Redis is an error at start, with what is wrong."""
    with pytest.raises(ValueError, match=fault):
        open_channel(url, "0", 100)


def test_breaker_opens_after_failures_in_a_row() -> None:
    """It opens at the limit and says so once; a single success in between starts the count anew."""
    breaker = Breaker(3)

    assert [breaker.failed(), breaker.failed()] == [False, False]
    breaker.succeeded()
    assert [breaker.failed(), breaker.failed(), breaker.failed(), breaker.failed()] == [False, False, True, False]
    assert breaker.is_open
    breaker.succeeded()
    assert not breaker.is_open


def test_journal_figures_win_over_what_clients_wrote() -> None:
    """Context and detail cannot overwrite what the ledger itself counted."""
    written = entry('{"charge_nanodollars": 0, "caller": {"user": "ada"}}', '{"basis": "released"}', FIGURES)

    assert (written["charge_nanodollars"], written["basis"], written["attempt"]) == (-5, "reported", 2)
    assert written["correction"] is True
    assert written["caller"] == {"user": "ada"}
    assert written["time"] == "1970-01-01T00:00:01.000000Z"


@pytest.mark.parametrize("text", ["", "not json", "[1]"])
def test_unreadable_detail_is_kept(text: str) -> None:
    """A detail that is no JSON object is kept as text: nothing of a journal entry is lost."""
    assert entry("{}", text, FIGURES)["unreadable"] == text


def test_scripts_differ_and_are_named_as_redis_names_them() -> None:
    """Every script has its own digest of 40 hex digits."""
    scripts = load_scripts()

    assert len({script.sha for script in scripts.values()}) == len(scripts)
    assert all(len(script.sha) == 40 for script in scripts.values())
