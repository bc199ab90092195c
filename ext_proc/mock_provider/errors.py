"""All errors of the mock provider."""

from __future__ import annotations


class MockRequestError(Exception):
    """A request the provider would refuse, or a `x-mock-*` header that makes no sense: answered with 400."""
