"""All errors of the command line."""

from __future__ import annotations


class UsageError(Exception):
    """What was typed cannot be meant: one line on stderr, exit code 2."""


class CommandError(Exception):
    """A command could not do its work: one line on stderr, exit code 1."""
