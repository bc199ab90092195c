"""Texts in policy files that look like credentials. A policy is read by many and kept in version control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ext_proc.policy.errors import PolicyError
from ext_proc.policy.patterns import compile_pattern
from ext_proc.policy.secret_shapes import SECRET_SHAPES
from ext_proc.policy.yaml_source import SourceFile

_SHAPES = tuple((name, compile_pattern(pattern)) for name, pattern in SECRET_SHAPES)


def secret_warnings(files: Sequence[SourceFile]) -> Iterator[PolicyError]:
    """One warning per line and kind; the text itself is never repeated."""
    for file in files:
        for number, line in enumerate(file.content.decode("utf-8", "replace").splitlines(), start=1):
            for name, shape in _SHAPES:
                if shape.search(line) is not None:
                    cure = "remove and revoke it, and name an environment variable or a mounted file"
                    yield PolicyError(file.name, number, "(file)", f"this line seems to hold {name}", cure)
