"""What is known of the requests of a batch once they have passed: figures alone, never their content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, Self

from ext_proc.batches.errors import BatchError
from ext_proc.dialects import jsonbody, registry
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import Dialect, RequestFacts
from ext_proc.pricing.price import INPUT_KINDS

BATCH_BYTES_MAX: Final = 16 << 20
"""Of the requests of one batch: reading them must fit into the time that Envoy gives an admission."""

REQUESTS_MAX: Final = 10_000
"""Of one batch, for the same reason: providers take more, in several batches."""

_MESSAGES: Final = "/v1/messages"
_OPENAI: Final = frozenset({"openai-chat", "openai-responses", "openai-completions", "openai-embeddings"})
_FIELDS: Final = frozenset({"custom_id", "method", "url", "body"})


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a batch, read. `place` is where it stands, for errors; `size_bytes` is its body's."""

    place: str
    dialect: Dialect
    path: str
    facts: RequestFacts
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The requests of a batch together: all are for one model, at one endpoint.

    `limited_output` sums the output limits of those that name one, `unlimited_choices` counts the answers of those that
    do not. The `largest_…` are the maxima over single requests: which price tier one can reach.
    """

    dialect: str
    path: str
    model: str
    requests: int = 0
    prompt_bytes: int = 0
    overhead_tokens: int = 0
    external_inputs: int = 0
    limited_output: int = 0
    unlimited_choices: int = 0
    largest_prompt_bytes: int = 0
    largest_overhead_tokens: int = 0
    largest_external_inputs: int = 0
    geo: str | None = None
    input_kinds: tuple[str, ...] = field(default=())

    def with_request(self, request: Request) -> Summary:
        """Another request counted in. Raises BatchError where it is for another model, place or endpoint."""
        facts = request.facts
        geo = facts.geo if self.requests == 0 else self.geo
        for name, theirs, ours in (
            ("model", facts.model, self.model),
            ("url", request.path, self.path),
            ("inference_geo", facts.geo, geo),
        ):
            if theirs != ours:
                raise BatchError(
                    f"{request.place}.{name}",
                    f"is {theirs!r} where the first request has {ours!r}; send a batch for each",
                )
        limit = facts.output_limit
        return Summary(
            dialect=self.dialect,
            path=self.path,
            model=self.model,
            requests=self.requests + 1,
            prompt_bytes=self.prompt_bytes + facts.prompt_bytes,
            overhead_tokens=self.overhead_tokens + facts.overhead_tokens,
            external_inputs=self.external_inputs + facts.external_inputs,
            limited_output=self.limited_output + (0 if limit is None else limit * facts.choices),
            unlimited_choices=self.unlimited_choices + (facts.choices if limit is None else 0),
            largest_prompt_bytes=max(self.largest_prompt_bytes, facts.prompt_bytes),
            largest_overhead_tokens=max(self.largest_overhead_tokens, facts.overhead_tokens),
            largest_external_inputs=max(self.largest_external_inputs, facts.external_inputs),
            geo=geo,
            input_kinds=tuple(sorted({*self.input_kinds, *facts.input_kinds})),
        )

    def facts(self, default_output_tokens: int) -> RequestFacts:
        """The whole batch as one request: its tokens are those of its requests together."""
        return RequestFacts(
            model=self.model,
            stream=False,
            output_limit=self.limited_output + self.unlimited_choices * default_output_tokens,
            choices=1,
            prompt_bytes=self.prompt_bytes,
            overhead_tokens=self.overhead_tokens,
            external_inputs=self.external_inputs,
            wants_usage=True,
            document={},
            input_kinds=frozenset(self.input_kinds) or INPUT_KINDS,
            geo=self.geo,
        )

    def as_json(self) -> dict[str, object]:
        """A form that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> Self:
        """Read `as_json`'s form. Raises TypeError where it is not one."""
        kinds = fields.get("input_kinds")
        return cls(**{**fields, "input_kinds": tuple(kinds) if isinstance(kinds, list) else ()})  # type: ignore[arg-type]  # written by as_json


def summed(requests: Iterator[Request]) -> Summary:
    """The summary of all. Raises BatchError; an empty batch is one."""
    summary: Summary | None = None
    for request in requests:
        if summary is None:
            summary = Summary(request.dialect.name, request.path, request.facts.model)
        summary = summary.with_request(request)
        if summary.requests > REQUESTS_MAX:
            raise BatchError("(batch)", f"holds more than {REQUESTS_MAX:,} requests; split it")
    if summary is None:
        raise BatchError("(batch)", "holds no request; send at least one")
    return summary


def requests_of_file(content: bytes) -> Iterator[Request]:
    """The requests of an OpenAI batch file: one JSON object a line. Raises BatchError naming the line."""
    _refuse_large(len(content))
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        document = _read(place, line)
        if unknown := sorted(document.keys() - _FIELDS):
            raise BatchError(f"{place}.{unknown[0]}", "is not known; a line has custom_id, method, url and body")
        method, url, body = document.get("method"), document.get("url"), document.get("body")
        if method != "POST" or not isinstance(url, str) or not isinstance(body, dict):
            raise BatchError(place, 'is no batch request; write {"custom_id", "method": "POST", "url", "body"}')
        endpoint = registry.resolve("POST", url)
        if endpoint is None or endpoint.upstream_path != url or endpoint.dialect.name not in _OPENAI:
            raise BatchError(f"{place}.url", f"is {url[:100]!r}, which cannot be metered; use /v1/chat/completions")
        yield _request(f"{place}.body", endpoint.dialect, url, body, line)


def requests_inline(document: Mapping[str, object]) -> Iterator[Request]:
    """The requests of an Anthropic message batch. Raises BatchError naming the request."""
    speaker = registry.dialect("anthropic-messages")
    try:
        listed = jsonbody.required_items(document, "requests")
    except DialectError as error:
        raise BatchError(error.field, error.problem) from None
    for index, entry in enumerate(listed):
        params = entry.get("params") if isinstance(entry, dict) else None
        place = f"requests[{index}].params"
        if not isinstance(params, dict):
            raise BatchError(place, "is missing; it holds what a single message request would")
        yield _request(place, speaker, _MESSAGES, params, jsonbody.dump(params))


def read_inline(body: bytes) -> jsonbody.Document:
    """The body that creates a batch. Raises BatchError."""
    _refuse_large(len(body))
    return _read("(body)", body)


def _refuse_large(size_bytes: int) -> None:
    if size_bytes > BATCH_BYTES_MAX:
        raise BatchError("(batch)", f"has {size_bytes:,} bytes; split it into batches of at most {BATCH_BYTES_MAX:,}")


def _read(place: str, text: bytes) -> jsonbody.Document:
    try:
        return jsonbody.parse(text)
    except DialectError as error:
        raise BatchError(place, f"{error.field}: {error.problem}") from None


def _request(place: str, speaker: Dialect, path: str, document: jsonbody.Document, text: bytes) -> Request:
    try:
        facts = speaker.read_document(document, text, path=path)
    except DialectError as error:
        raise BatchError(f"{place}.{error.field}", error.problem) from None
    return Request(place, speaker, path, facts, len(text))
