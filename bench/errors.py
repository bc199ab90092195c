"""What stops a benchmark."""

from __future__ import annotations


class BenchError(Exception):
    """Said to the person, who can do something about it."""
