"""All errors of the identity package."""

from __future__ import annotations


class MetadataError(Exception):
    """A tag header that cannot be accepted: the client's fault, answered with 400. The text says what is wrong."""

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(problem)
        self.cure = cure
