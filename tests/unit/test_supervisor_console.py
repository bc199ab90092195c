"""News and table on one terminal."""

from __future__ import annotations

import io

from ext_proc.supervisor.console import Console


def screen(written: str) -> list[str]:
    """The lines a terminal would show: `ESC[nA` goes up, `ESC[J` erases below."""
    lines = [""]
    for part in written.split("\x1b["):
        text = part.removeprefix("J")
        if part and part[0].isdigit():
            up, _, text = part.partition("A")
            del lines[len(lines) - 1 - int(up) :]
            lines.append("")
        first, *more = text.split("\n")
        lines[-1] += first
        lines.extend(more)
    return lines[:-1]


def test_a_table_is_replaced_and_news_stand_above_it() -> None:
    """However often the table is drawn, the terminal shows all news and the last table below them."""
    stream = io.StringIO()
    console = Console(stream)
    console.say("one")
    console.show("a\nb\nc\n")
    console.say("two")
    console.show("d\n")
    console.write("three\nfour")
    assert screen(stream.getvalue()) == ["tollgate: one", "tollgate: two", "three", "four", "d"]
    console.show("")
    assert screen(stream.getvalue()) == ["tollgate: one", "tollgate: two", "three", "four"]


def test_a_closed_terminal_is_no_error() -> None:
    """The stack serves on when the terminal it was started from is gone."""

    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(5, "Input/output error")

    Console(Closed()).say("one")
    Console(Closed()).show("a\n")


def test_without_a_table_only_the_lines_are_written() -> None:
    """Where stderr is a file it holds no control sequences."""
    stream = io.StringIO()
    Console(stream).say("one")
    Console(stream).show("")
    assert stream.getvalue() == "tollgate: one\n"
