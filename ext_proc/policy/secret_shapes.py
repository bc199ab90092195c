"""What credentials look like: for the warnings about policy files, and for what is taken out of logged contents."""

from __future__ import annotations

from typing import Final

SECRET_SHAPES: Final = (
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
"""(what people call it, RE2 pattern). Enough to know one by: not always the whole of it."""

_START: Final = r"(?:\b|\\+[bfnrt])"
"""A word begins; or it follows an escaped line end in a text that holds JSON."""

_ASSIGNED: Final = (
    r"(?i)[a-z0-9_-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key|authorization)[a-z0-9_-]*"
    r"\\*[\"']?\s*[:=]\s*\\*[\"']?[^\s\"',;\\]{6,}"
)
"""`API_KEY=…`, `password: …`, and the same in JSON within a text."""

WHOLE_SECRETS: Final = (
    _START + r"tg_[A-Za-z0-9._-]{20,}",  # a virtual key
    _START + r"sk[-_][A-Za-z0-9_-]{16,}",
    _START + r"AIza[A-Za-z0-9_-]{30,}",
    _START + r"(?:AKIA|ASIA)[A-Z0-9]{16}",
    _START + r"(?:ABSK|bedrock-api-key-)[A-Za-z0-9+/=_-]{20,}",
    _START + r"(?:gh[pousr]_|github_pat_|glpat-|hf_|gsk_|pplx-|xai-|npm_|pypi-|SG\.)[A-Za-z0-9._-]{16,}",
    _START + r"xox[abeoprs]-[A-Za-z0-9-]{10,}",
    r"hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
    _START + r"eyJ[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]*){0,4}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
    r"(?i)[a-z][a-z0-9+.-]*://[^/\s:@'\"]+:[^/\s@'\"]+@",
    r"(?i)\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}",
    _ASSIGNED,
)
"""The whole of what is to be taken out of a text. The last ones go by what stands before: a scheme, a name.

Each is known by its first 112 characters at most, so that one that is cut off further on is still found.
"""

GUARDED_NAME: Final = (
    r"(?i).*(?:password|passwd|secret|api[_-]?key|access[_-]?key|private[_-]?key|authorization|credential"
    r"|(?:access|refresh|id|auth|session|bearer)[_-]?token).*|token"
)
"""The name of a field whose text is a secret, whatever it looks like."""
