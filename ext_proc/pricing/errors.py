"""All errors of pricing."""

from __future__ import annotations


class PricingError(Exception):
    """A private price that cannot be understood: the policy author's mistake, found when the policy is loaded.

    `field` is the path below `cost` (`per_1000_tokens.input`), `problem` says what is wrong and what would be right.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class CatalogueError(Exception):
    """A catalogue file that cannot be taken; the text names the file, what is wrong and the cure."""
