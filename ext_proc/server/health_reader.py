"""Target health as Redis holds it, read back by workers and the admin API.

| key | type | what it holds |
|---|---|---|
| `tg:{realm}:targets:<slice>` | hash | target and figure, by a unit separator → sum, of ten seconds of Redis time |
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, cast

from ext_proc.ledger import keys
from ext_proc.ledger.channel import RunCommand
from ext_proc.routing.health import KEPT_SECONDS, SLICE_SECONDS, Counts, Health

SEPARATOR: Final = "\x1f"
_FIGURES: Final = {
    "a": "attempts",
    "f": "failures",
    "t": "ttft_ms",
    "n": "ttft_samples",
    "u": "output_us",
    "o": "output_tokens",
}
CLASS: Final = "c"


def slice_key(number: int) -> str:
    """Of the n-th ten seconds of Redis time."""
    return f"{keys.prefix(keys.DEFAULT_REALM)}targets:{number}"


class HealthReader:
    """Follows the counts of all workers."""

    def __init__(self, run: RunCommand) -> None:
        self._run = run
        self._slices: dict[int, dict[str, Counts]] = {}

    async def read(self, now_us: int) -> Health:
        """The health as Redis knows it now. Past slices are read once more after they ended, and then kept."""
        now_s = now_us // 1_000_000
        current = now_s // SLICE_SECONDS
        oldest = current - KEPT_SECONDS // SLICE_SECONDS
        wanted = [
            number for number in range(oldest, current + 1) if number >= current - 1 or number not in self._slices
        ]
        answers = await asyncio.gather(*(self._run("HGETALL", slice_key(number)) for number in wanted))
        for number, answer in zip(wanted, answers, strict=True):
            self._slices[number] = _counts(cast("list[bytes]", answer))
        self._slices = {number: counts for number, counts in self._slices.items() if number >= oldest}
        return Health(dict(self._slices), now_s)


def _counts(answer: list[bytes]) -> dict[str, Counts]:
    """A hash as Redis answers it: field, value, field, value, …"""
    figures: dict[str, dict[str, int]] = {}
    for field, value in zip(answer[::2], answer[1::2], strict=True):
        target, _, figure = field.decode().rpartition(SEPARATOR)
        figures.setdefault(target, {})[figure] = int(value)
    return {target: _of(found) for target, found in figures.items()}


def _of(figures: Mapping[str, int]) -> Counts:
    named = {name: figures.get(code, 0) for code, name in _FIGURES.items()}
    classes = {
        int(code[len(CLASS) :]): count for code, count in figures.items() if code[:1] == CLASS and code[1:].isdigit()
    }
    return Counts(ttft_classes=classes, **named)
