"""Whether the content of a request is logged, and what is written: only where policy allows it and the request asks.

A wish that is not granted is no reason to refuse a request: it is served, and the answer says that nothing was logged.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from ext_proc.exchange.compact import compact
from ext_proc.exchange.events import RequestHead, ResponseHead
from ext_proc.exchange.redaction import BEYOND_BYTES, Redactor
from ext_proc.exchange.ticket import Ticket
from ext_proc.identity.caller import Caller
from ext_proc.identity.presented import CREDENTIAL_HEADERS
from ext_proc.policy.condition import holds
from ext_proc.policy.rules import attributes_of_caller
from ext_proc.policy.snapshot import ContentLogging

LOGGING_HEADER: Final = "x-tfy-logging-config"
LOGGING_TAG: Final = "tfy_log_request"

LOGGED: Final = "logged"
NOT_ALLOWED: Final = "not logged: no policy allows it for this caller"
UNREADABLE: Final = f'not logged: {LOGGING_HEADER} cannot be read, send {{"enabled": true}}'

_FORM: Final = "multipart/"
_EVENT_STREAM: Final = "text/event-stream"
_EVENTS_PER_TEXT: Final = 32
"""An event stream takes many times the bytes of its text: so much more of it is read."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What comes of a request's wish to be logged. `told`: the value of the answer's header; "" where nobody asked."""

    granted: bool
    told: str


NO_WISH: Final = Wish(granted=False, told="")


def wish_of(head: RequestHead, caller: Caller, logging: ContentLogging | None) -> Wish:
    """Whether this request is logged. The tag, which a key or a team may set, says it before the header does."""
    tag = caller.tags.get(LOGGING_TAG)
    asked = _asked(head.first.get(LOGGING_HEADER)) if tag is None else tag.strip().lower() == "true"
    if asked is None:
        return Wish(granted=False, told=UNREADABLE)
    if not asked:
        return NO_WISH
    if logging is None or not holds(logging.condition, attributes_of_caller(caller)):
        return Wish(granted=False, told=NOT_ALLOWED)
    return Wish(granted=True, told=LOGGED)


def _asked(text: str | None) -> bool | None:
    """What the header asks for; None where it cannot be read."""
    if not text:
        return False
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    enabled = document.get("enabled", False) if isinstance(document, dict) else None
    return enabled if isinstance(enabled, bool) else None


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request that is to be logged, as it came. `body` is the beginning of it that the log may need."""

    request_id: str
    head: RequestHead
    caller: Caller
    requested_model: str
    body: bytes
    whole: bool

    @classmethod
    def of(  # noqa: PLR0917  the parts of a record
        cls, request_id: str, head: RequestHead, caller: Caller, requested_model: str, body: bytes, max_bytes: int
    ) -> LoggedRequest:
        """Keep no more of the body than is needed."""
        window = max_bytes + BEYOND_BYTES
        return cls(request_id, head, caller, requested_model, body[:window], whole=len(body) <= window)

    def line(self, logging: ContentLogging, target: str, known: tuple[str, ...]) -> str:
        """Its line of JSON. `known`: secrets by heart, beside the credentials it came with."""
        redactor = Redactor(logging.redact, (*known, *self._credentials()))
        caller, head = self.caller, self.head
        who = {
            "user": caller.user,
            "team": caller.team,
            "virtual_account": caller.virtual_account,
            "tenant": caller.tenant,
            "key": caller.key_id,
        }
        content_type = head.first.get("content-type", "").partition(";")[0].strip().lower()
        if not content_type.startswith(_FORM):
            content_type = ""  # everything else was read as JSON, whatever it calls itself
        return compact(
            {
                "kind": "request",
                "request_id": self.request_id,
                "at_us": head.now_us,
                "caller": {name: None if value is None else redactor.text(value) for name, value in who.items()},
                "tags": {redactor.text(name): redactor.text(value) for name, value in caller.tags.items()},
                "path": redactor.text(head.path.partition("?")[0]),
                "requested_model": redactor.text(self.requested_model),
                "target": redactor.text(target),
                **_content(redactor, logging, self.body, content_type, whole=self.whole),
            }
        )

    def _credentials(self) -> tuple[str, ...]:
        values = (value for name, value in self.head.headers if name in CREDENTIAL_HEADERS)
        return tuple(word for value in values for word in value.replace(",", " ").split())


class AnswerCopy:
    """The beginning of an answer that is to be logged, as it passes."""

    __slots__ = ("_chunks", "_ended", "_head", "_logging", "_max_bytes", "_overflown", "_size", "_ticket")

    def __init__(self, ticket: Ticket, head: ResponseHead, logging: ContentLogging) -> None:
        self._ticket, self._head, self._logging = ticket, head, logging
        factor = _EVENTS_PER_TEXT if _type_of(head) == _EVENT_STREAM else 1
        self._max_bytes = factor * logging.max_body_bytes + BEYOND_BYTES
        self._chunks: list[bytes] = []
        self._size = 0
        self._overflown = False
        self._ended = not head.has_body

    def add(self, chunk: bytes, *, end: bool) -> None:
        """Keep as much of it as there is room for."""
        kept = chunk[: self._max_bytes - self._size]
        if kept:
            self._chunks.append(kept)
            self._size += len(kept)
        self._overflown |= len(kept) < len(chunk)
        self._ended |= end

    @property
    def logging(self) -> ContentLogging:
        """The policy it is logged under."""
        return self._logging

    @property
    def target(self) -> str:
        """The target that answers."""
        return self._ticket.target

    def line(self, now_us: int, known: tuple[str, ...]) -> str:
        """Its line of JSON, at the time it ended."""
        redactor = Redactor(self._logging.redact, known)
        whole = self._ended and not self._overflown
        return compact(
            {
                "kind": "answer",
                "request_id": self._ticket.logged_as,
                "at_us": now_us,
                "target": redactor.text(self._ticket.target),
                "status": self._head.status,
                "ended": self._ended,
                **_content(redactor, self._logging, b"".join(self._chunks), _type_of(self._head), whole=whole),
            }
        )


def _type_of(head: ResponseHead) -> str:
    """What the answer is written in: its compression, where it has one."""
    encoding = head.content_encoding.strip().lower()
    return head.content_type.partition(";")[0].strip().lower() if encoding in {"", "identity"} else encoding


def _content(
    redactor: Redactor, logging: ContentLogging, body: bytes, content_type: str, *, whole: bool
) -> dict[str, object]:
    """The body's part of a line. What is not text is named, not written."""
    if content_type == _EVENT_STREAM:
        found = redactor.events(body, logging.max_body_bytes, whole=whole)
    elif not content_type or content_type.endswith("json") or content_type.startswith("text/"):
        found = redactor.body(body, logging.max_body_bytes, whole=whole)
    else:
        return {"body": None, "not_text": redactor.text(content_type[:128])}
    return {"body": found.text, "whole": found.whole}
