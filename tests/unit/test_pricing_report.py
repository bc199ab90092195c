"""The lines of `tollgate prices show | diff | lint`."""

from __future__ import annotations

from datetime import UTC, datetime

from ext_proc.pricing import catalogue, report
from ext_proc.pricing.book import PriceBook
from ext_proc.pricing.private import private_price

NOW = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp()) * 1_000_000
MINI = ("openai-main", "openai", "gpt-4o-mini")
SONNET = ("anthropic-main", "anthropic", "claude-sonnet-4-5")
LLAMA = ("vllm", "openai-compatible", "llama")
VERSION = catalogue.shipped().version


def lines(found: tuple[report.Line, ...]) -> list[str]:
    """As they are printed."""
    return [str(line) for line in found]


def test_show_writes_prices_as_price_pages_do() -> None:
    """Dollars per million tokens, tiers and what differs from plain input and output; unpriced is said."""
    mini, sonnet, llama = lines(report.show(PriceBook(), [MINI, SONNET, LLAMA], NOW))

    assert mini == f"openai-main/gpt-4o-mini: input $0.15, output $0.6, cache_read $0.075, searches $10 ({VERSION})"
    assert sonnet == (
        "anthropic-main/claude-sonnet-4-5: input $3, output $15, cache_read $0.3, cache_write_5m $3.75, "
        "cache_write_1h $6, searches $10; above 200,000 input $6, output $22.5, cache_read $0.6, cache_write_5m $7.5, "
        f"cache_write_1h $12, searches $10 ({VERSION})"
    )
    assert llama == "vllm/llama: unpriced"


def test_diff_names_what_changed_and_nothing_else() -> None:
    """A price of another day or another book shows with both sides."""
    o3 = ("openai-main", "openai", "o3")
    book = PriceBook()
    early = int(datetime(2025, 6, 1, tzinfo=UTC).timestamp()) * 1_000_000

    changed = report.diff((book, early), (book, NOW), [MINI, o3])

    assert len(changed) == 1
    assert str(changed[0]).startswith("openai-main/o3: input $10, output $40")
    assert "→ input $2, output $8" in str(changed[0])
    assert report.diff((book, NOW), (PriceBook(), NOW), [MINI, o3]) == ()


def test_lint_finds_what_is_unpriced_and_what_looks_like_a_wrong_unit() -> None:
    """A thousandth of the public price is a per-token price written per thousand; a discount is not remarked on."""
    book = PriceBook(
        {
            "openai-main": {"gpt-4o-mini": private_price({"per_1000_tokens": {"input": 0.00000015, "output": 0.0005}})},
            "vllm": {"mine": private_price({"per_1000_tokens": {"input": 0}})},
        }
    )

    mini, llama = lines(report.lint(book, [MINI, SONNET, LLAMA, ("vllm", "openai-compatible", "mine")], NOW))

    assert mini == (
        "openai-main/gpt-4o-mini: $0.00015 for input_uncached is far from the public $0.15; check the unit of "
        "openai-main's `cost`"
    )
    assert llama == "vllm/llama: has no known price; give it a `cost`, or the unpriced policy decides"


def test_free_and_marginal_prices_are_called_so() -> None:
    """Zero is written as free, marginal tiers are named."""
    free = private_price({"per_1000_tokens": {"input": 0}}).at(NOW)
    tokens = {"input": 0.001, "input_tiers": [{"from": 10, "cost_per_token": 0.000002}]}
    marginal = private_price({"per_1000_tokens": tokens, "tier_mode": "marginal", "per_request": 0.001}).at(NOW)

    assert report.describe(free).startswith("free (private-")
    assert report.describe(marginal).startswith(
        "input $1, output $0, requests $1; above 10 input $2, output $0, requests $1 (private-"
    )
    assert report.describe(marginal).endswith(", marginal tiers)")


def test_time_is_shown_by_the_hour() -> None:
    """A price per GPU-hour reads as it was written, times its GPUs."""
    price = private_price({"per_gpu_hour": {"rate": 2.5, "gpus": 4}}).at(NOW)

    assert price is not None
    assert report.describe(price) == f"input $0, output $0, served_ms $10 ({price.version})"
