"""Money as text: exact, from integers only."""

from __future__ import annotations

NANODOLLARS_PER_DOLLAR = 1_000_000_000
_MIN_DECIMALS = 2
_DECIMALS = 9


def dollars(nanodollars: int) -> str:
    """`$501.23`, `$0.000000001`: every nano-dollar shown, at least two decimals."""
    sign = "-" if nanodollars < 0 else ""
    whole, fraction = divmod(abs(nanodollars), NANODOLLARS_PER_DOLLAR)
    decimals = f"{fraction:0{_DECIMALS}d}".rstrip("0").ljust(_MIN_DECIMALS, "0")
    return f"{sign}${whole}.{decimals}"
