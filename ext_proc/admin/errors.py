"""All errors of the admin API."""

from __future__ import annotations


class ParameterError(Exception):
    """A query parameter that cannot be meant; says what would be right. Answered with 400."""
