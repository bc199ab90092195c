"""Regular expressions of policies: matched in linear time whatever the text, because callers choose the text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, cast

import re2  # type: ignore[import-untyped]  # google-re2 ships no type information

MAX_PATTERN_CHARS = 1_000
_MAX_PROGRAM_BYTES = 1 << 20


class Match(Protocol):
    """One place where a pattern matches."""

    def span(self) -> tuple[int, int]:
        """Where it begins and ends, in characters."""
        ...


class Pattern(Protocol):
    """A compiled pattern."""

    def search(self, text: str) -> object | None:
        """The first place where it matches; None where it nowhere does."""
        ...

    def finditer(self, text: str) -> Iterator[Match]:
        """Every place where it matches, one after the other."""
        ...

    def fullmatch(self, text: str) -> object | None:
        """The match of the whole text; None where there is none."""
        ...


def compile_pattern(pattern: str) -> Pattern:
    """A linear-time matcher. Raises ValueError on a pattern that RE2 does not accept."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_PROGRAM_BYTES
    try:
        return cast("Pattern", re2.compile(pattern, options))
    except re2.error as error:
        reason = error.args[0] if error.args else error
        raise ValueError(reason.decode() if isinstance(reason, bytes) else str(reason)) from error


def pattern_problem(pattern: str) -> tuple[str, str] | None:
    """Why a text is no pattern: (problem, cure)."""
    if len(pattern) > MAX_PATTERN_CHARS:
        return f"is {len(pattern)} characters long", f"write at most {MAX_PATTERN_CHARS}"
    try:
        compile_pattern(pattern)
    except ValueError as error:
        return f"is no pattern ({error})", "write RE2 syntax: no look-around, no back-references"
    return None
