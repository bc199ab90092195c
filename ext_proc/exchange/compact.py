"""Compact JSON text: of tickets, journal entries and chains."""

from __future__ import annotations

import json

import orjson


def compact(value: object) -> str:
    """JSON without a blank, characters as they are.

    The standard library writes the few values that orjson does not know: lone surrogates, integers beyond 64 bits.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
