"""All errors of the dialects."""

from __future__ import annotations


class DialectError(Exception):
    """A request body that its dialect cannot accept: the client's fault, answered with 400.

    `field` is the JSON path at fault (`messages[0].content`, or `(body)`), `problem` says what is wrong and what would
    be right.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem
