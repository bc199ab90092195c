"""A price as the compact JSON value that travels in the ticket.

Most kinds of unit share a rate with another kind, so rates are grouped: `{"150000": "i t", "600000": "o"}`. A rate of
zero is left out, and so is a reasoning rate that is the output rate.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

from ext_proc.pricing.price import PRICES_REMEMBERED, Price, Tier
from ext_proc.pricing.usage import Rates

_CODES = {
    "input_uncached": "i",
    "cache_read": "r",
    "cache_read_audio": "ra",
    "cache_read_image": "ri",
    "cache_write_5m": "w",
    "cache_write_1h": "wh",
    "audio_in": "ai",
    "image_in": "ii",
    "video_in": "vi",
    "tool_prompt": "t",
    "output": "o",
    "reasoning": "or",
    "audio_out": "ao",
    "image_out": "io",
    "video_out": "vo",
    "searches": "s",
    "requests": "q",
    "served_ms": "m",
    "audio_ms": "am",
    "characters": "ch",
    "images": "im",
}
_NAMES = {code: name for name, code in _CODES.items()}


@lru_cache(maxsize=PRICES_REMEMBERED)
def encode_price(price: Price) -> list[object]:
    """[version, marginal, tiers, [[service tier, tiers], …]]; tiers are [[above input tokens, rates], …].

    Equal prices share one list: it is to be written, never changed.
    """
    service_tiers = [[name, _encode_tiers(tiers)] for name, tiers in price.service_tiers]
    return [price.version, int(price.marginal), _encode_tiers(price.tiers), service_tiers]


def decode_price(encoded: list[object]) -> Price:
    """Read `encode_price`'s form. Raises ValueError, TypeError or KeyError where it is not one."""
    return _decoded(orjson.dumps(encoded))


@lru_cache(maxsize=PRICES_REMEMBERED)
def _decoded(text: bytes) -> Price:
    """Few prices are in force at a time, and each comes in thousands of tickets: as text again, it can be looked up."""
    encoded: list[Any] = orjson.loads(text)
    version, marginal, tiers, service_tiers = encoded
    if not (isinstance(version, str) and isinstance(service_tiers, list)):
        raise TypeError("a price is [version, marginal, tiers, service tiers]")
    return Price(
        tiers=_decode_tiers(tiers),
        version=version,
        marginal=bool(marginal),
        service_tiers=tuple((name, _decode_tiers(own)) for name, own in service_tiers),
    )


def _encode_tiers(tiers: tuple[Tier, ...]) -> list[object]:
    return [[tier.above_input_tokens, _encode_rates(tier.rates)] for tier in tiers]


def _encode_rates(rates: Rates) -> dict[str, str]:
    grouped: dict[int, list[str]] = {}
    for name, code in _CODES.items():
        rate = getattr(rates, name)
        if rate or (name == "reasoning" and rate is not None):
            grouped.setdefault(rate, []).append(code)
    return {str(rate): " ".join(codes) for rate, codes in grouped.items()}


def _decode_tiers(encoded: object) -> tuple[Tier, ...]:
    if not isinstance(encoded, list):
        raise TypeError("tiers are a list")
    return tuple(Tier(above, _decode_rates(rates)) for above, rates in encoded)


def _decode_rates(grouped: dict[str, str]) -> Rates:
    return Rates(**{_NAMES[code]: int(rate) for rate, codes in grouped.items() for code in codes.split()})
