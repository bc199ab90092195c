"""Laws of what is learned: a quantile is one, figures stay in their bounds, and workers add up."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ext_proc.exchange.calibration import (
    BYTES_PER_TOKEN_MILLI,
    CHARGE_BYTES_PER_TOKEN_BOUNDS,
    HOLD_BYTES_PER_TOKEN_BOUNDS,
    OUTPUT_CEILING_FACTOR,
    OUTPUT_FLOOR_DIVISOR,
    OUTPUT_TOKENS,
    SAMPLES_MIN,
    TOKENS_PER_SECOND_BOUNDS,
    Calibration,
    learned,
)

LENGTHS = st.lists(st.integers(1, 100_000), min_size=SAMPLES_MIN, max_size=300)
RATIOS = st.lists(st.integers(1_000, 6_000), min_size=SAMPLES_MIN, max_size=300)
NAMES = st.one_of(
    st.builds("{}{}".format, st.sampled_from("ios"), st.integers(0, 200)), st.text(max_size=6), st.just("i٣")
)
COUNTS = st.dictionaries(NAMES, st.integers(-5, 1 << 60), max_size=40)


@given(lengths=LENGTHS)
def test_nineteen_of_twenty_answers_fit_into_the_learned_length(lengths: list[int]) -> None:
    """The length held for is at least what 95 % of the answers were, and within a bucket of what that needs."""
    found = learned(Counter(map(OUTPUT_TOKENS.name, lengths))).output_tokens

    assert found is not None
    assert sum(length <= found for length in lengths) * 20 >= len(lengths) * 19
    safe = sorted(lengths)[-(-len(lengths) * 19 // 20) - 1]
    assert found <= safe * OUTPUT_TOKENS.growth + 1


@given(ratios=RATIOS)
def test_nineteen_of_twenty_prompts_fit_into_the_learned_hold(ratios: list[int]) -> None:
    """At most one prompt in twenty has fewer bytes per token than is held for."""
    found = learned(Counter(map(BYTES_PER_TOKEN_MILLI.name, ratios))).hold_bytes_per_token_milli

    assert found is not None
    assert sum(ratio < found for ratio in ratios) * 20 <= len(ratios)


@given(named=COUNTS, default=st.integers(1, 1_000_000))
def test_nothing_counted_leads_out_of_the_bounds(named: dict[str, int], default: int) -> None:
    """Whatever stands in Redis, by malice or mistake, each figure is unknown or within its bounds."""
    found = learned(named)
    held = Calibration({("t", ""): found}).held("t", "traffic", default)

    for figure, (least, most) in (
        (found.hold_bytes_per_token_milli, HOLD_BYTES_PER_TOKEN_BOUNDS),
        (found.charge_bytes_per_token_milli, CHARGE_BYTES_PER_TOKEN_BOUNDS),
        (found.tokens_per_second, TOKENS_PER_SECOND_BOUNDS),
        (held.output_tokens, (max(1, default // OUTPUT_FLOOR_DIVISOR), default * OUTPUT_CEILING_FACTOR)),
    ):
        assert figure is None or least <= figure <= most


@given(here=LENGTHS, there=LENGTHS)
def test_what_two_workers_saw_is_what_one_would_have_seen(here: list[int], there: list[int]) -> None:
    """Counts add up, so it does not matter who observed what."""
    together = Counter(map(OUTPUT_TOKENS.name, here)) + Counter(map(OUTPUT_TOKENS.name, there))

    assert learned(together) == learned(Counter(map(OUTPUT_TOKENS.name, here + there)))
