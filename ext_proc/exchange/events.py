"""What happens to a request, as values: the inputs of the admission and settlement machines.

Times are Redis time in microseconds and ids come in as values: the machines know no clock and no dice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ext_proc.ledger.interface import ExtendReply, HoldReply


@dataclass(frozen=True)
class RequestHead:
    """The request line and headers. Names are lower case; repeated headers are repeated pairs, in order."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    now_us: int
    has_body: bool = True
    claims: Mapping[str, object] | None = None  # of a token that Envoy has verified

    @cached_property
    def first(self) -> dict[str, str]:
        """Each header's first value."""
        return dict(reversed(self.headers))


@dataclass(frozen=True, slots=True)
class RequestBody:
    """The whole body, buffered by Envoy."""

    body: bytes
    now_us: int


@dataclass(frozen=True, slots=True)
class ScoreAnswered:
    """The scorer was asked. `score` None: it gave none in time."""

    score: float | None


@dataclass(frozen=True, slots=True)
class Recalled:
    """What is remembered of a file or a batch: None where nothing is. `failed`: the store did not answer."""

    text: str | None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class HoldAnswered:
    """The ledger's answer to the hold."""

    reply: HoldReply


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """Envoy closed the stream to us: the client left, the upstream failed, or Envoy needs no more of us."""

    now_us: int


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The upstream's status and the headers that decide how its body is read."""

    status: int
    content_type: str
    content_encoding: str
    now_us: int
    has_body: bool = True


@dataclass(frozen=True, slots=True)
class ResponseChunk:
    """A piece of the response body; `end` on the last one (which may be empty)."""

    body: bytes
    end: bool
    now_us: int


@dataclass(frozen=True, slots=True)
class ExtendAnswered:
    """The ledger's answer to an extension. `rules`: those that were asked, filled in, for people."""

    reply: ExtendReply
    rules: tuple[str, ...]
    now_us: int


@dataclass(frozen=True, slots=True)
class EndRecord:
    """Envoy's access log record of the end of a request: the universal end of every one.

    `sent_upstream`: the whole request reached the provider. `answered`: at least one byte came back from it.
    `client_gone` and `timed_out`: the response flags say that the client left, or that a time limit of ours struck.
    `upstream_failed`: the connection to the provider could not be made or was lost. `status` is what the client got: an
    answer that was cut before Envoy passed its head on becomes Envoy's own 502. `upstream_body_bytes` came from the
    provider, whoever got them. Durations are in microseconds. `reported` is what Envoy's own parsers read in the
    answer, by the paths of the dialects' usage tables. `encoded`: the answer came compressed, which they do not read.
    """

    status: int
    sent_upstream: bool
    answered: bool
    client_gone: bool
    timed_out: bool
    upstream_failed: bool
    upstream_body_bytes: int
    duration_us: int
    first_byte_us: int | None
    reported: Mapping[str, object] = field(default_factory=dict)
    encoded: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether it ended before it was over."""
        return self.client_gone or self.timed_out or self.upstream_failed


AdmissionEvent = RequestHead | RequestBody | Recalled | ScoreAnswered | HoldAnswered | StreamEnded
SettlementEvent = ResponseHead | ResponseChunk | ExtendAnswered | StreamEnded | EndRecord
