"""All errors of batches."""

from __future__ import annotations


class BatchError(Exception):
    """A batch that cannot be admitted: `place` is where in it, `problem` what is wrong there and would be right."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}")
        self.place = place
        self.problem = problem
