"""All errors of the identity package."""

from __future__ import annotations


class MetadataError(Exception):
    """A tag header that cannot be accepted: the client's fault, answered with 400. The text says what is wrong."""

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(problem)
        self.cure = cure


class ServerSecretError(Exception):
    """The server secret that keys are hashed with cannot be had; the text ends with the cure."""

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(f"{problem}; {cure}")


class RecordError(Exception):
    """A key, team or tenant that somebody wants to write and that cannot be meant: says what would be right."""


class RecordConflictError(Exception):
    """The record exists already, does not exist, or was changed by somebody else meanwhile; says which."""


class IdentityStoreError(Exception):
    """Redis did not answer, or the keys in it were made with another server secret."""
