"""What the person at the terminal sees: news on stderr, and on a terminal a table that is drawn over and over."""

from __future__ import annotations

from typing import TextIO

_UP_AND_CLEAR = "\x1b[{lines}A\x1b[J"  # ECMA-48: cursor up, erase to the end of the screen


class Console:
    """Lines for people go to `stream`. A table stays below them until it is replaced or taken away."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._table: list[str] = []

    def say(self, text: str) -> None:
        """One piece of news; it stays."""
        table = self._table
        self._erase()
        self._stream.write(f"tollgate: {text}\n")
        self._draw(table)

    def write(self, text: str) -> None:
        """A block of text as it is; it stays."""
        table = self._table
        self._erase()
        self._stream.write(f"{text}\n")
        self._draw(table)

    def show(self, table: str) -> None:
        """Replace the table; '' takes it away."""
        self._erase()
        self._draw(table.splitlines())

    def _erase(self) -> None:
        if self._table:
            self._stream.write(_UP_AND_CLEAR.format(lines=len(self._table)))
        self._table = []

    def _draw(self, table: list[str]) -> None:
        self._table = table
        for line in table:
            self._stream.write(f"{line}\n")
        self._stream.flush()
