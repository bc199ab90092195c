"""What a client may ask for in `x-tfy-*` headers about how its request is routed: within what the policies grant."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from ext_proc.exchange import request_refusals as refused
from ext_proc.exchange.events import RequestHead
from ext_proc.refusal import Refusal, RefusalType

PROVIDER_HEADER: Final = "x-tfy-provider-name"
RETRY_HEADER: Final = "x-tfy-retry-config"
REQUEST_TIMEOUT_HEADER: Final = "x-tfy-request-timeout"
TTFT_TIMEOUT_HEADER: Final = "x-tfy-ttft-timeout-ms"

TIMEOUT_MAX_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Controls:
    """None: the client asks for nothing of the kind. Times are in milliseconds."""

    provider: str | None = None  # the account that is to serve
    retries: int | None = None  # of one target, at most; never more than its rule grants
    request_ms: int | None = None
    first_byte_ms: int | None = None


class _ControlError(Exception):
    def __init__(self, header: str, cure: str) -> None:
        super().__init__(header)
        self.header, self.cure = header, cure


def read_controls(head: RequestHead) -> Controls | Refusal:
    """The controls of a request. What cannot be read is refused: a limit that is silently ignored is none."""
    first = head.first
    try:
        return Controls(
            provider=first.get(PROVIDER_HEADER) or None,
            retries=_retries(first.get(RETRY_HEADER)),
            request_ms=_milliseconds(first, REQUEST_TIMEOUT_HEADER),
            first_byte_ms=_milliseconds(first, TTFT_TIMEOUT_HEADER),
        )
    except _ControlError as error:
        message = f"The header {error.header} cannot be read."
        return refused.invalid(RefusalType.INVALID_REQUEST, message, error.cure)


def _milliseconds(headers: dict[str, str], name: str) -> int | None:
    text = headers.get(name)
    if not text:
        return None
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(TIMEOUT_MAX_MS))
    if not digits or not 1 <= int(text) <= TIMEOUT_MAX_MS:
        raise _ControlError(name, f"Send milliseconds from 1 to {TIMEOUT_MAX_MS}, for example {name}: 30000.")
    return int(text)


def _retries(text: str | None) -> int | None:
    if not text:
        return None
    cure = f'Send a JSON object with the number of retries, for example {RETRY_HEADER}: {{"attempts": 1}}.'
    try:
        document = json.loads(text)
    except ValueError:
        raise _ControlError(RETRY_HEADER, cure) from None
    attempts = document.get("attempts") if isinstance(document, dict) else None
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 0:
        raise _ControlError(RETRY_HEADER, cure)
    return attempts
