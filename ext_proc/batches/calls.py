"""The calls of the batch APIs that are understood: OpenAI's files and batches, Anthropic's message batches.

Every other path of a batch API (`dialects.batch`) can be neither held nor charged. Paths are taken as they are written:
one with an escape in it is none of these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ext_proc.dialects import registry


class Api(StrEnum):
    """Whose batches these are."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Step(StrEnum):
    """What a call does in the life of a batch."""

    UPLOAD = "upload"  # a file of requests comes in
    CREATE = "create"  # a batch begins: its hold is asked for
    STATUS = "status"  # the answer is the batch as it stands now
    RESULTS = "results"  # the answer is one line for each request that is done
    LOOK = "look"  # the answer says nothing of what the batch costs


ACCOUNTS: Final = {Api.OPENAI: "openai-main", Api.ANTHROPIC: "anthropic-main"}
"""The provider account whose batches a call is about: the one that the paths lead to."""

_ID = r"(?P<id>[A-Za-z0-9_-]{1,128})"
_FILE, _BATCH = "file", "batch"
_CALLS: Final = tuple(
    (method, re.compile(pattern), api, step, kind)
    for method, pattern, api, step, kind in (
        ("POST", r"/v1/files", Api.OPENAI, Step.UPLOAD, _FILE),
        ("GET", rf"/v1/files/{_ID}/content", Api.OPENAI, Step.RESULTS, _FILE),
        ("GET", rf"/v1/files/{_ID}", Api.OPENAI, Step.LOOK, _FILE),
        ("DELETE", rf"/v1/files/{_ID}", Api.OPENAI, Step.LOOK, _FILE),
        ("POST", r"/v1/batches", Api.OPENAI, Step.CREATE, _BATCH),
        ("GET", rf"/v1/batches/{_ID}", Api.OPENAI, Step.STATUS, _BATCH),
        ("POST", rf"/v1/batches/{_ID}/cancel", Api.OPENAI, Step.STATUS, _BATCH),
        ("POST", r"/v1/messages/batches", Api.ANTHROPIC, Step.CREATE, _BATCH),
        ("GET", rf"/v1/messages/batches/{_ID}", Api.ANTHROPIC, Step.STATUS, _BATCH),
        ("POST", rf"/v1/messages/batches/{_ID}/cancel", Api.ANTHROPIC, Step.STATUS, _BATCH),
        ("GET", rf"/v1/messages/batches/{_ID}/results", Api.ANTHROPIC, Step.RESULTS, _BATCH),
        ("DELETE", rf"/v1/messages/batches/{_ID}", Api.ANTHROPIC, Step.LOOK, _BATCH),
    )
)


@dataclass(frozen=True, slots=True)
class BatchCall:
    """One understood call. `id` names the batch or the file, '' where one is made; `path` is the provider's."""

    api: Api
    step: Step
    kind: str
    id: str
    path: str

    @property
    def account(self) -> str:
        """The provider account."""
        return ACCOUNTS[self.api]

    @property
    def key(self) -> tuple[str, str, str]:
        """Under which what is known of its batch or file is remembered."""
        return self.account, self.kind, self.id


def file_key(account: str, file_id: str) -> tuple[str, str, str]:
    """Under which what is known of a file is remembered."""
    return account, _FILE, file_id


def batch_key(account: str, batch_id: str) -> tuple[str, str, str]:
    """Under which what is known of a batch is remembered."""
    return account, _BATCH, batch_id


def read_call(method: str, path: str) -> BatchCall | None:
    """The call that a request makes, None where it is none of these. `path` is Envoy's `:path`."""
    if "/batches" not in path and "/files" not in path:
        return None  # every other request: it is not to pay for this
    plain, _, query = path.partition("?")
    plain = registry.without_base(plain)
    for asked, pattern, api, step, kind in _CALLS:
        match = pattern.fullmatch(plain) if asked == method else None
        if match is not None:
            named = match.groupdict().get("id") or ""
            return BatchCall(api, step, kind, named, f"{plain}?{query}" if query else plain)
    return None
