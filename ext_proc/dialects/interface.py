"""What a dialect is: one provider API shape, as the rest of Tollgate sees it.

A dialect is pure: it reads a request, bounds what it may cost in tokens, rewrites it, reads usage from the response
under any chunking, and shapes errors the way its callers' SDKs expect. It knows nothing of prices, rules or Envoy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ext_proc.dialects.usage_paths import UsageTable
from ext_proc.pricing.price import INPUT_KINDS
from ext_proc.pricing.usage import NO_USAGE, Usage
from ext_proc.refusal import Refusal


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What admission needs to know of a request body.

    `prompt_bytes` counts the UTF-8 bytes of all inline text the model will read (system, messages, tool definitions);
    a byte-level BPE never yields more tokens than that. `overhead_tokens` bounds what the provider adds per message and
    tool. `external_inputs` counts content that is not in the body (image and file URLs or ids, stored prompts,
    `previous_response_id`), whose tokens no byte count bounds; inline media (base64) count here too.
    Where the answer is not text, `output_limit` is what it will probably take, `estimated` says so, and it cannot be
    shortened.
    """

    model: str
    stream: bool
    output_limit: int | None  # tokens; the one the provider honours, the larger where several are set
    choices: int  # `n`: how many times the output limit may be spent
    prompt_bytes: int
    overhead_tokens: int
    external_inputs: int
    wants_usage: bool  # whether the client itself asked for usage in the stream
    document: Mapping[str, object]  # the body, parsed once; what `rewrite` re-serialises
    service_tier: str | None = None  # as asked for; the response says which one served
    input_kinds: frozenset[str] = INPUT_KINDS  # the rates its input can be billed at: what a hold must assume
    geo: str | None = None  # where it asks to be served, where that has a price
    units: Usage = NO_USAGE  # what the request itself tells of what it is billed by besides tokens
    estimated: frozenset[str] = frozenset()  # kinds of usage that nothing in the request or at the provider bounds


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Changes to a request before it is forwarded. None leaves a thing as the client wrote it.

    `output_limit` is per choice, as in `RequestFacts`.
    """

    model: str | None = None
    output_limit: int | None = None
    include_usage: bool = False  # ask the provider for usage in the stream, keeping the client's other options
    provider: str = ""  # of the account that serves: compatible servers differ in the fields they know


@dataclass(frozen=True, slots=True)
class Part:
    """One inference of an answer that took several. `model`: the one it ran on, None where it is not named."""

    usage: Usage
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a meter knows of a response so far.

    `usage` is the last cumulative usage the provider reported, None when it reported none. `output_known` says that its
    output count is the provider's (not Anthropic's placeholder, not absent). `output_bytes` are the bytes of generated
    text that passed: what a cut stream is estimated from. `finished` says the dialect's own terminal event was seen
    (or the whole JSON body). `served_model`, `service_tier` and `geo` are as reported by the response. `parts` are the
    inferences of an answer that took several, which `usage` sums up.
    """

    usage: Usage | None = None
    output_known: bool = False
    output_bytes: int = 0
    finished: bool = False
    served_model: str | None = None
    service_tier: str | None = None
    geo: str | None = None
    parts: tuple[Part, ...] = ()

    @property
    def other_models(self) -> tuple[str, ...]:
        """The models of parts that the one which answered is not: their tokens have no price of their own."""
        named = (part.model for part in self.parts if part.model is not None)
        return tuple(dict.fromkeys(name for name in named if name != self.served_model))


class Meter(Protocol):
    """Reads one response body, fed in any chunking. Bounded memory; never raises on what a provider sends."""

    def feed(self, chunk: bytes, *, end: bool) -> bytes:
        """Take the next bytes; return what the client is to see. The same object when nothing is to change."""
        ...

    def reading(self) -> Reading:
        """What is known so far; final after `end`."""
        ...


class EndingMeter(Meter, Protocol):
    """A meter that can end the stream it reads. The client is given whole events only."""

    @property
    def is_between_events(self) -> bool:
        """Whether the stream can be ended here."""
        ...

    def ending(self, *, choices: int, input_tokens: int, output_tokens: int) -> bytes | None:
        """The events that end the stream here, as if it had reached its output limit; None where it is about to end by
        itself.
        """
        ...


class Dialect(Protocol):
    """One provider API shape."""

    @property
    def name(self) -> str:
        """`openai-chat`, `anthropic-messages`, …: what the ticket and the journal carry."""
        ...

    @property
    def operation(self) -> str:
        """The OpenTelemetry `gen_ai.operation.name`: `chat`, `embeddings`, …"""
        ...

    @property
    def default_account(self) -> str:
        """The provider account that serves a model named without one: `openai-main`, `anthropic-main`."""
        ...

    @property
    def is_native(self) -> bool:
        """Whether Envoy's own parsers can read what its answers report."""
        ...

    @property
    def usage_table(self) -> UsageTable:
        """Which JSON path of a response feeds which count: Envoy's native filters are generated from it."""
        ...

    @property
    def units(self) -> frozenset[str]:
        """The units that it counts besides tokens (`UNITS` of pricing.usage)."""
        ...

    @property
    def input_kind(self) -> str:
        """The kind of usage that its input is where it has to be estimated: `input_uncached`, `audio_in`."""
        ...

    @property
    def output_kind(self) -> str:
        """The kind of usage that its output is where it has to be estimated: `output`, `image_out`, `audio_out`."""
        ...

    def read_request(self, body: bytes, *, path: str = "", content_type: str | None = None) -> RequestFacts:
        """Parse a request body. Raises `DialectError` naming the field and the cure.

        `path` is the endpoint's upstream path: some APIs name the model there. `content_type` is the header, for
        bodies that are forms; None: the body has been read before, and is known to be what its header says.
        """
        ...

    def read_document(self, document: dict[str, object], body: bytes, *, path: str = "") -> RequestFacts:
        """The same of a body that is parsed already, strictly; `body` is the text it stands in."""
        ...

    def rewrite(self, facts: RequestFacts, rewrite: Rewrite) -> bytes | None:
        """The body with the changes applied, everything else preserved; None when nothing changes."""
        ...

    def path_for(self, path: str, model: str) -> str:
        """The upstream path with the model that is to serve, for APIs that name it there; else the path as it is."""
        ...

    def meter(self, *, content_type: str, content_encoding: str, hide_usage: bool) -> Meter:
        """A meter for one response. `hide_usage`: keep from the client the usage chunk that only we asked for."""
        ...

    @property
    def can_end_streams(self) -> bool:
        """Whether its streams can be ended before they are over."""
        ...

    def ending_meter(self, *, content_type: str, content_encoding: str, hide_usage: bool) -> EndingMeter | None:
        """A meter that can end the response it reads; None where that is no stream of events."""
        ...

    def usage_from_counts(self, counts: Mapping[str, int]) -> Usage:
        """The normal form of the counts `usage_table` names, whoever read them."""
        ...

    def native_answer_bytes(self, facts: RequestFacts, output_limit: int) -> int | None:
        """How large an answer to this request may be, for Envoy's own parsers to read; None: it is not theirs to read.

        `output_limit` in tokens, all choices together.
        """
        ...

    def native_reading(self, reported: Mapping[str, object]) -> Reading:
        """What Envoy's own parsers found: the value at each path of `usage_table`, by the path's `native_key`."""
        ...

    def error_body(self, refusal: Refusal) -> dict[str, object]:
        """The refusal in this dialect's own error shape, plus detail, context and mitigation."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A request path that is understood: which dialect speaks there, and the path the provider wants."""

    dialect: Dialect
    upstream_path: str  # below the account's endpoint, e.g. `/v1/chat/completions`; query string kept
