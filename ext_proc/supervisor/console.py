"""What the person at the terminal sees: news on stderr, and on a terminal a table that is drawn over and over."""

from __future__ import annotations

import contextlib
from typing import TextIO

_UP_AND_CLEAR = "\x1b[{lines}A\x1b[J"  # ECMA-48: cursor up, erase to the end of the screen


class Console:
    """Lines for people go to `stream`. A table stays below them until it is replaced or taken away."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._table: list[str] = []

    def say(self, text: str) -> None:
        """One piece of news; it stays."""
        self.write(f"tollgate: {text}")

    def write(self, text: str) -> None:
        """A block of text as it is; it stays."""
        self._replace(f"{text}\n", self._table)

    def show(self, table: str) -> None:
        """Replace the table; '' takes it away."""
        self._replace("", table.splitlines())

    def _replace(self, news: str, table: list[str]) -> None:
        erased = _UP_AND_CLEAR.format(lines=len(self._table)) if self._table else ""
        self._table = table
        with contextlib.suppress(OSError):  # a terminal that was closed must not end the stack
            self._stream.write("".join([erased, news, *(f"{line}\n" for line in table)]))
            self._stream.flush()
