"""Texts in policy files that look like credentials. A policy is read by many and kept in version control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ext_proc.policy.errors import PolicyError
from ext_proc.policy.patterns import compile_pattern
from ext_proc.policy.yaml_source import SourceFile

_SHAPES = tuple(
    (name, compile_pattern(pattern))
    for name, pattern in (
        ("an API key", r"\bsk-[A-Za-z0-9_-]{16,}"),
        ("a Google API key", r"\bAIza[A-Za-z0-9_-]{30,}"),
        ("an AWS access key", r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"),
        ("a GitHub token", r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})"),
        ("a Slack token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
        ("a Slack webhook", r"hooks\.slack\.com/services/[A-Za-z0-9/]{20,}"),
        ("a JSON web token", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\."),
        ("a private key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
        ("a URL with a password", r"\b[a-z][a-z0-9+.-]*://[^/\s:@'\"]+:[^/\s:@'\"{$]+@"),
    )
)


def secret_warnings(files: Sequence[SourceFile]) -> Iterator[PolicyError]:
    """One warning per line and kind; the text itself is never repeated."""
    for file in files:
        for number, line in enumerate(file.content.decode("utf-8", "replace").splitlines(), start=1):
            for name, shape in _SHAPES:
                if shape.search(line) is not None:
                    cure = "remove and revoke it, and name an environment variable or a mounted file"
                    yield PolicyError(file.name, number, "(file)", f"this line seems to hold {name}", cure)
