"""All errors of the policy package."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class PolicyError:
    """One thing wrong in a policy set: where it stands, what is wrong, what would be right.

    `field` is the path inside the document (`rules[2].when.subjects[0]`), or `(document)`, `(file)`, `(set)`.
    """

    file: str
    line: int
    field: str
    problem: str
    cure: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: {self.problem}, {self.cure}"


class PolicySetError(Exception):
    """A policy set that does not load, with every error found in it, in file and line order."""

    def __init__(self, errors: tuple[PolicyError, ...]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = errors
