"""Provider credentials: from the environment or mounted files, in the form each provider wants.

They are put on a request for the provider only; nothing here is logged, and no value is kept in metadata or policy.
"""

from __future__ import annotations

import os
from pathlib import Path

from ext_proc.policy.snapshot import ProviderAccount

_HEADER_BY_PROVIDER = {"anthropic": "x-api-key", "gemini": "x-goog-api-key", "azure-openai": "api-key"}
"""Everyone else takes `authorization: Bearer`."""


class Credentials:
    """Looks credentials up. A file is read again when its modification time changes."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, str]] = {}

    def headers(self, account: ProviderAccount) -> tuple[tuple[str, str], ...]:
        """The header that authenticates us to the provider; none where the account has no credential."""
        secret = self._secret(account)
        if not secret:
            return ()
        name = _HEADER_BY_PROVIDER.get(account.provider)
        return ((name, secret),) if name else (("authorization", f"Bearer {secret}"),)

    def _secret(self, account: ProviderAccount) -> str:
        if account.credential_env is not None:
            return os.environ.get(account.credential_env, "")
        if account.credential_file is not None:
            return self._from_file(account.credential_file)
        return ""

    def _from_file(self, path: str) -> str:
        try:
            modified_ns = Path(path).stat().st_mtime_ns
            known = self._files.get(path)
            if known is None or known[0] != modified_ns:
                known = self._files[path] = (modified_ns, Path(path).read_text("utf-8").strip())
        except OSError:
            return self._files.get(path, (0, ""))[1]  # a rotation swaps files: keep the last good one meanwhile
        return known[1]
