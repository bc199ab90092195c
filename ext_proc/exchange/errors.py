"""All errors of the exchange."""

from __future__ import annotations


class IllegalTransitionError(Exception):
    """An event that its machine's table does not allow in its state. Nothing changed."""

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(f"{machine}: {event} is not allowed in state {state}")


class UnboundedError(Exception):
    """Strict admission met content that no bound covers."""
