"""Hold ids: ours, unguessable, and carrying their mint time.

`<mint time in ms, 12 hex digits><16 random hex digits>.<attempt>`. Never the client's `x-request-id`: clients choose
it. The mint time is Redis time as the worker last knew it, so that a sidecar's clock never makes an id `too_old`.
"""

from __future__ import annotations

_TIME_DIGITS = 12
_RANDOM_BYTES = 8


def mint(now_us: int, randomness: bytes, attempt: int = 1) -> str:
    """A new hold id. `randomness` is 8 bytes from the caller: this module knows no clock and no dice."""
    assert len(randomness) == _RANDOM_BYTES, "a hold id takes 8 random bytes"
    return f"{now_us // 1000:0{_TIME_DIGITS}x}{randomness.hex()}.{attempt}"


def minted_us(hold_id: str) -> int:
    """The mint time of an id, microseconds. Raises ValueError for an id that is not ours."""
    return int(hold_id[:_TIME_DIGITS], 16) * 1000


def minted_or_zero_us(hold_id: str) -> int:
    """The mint time of an id; what is not an id of ours counts as older than everything."""
    try:
        return minted_us(hold_id)
    except ValueError:
        return 0


def of_attempt(hold_id: str, number: int) -> str:
    """The id of another attempt of the same request."""
    request, _, _ = hold_id.rpartition(".")
    return f"{request}.{number}"
