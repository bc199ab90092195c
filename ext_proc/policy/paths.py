"""Paths in policies: each stands for itself and for what lies below it."""

from __future__ import annotations

from collections.abc import Iterable


def lies_below(path: str, allowed: Iterable[str]) -> bool:
    """Whether a path, without its query, is one of these or lies below one."""
    return any(path == one or path.startswith(one.rstrip("/") + "/") for one in allowed)
