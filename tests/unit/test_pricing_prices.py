"""Prices: public and private, over tiers and time, exact to the pico-dollar."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from ext_proc.pricing import catalogue
from ext_proc.pricing.book import PriceBook
from ext_proc.pricing.errors import PricingError
from ext_proc.pricing.price import Price
from ext_proc.pricing.private import private_price
from ext_proc.pricing.usage import Rates, Usage

BOOK = PriceBook()


def us(text: str) -> int:
    """A moment in UTC as microseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


NOW = us("2026-06-01")


def public(provider: str, model: str, at_us: int = NOW) -> Price:
    """A price that must be known."""
    price = BOOK.price(provider, model, at_us)
    assert price is not None
    return price


@pytest.mark.parametrize(
    ("provider", "model", "usage", "nanodollars"),
    [
        ("openai", "gpt-4o-mini", Usage(input_uncached=1000, output=200), 1000 * 150 + 200 * 600),
        ("openai", "gpt-4o-mini-2024-07-18", Usage(cache_read=3), 225),
        ("openai", "gpt-4o-mini", Usage(cache_read=1), 75),
        ("azure-openai", "gpt-4o", Usage(input_uncached=10, output=1), 25_000 + 10_000),
        ("anthropic", "claude-haiku-4-5", Usage(cache_write_5m=4, cache_write_1h=5, cache_read=6), 5000 + 10000 + 600),
        ("anthropic", "claude-haiku-4-5", Usage(searches=3), 30_000_000),
        ("gemini", "gemini-2.5-flash", Usage(input_uncached=1, audio_in=1, cache_read_audio=1), 300 + 1000 + 100),
        ("vertex", "gemini-2.5-flash", Usage(output=2, reasoning=1), 5000),
    ],
)
def test_public_prices_of_well_known_models(provider: str, model: str, usage: Usage, nanodollars: int) -> None:
    """Charges that anyone can check on the provider's price page."""
    assert public(provider, model).charge_nanodollars(usage) == nanodollars


def test_v9_a_tier_holds_for_the_whole_request_once_passed() -> None:
    """V9: 200,000 tokens are at the lower tier, 200,001 are all at the upper, cached ones counted in."""
    price = public("gemini", "gemini-2.5-pro")

    assert price.charge_nanodollars(Usage(input_uncached=200_000)) == 200_000 * 1250
    assert price.charge_nanodollars(Usage(input_uncached=200_001)) == 200_001 * 2500
    assert price.charge_nanodollars(Usage(input_uncached=1, cache_read=199_950, tool_prompt=50, output=1)) == (
        51 * 2500 + 199_950 * 250 + 15_000
    )


def test_a_price_is_that_of_its_day() -> None:
    """o3 fell from $10 to $2 on 10 June 2025; requests of before keep the price of before."""
    usage = Usage(input_uncached=1000)

    assert public("openai", "o3", us("2025-06-09T23:59:59")).charge_nanodollars(usage) == 10_000_000
    assert public("openai", "o3", us("2025-06-10T00:00:00")).charge_nanodollars(usage) == 2_000_000


@pytest.mark.parametrize(
    ("moment", "nanodollars"),
    [
        ("2025-03-01T00:29:59", 135),
        ("2025-03-01T00:30:00", 270),
        ("2025-03-01T16:29:59", 270),
        ("2025-03-01T16:30:00", 135),
    ],
)
def test_a_price_is_that_of_its_hour(moment: str, nanodollars: int) -> None:
    """DeepSeek's off-peak prices begin and end on the second."""
    assert public("deepseek", "deepseek-chat", us(moment)).charge_nanodollars(Usage(input_uncached=1)) == nanodollars


def test_one_hour_writes_of_a_claude_without_a_rate_for_them_cost_twice_the_input() -> None:
    """T39: never the five-minute rate, where the catalogue has only that."""
    _, entry = catalogue.shipped()._find("bedrock", "us.anthropic.claude-sonnet-4-20250514-v1:0") or (None, None)
    assert entry is not None
    assert all("cache_write_1h_mtok" not in listed.listed for listed in entry.entries), "priced now: take another model"

    price = public("bedrock", "us.anthropic.claude-sonnet-4-20250514-v1:0")

    assert price.charge_nanodollars(Usage(cache_write_1h=1000)) == 2 * 1000 * 3000
    assert price.charge_nanodollars(Usage(cache_write_5m=1000)) == 1000 * 3750


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-nope"),
        ("openai-compatible", "gpt-4o"),
        ("no-such-provider", "gpt-4o"),
        ("mistral", "mistral-ocr-2503"),
        ("openai", "gpt-realtime-whisper"),
        ("cerebras", "qwen-3-coder-480b"),
    ],
)
def test_what_is_not_known_is_none_and_never_free(provider: str, model: str) -> None:
    """T14: an unknown model, or one billed in units we do not meter, has no price, which is not a price of 0."""
    assert BOOK.price(provider, model, NOW) is None


def test_free_models_are_known_to_be_free() -> None:
    """T17: a model that costs nothing by its provider's own page has a price, and it is 0."""
    assert public("openai", "omni-moderation-latest").is_free
    assert not public("openai", "gpt-4o").is_free


def test_the_ceiling_is_above_every_model_of_the_provider() -> None:
    """No known model of a provider, in no tier, costs more than its ceiling for any kind of unit."""
    ceiling = BOOK.ceiling("anthropic", NOW)
    rates = ceiling.tiers[0].rates
    for model in ("claude-opus-4-1", "claude-sonnet-4-5", "claude-haiku-4-5"):
        for tier in public("anthropic", model).tiers:
            assert rates.input_uncached >= tier.rates.input_uncached
            assert rates.output >= tier.rates.output
            assert rates.cache_write_1h >= tier.rates.cache_write_1h

    assert BOOK.ceiling("anthropic", NOW) is ceiling
    assert not BOOK.ceiling("openai-compatible", NOW).is_free


def test_a_private_price_comes_before_the_public_one() -> None:
    """The account's own price counts for its model; other accounts and models keep the public one."""
    book = PriceBook({"openai-main": {"gpt-4o": private_price({"per_1000_tokens": {"input": 1, "output": 2}})}})

    mine = book.price("openai", "gpt-4o", NOW, account="openai-main")
    assert mine is not None
    assert mine.charge_nanodollars(Usage(input_uncached=1, output=1)) == 3_000_000
    assert book.price("openai", "gpt-4o", NOW, account="openai-other") == public("openai", "gpt-4o")
    assert book.price("openai", "gpt-4o-mini", NOW, account="openai-main") == public("openai", "gpt-4o-mini")
    assert book.version != BOOK.version


def test_an_account_with_private_prices_alone_has_a_ceiling_of_its_own() -> None:
    """An unknown model of a self-hosted server is held at the dearest of that server's own models."""
    cost = private_price({"per_1000_tokens": {"input": 0.001, "output": 0.002}})
    ceiling = PriceBook({"vllm": {"llama": cost}}).ceiling("openai-compatible", NOW, account="vllm")

    assert ceiling.charge_nanodollars(Usage(input_uncached=1, output=1)) == 1000 + 2000


def rates(cost: dict[str, Any], at_us: int = NOW) -> Rates:
    """The first tier of a private price."""
    price = private_price(cost).at(at_us)
    assert price is not None
    return price.tiers[0].rates


def test_private_prices_are_read_as_written() -> None:
    """Floats are taken as their author wrote them, strings and integers too."""
    found = rates({"per_1000_tokens": {"input": 0.0375, "output": "0.15", "cache_read": 1}, "per_request": 0.002})

    assert found.input_uncached == 37_500_000
    assert found.output == 150_000_000
    assert found.cache_read == 1_000_000_000
    assert found.requests == 2_000_000_000


def test_what_a_private_price_leaves_out_costs_what_the_larger_kind_costs() -> None:
    """Cache reads without a price are input, audio without a price is text: nothing falls to 0."""
    found = rates({"per_1000_tokens": {"input": 0.001, "output": 0.003, "cache_write": 0.002, "cache_write_1h": 0.005}})

    assert found.cache_read == found.audio_in == found.tool_prompt == 1_000_000
    assert found.audio_out == found.image_out == 3_000_000
    assert (found.cache_write_5m, found.cache_write_1h) == (2_000_000, 5_000_000)
    assert found.reasoning is None


def test_private_tiers_rise_one_over_the_other() -> None:
    """A tier changes what it names and keeps the rest."""
    price = private_price(
        {
            "per_1000_tokens": {
                "input": 0.001,
                "output": 0.002,
                "input_tiers": [{"from": 100, "cost_per_token": 0.000002}, {"from": 200, "cost_per_token": 0.000003}],
                "output_tiers": [{"from": 200, "cost_per_token": 0.000009}],
            }
        }
    ).at(NOW)

    assert price is not None
    assert price.charge_nanodollars(Usage(input_uncached=100, output=1)) == 100 * 1000 + 2000
    assert price.charge_nanodollars(Usage(input_uncached=101, output=1)) == 101 * 2000 + 2000
    assert price.charge_nanodollars(Usage(input_uncached=201, output=1)) == 201 * 3000 + 9000


@pytest.mark.parametrize("day", ["2026-02-01", date(2026, 2, 1)])
def test_a_private_price_holds_from_its_day_on(day: object) -> None:
    """A past request keeps the price of its day; before the first there is none."""
    schedule = private_price({"from": day, "per_1000_tokens": {"input": 2}})

    assert schedule.at(us("2026-01-31T23:59:59")) is None
    assert schedule.at(us("2026-02-01")) is not None


def test_marginal_tiers_charge_each_part_at_its_own_rate() -> None:
    """300 input tokens over a threshold of 100: a third of the request at the lower rates, two thirds at the upper."""
    tokens = {"input": 0.001, "output": 0.002, "input_tiers": [{"from": 100, "cost_per_token": 0.000002}]}
    price = private_price({"per_1000_tokens": tokens, "tier_mode": "marginal"}).at(NOW)

    assert price is not None
    assert price.charge_nanodollars(Usage(input_uncached=100, output=30)) == 100 * 1000 + 30 * 2000
    assert price.charge_nanodollars(Usage(input_uncached=300, output=30)) == 100 * 1000 + 200 * 2000 + 30 * 2000
    assert price.charge_nanodollars(Usage(output=30)) == 30 * 2000


def test_marginal_charges_are_rounded_once() -> None:
    """Of three tokens one costs a nano-dollar and two cost two; a part of two kinds loses no fraction on the way."""
    tokens = {"input": 0.000001, "input_tiers": [{"from": 1, "cost_per_token": 0.000000002}]}
    price = private_price({"per_1000_tokens": tokens, "tier_mode": "marginal"}).at(NOW)

    assert price is not None
    assert price.charge_nanodollars(Usage(input_uncached=2, cache_read=1)) == 5


def test_the_service_tier_that_served_is_what_is_charged() -> None:
    """Flex is half and priority double the standard price of gpt-5; an unknown tier costs what standard costs."""
    price = public("openai", "gpt-5", us("2026-11-01"))
    usage = Usage(input_uncached=1000, cache_read=1000, output=1000)

    charges = {
        tier: price.served_by(tier).charge_nanodollars(usage)
        for tier in (None, "default", "flex", "priority", "batch", "auto")
    }
    assert charges == {
        None: 11_375_000,
        "default": 11_375_000,
        "flex": 5_687_500,
        "priority": 22_750_000,
        "batch": 5_687_500,
        "auto": 11_375_000,
    }


def test_service_tiers_have_a_history_too() -> None:
    """Before the day the catalogue knows of, a tier costs what the standard one cost."""
    price = public("openai", "gpt-5", us("2026-10-11"))

    assert price.served_by("flex").charge_nanodollars(Usage(output=1)) == 10_000


def test_a_hold_assumes_only_what_the_request_can_reach() -> None:
    """A short prompt without cache marks is not held at the long-context or cache-write rate."""
    price = public("anthropic", "claude-sonnet-4-5")

    assert price.dearest_input_rate() == 12_000_000
    assert price.dearest_input_rate(200_000) == 6_000_000
    assert price.dearest_input_rate(200_000, {"input_uncached", "cache_read"}) == 3_000_000
    assert price.dearest_input_rate(200_001, {"input_uncached", "cache_read"}) == 6_000_000
    assert (price.dearest_output_rate(), price.dearest_output_rate(100)) == (22_500_000, 15_000_000)


@pytest.mark.parametrize(
    ("cost", "field"),
    [
        ({}, "per_1000_tokens"),
        ({"per_1000_token": {}}, "per_1000_token"),
        ({"per_1000_tokens": 3}, "per_1000_tokens"),
        ({"per_1000_tokens": {"inputs": 1}}, "per_1000_tokens.inputs"),
        ({"per_1000_tokens": {"input": -1}}, "per_1000_tokens.input"),
        ({"per_1000_tokens": {"input": True}}, "per_1000_tokens.input"),
        ({"per_1000_tokens": {"input": "cheap"}}, "per_1000_tokens.input"),
        ({"per_1000_tokens": {"input": float("nan")}}, "per_1000_tokens.input"),
        ({"per_1000_tokens": {"input": Decimal("1e-12")}}, "per_1000_tokens.input"),
        ({"per_1000_tokens": {"input": 1, "input_tiers": 3}}, "per_1000_tokens.input_tiers"),
        ({"per_1000_tokens": {"input": 1, "input_tiers": [{"from": 1}]}}, "per_1000_tokens.input_tiers[0]"),
        (
            {"per_1000_tokens": {"input": 1, "input_tiers": [{"from": 0, "cost_per_token": 1}]}},
            "per_1000_tokens.input_tiers[0].from",
        ),
        ({"per_1000_tokens": {"input_tiers": [{"from": 5, "cost_per_token": 1}]}}, "per_1000_tokens.input"),
        ({"per_1000_tokens": {"input": 1}, "per_1000_embedding_tokens": 1}, "per_1000_embedding_tokens"),
        ({"per_request": None}, "per_request"),
        ({"per_request": 1, "from": "soon"}, "from"),
        ({"per_request": 1, "tier_mode": "sideways"}, "tier_mode"),
        ({"per_gpu_hour": 2.5}, "per_gpu_hour"),
        ({"per_gpu_hour": {"gpus": 2}}, "per_gpu_hour"),
        ({"per_gpu_hour": {"rate": 2.5, "gpus": 0}}, "per_gpu_hour.gpus"),
        ({"per_gpu_hour": {"rate": -1}}, "per_gpu_hour.rate"),
        ({"per_image": -1}, "per_image"),
        ({"per_minute_of_audio": "long"}, "per_minute_of_audio"),
        ({"per_million_characters": None}, "per_million_characters"),
    ],
)
def test_a_private_price_that_is_unclear_is_refused_by_name(cost: dict[str, Any], field: str) -> None:
    """The field at fault is named, with what would be right."""
    with pytest.raises(PricingError) as caught:
        private_price(cost)

    assert caught.value.field == field
    assert caught.value.problem


def test_gpu_hours_are_charged_by_the_millisecond() -> None:
    """$3.60 an hour on four GPUs is 4,000 nano-dollars a millisecond; a hold assumes 60 tokens a second."""
    price = private_price({"per_gpu_hour": {"rate": Decimal("3.60"), "gpus": 4}}).at(NOW)

    assert price is not None
    assert price.counts_time
    assert not price.is_free
    assert price.charge_nanodollars(Usage(input_uncached=9, output=9, requests=1, served_ms=1_500)) == 1_500 * 4_000
    assert price.dearest_request_rate() == 1_000 * 4_000_000
    assert price.dearest_output_rate() == 17 * 4_000_000


@pytest.mark.parametrize(
    ("cost", "usage", "nanodollars"),
    [
        ({"per_minute_of_audio": "0.006"}, Usage(audio_ms=90_500), 9_050_000),  # 90.5 s × $0.006 ÷ 60 s
        ({"per_million_characters": 15}, Usage(characters=1_234), 18_510_000),  # 1,234 × $15 ÷ 1,000,000
        ({"per_image": "0.04", "per_request": "0.01"}, Usage(images=3, requests=1), 130_000_000),
    ],
)
def test_audio_characters_and_images_are_charged_by_their_units(
    cost: dict[str, Any], usage: Usage, nanodollars: int
) -> None:
    """A price per unit charges the units, to the nano-dollar, and nothing for tokens."""
    price = private_price(cost).at(NOW)

    assert price is not None
    assert price.charge_nanodollars(replace(usage, input_uncached=500, output=500)) == nanodollars
    assert price.units_picodollars(usage) // 1_000 in {nanodollars, nanodollars - 10_000_000}
    assert not price.bills({"output", "image_out"})


def test_public_prices_by_the_hour_and_by_characters_are_known() -> None:
    """Whisper costs $0.006 a minute, tts-1 $15 a million characters; a realtime product's hours are none of ours."""
    assert public("openai", "whisper-1").charge_nanodollars(Usage(audio_ms=60_000)) == 6_000_000
    assert public("openai", "tts-1").charge_nanodollars(Usage(characters=1_000)) == 15_000_000
    assert PriceBook().price("openai", "gpt-live-transcribe", NOW) is None


def test_a_price_of_other_units_does_not_make_a_chat_free() -> None:
    """An API that counts no audio cannot be charged by the minute: its model counts as unpriced."""
    whisper = public("openai", "whisper-1")

    assert not whisper.is_countable(())
    assert whisper.is_countable({"audio_ms"})
    assert public("openai", "gpt-4o").is_countable(())


def test_each_inference_of_an_answer_is_in_a_tier_by_itself() -> None:
    """Two inferences of 150,000 tokens are below a tier at 200,000, though their sum is not."""
    price = public("anthropic", "claude-sonnet-4-5")
    parts = [Usage(input_uncached=150_000, output=10), Usage(input_uncached=150_000, output=20)]
    whole = Usage(input_uncached=300_000, output=30, searches=1, requests=1)

    assert price.charge_nanodollars(whole, parts) == 300_000 * 3_000 + 30 * 15_000 + 10_000_000
    assert price.charge_nanodollars(whole) == 300_000 * 6_000 + 30 * 22_500 + 10_000_000


def test_only_a_place_with_a_surcharge_costs_more() -> None:
    """Tokens cost a tenth more in the US, a search does not; elsewhere, and where it is not said, nothing changes."""
    price = public("anthropic", "claude-sonnet-4-6")
    usage = Usage(input_uncached=100, cache_read=100, output=10, searches=1)

    assert price.served_in("us").charge_nanodollars(usage) == 100 * 3_300 + 100 * 330 + 10 * 16_500 + 10_000_000
    assert price.served_in("us").dearest_output_rate() == 16_500_000
    assert price.served_in("global") is price.served_in(None) is price


def test_a_version_names_one_price() -> None:
    """The same text gives the same version, another text another."""
    one, same, other = (private_price({"per_request": value}).at(NOW) for value in (1, 1, 2))

    assert one is not None
    assert same is not None
    assert other is not None
    assert one.version == same.version != other.version


def test_the_memory_of_looked_up_models_is_bounded() -> None:
    """Clients choose model names; ten thousand of them do not grow the book."""
    book = PriceBook()
    for index in range(5000):
        book.price("openai", f"model-{index}", NOW)

    assert len(book._known) <= 4096


def test_context_windows_come_from_the_catalogue() -> None:
    """Known where the catalogue says, None elsewhere."""
    assert BOOK.context_window("openai", "gpt-4o") == 128_000
    assert BOOK.context_window("openai", "gpt-nope") is None
