"""What most dialects share. A new one declares its data and reads its request; the rest is here.

The order of a dialect's module: the table of usage paths, the normal form, the response shape, the request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import quote, unquote

from ext_proc.dialects import error_body, jsonbody
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import EndingMeter, Meter, Reading, RequestFacts, Rewrite
from ext_proc.dialects.meter import make_ending_meter, make_meter
from ext_proc.dialects.tally import ResponseShape, Tally
from ext_proc.dialects.usage_paths import UsageTable, native_document
from ext_proc.pricing.price import INPUT_KINDS
from ext_proc.pricing.usage import Usage
from ext_proc.refusal import Refusal

_BYTES_PER_OUTPUT_TOKEN = 64
"""Of JSON, escapes included: the longest tokens of public vocabularies are runs of blanks."""

_BYTES_PER_PROMPT_BYTE = 3
"""Of JSON: some APIs repeat the prompt in the answer, escaped where the request was not."""

_MORE_THAN_TEXT = (
    *("logprobs", "top_logprobs", "include", "audio", "modalities"),  # kilobytes for every token, or sound
    *("context_management", "fallbacks", "mcp_servers", "container"),  # several inferences, listed in an array
)
"""Fields of requests whose answers are more than one text with one usage object."""

_TEXT_KINDS = frozenset({"input_uncached", "cache_read", "cache_write_5m", "cache_write_1h", "tool_prompt"})
"""Without media or references the input is text."""


class BaseDialect:
    """A dialect whose model is in the body (or in the path), and whose usage a `ResponseShape` describes."""

    name: str
    operation: str = "chat"
    default_account: str
    shape: ResponseShape
    units: frozenset[str] = frozenset()
    input_kind: str = "input_uncached"  # what input and output are where they have to be estimated
    output_kind: str = "output"
    speaks_json: bool = True  # plain JSON and server-sent events, in one shape for all models
    path_model: re.Pattern[str] | None = None  # where the path names the model: the group `model`

    @property
    def usage_table(self) -> UsageTable:
        """Which JSON path of a response feeds which count."""
        return self.shape.table

    @property
    def is_native(self) -> bool:
        """Whether Envoy's own parsers can read what its answers report."""
        return self.speaks_json and self.shape.table.is_native

    def read_request(self, body: bytes, *, path: str = "", content_type: str | None = None) -> RequestFacts:
        """Parse a request body. Raises `DialectError` naming the field and the cure."""
        del content_type  # JSON is JSON, whatever the header says
        return self.read_document(jsonbody.parse(body), body, path=path)

    def read_document(self, document: jsonbody.Document, body: bytes, *, path: str = "") -> RequestFacts:
        """The same of a body that is parsed already; `body` is the text it stands in."""
        facts = self.facts(document, path)
        kinds = INPUT_KINDS if facts.external_inputs else _TEXT_KINDS
        if b"\\u" not in body:  # an escape could hide what follows is looked for
            kinds -= self.unreachable_kinds(body)
        return replace(facts, input_kinds=kinds)

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body."""
        raise NotImplementedError

    def unreachable_kinds(self, body: bytes) -> frozenset[str]:
        """The rates that this body shows its input cannot be billed at. Never more than that: a hold relies on it."""
        del body
        return frozenset({"cache_write_1h"})

    def rewrite(self, facts: RequestFacts, rewrite: Rewrite) -> bytes | None:
        """The body with the changes applied, everything else preserved; None when nothing changes."""
        changes: dict[str, object] = {}
        if rewrite.model is not None and rewrite.model != facts.model and "model" in facts.document:
            changes["model"] = rewrite.model
        if rewrite.output_limit is not None and rewrite.output_limit != facts.output_limit:
            changes.update(self.limit_changes(facts, rewrite.output_limit, rewrite.provider))
        if rewrite.include_usage and facts.stream and not facts.wants_usage:
            changes.update(self.usage_changes(facts, rewrite.provider))
        return jsonbody.dump({**facts.document, **changes}) if changes else None

    def limit_changes(self, facts: RequestFacts, limit: int, provider: str) -> Mapping[str, object]:
        """The top-level fields that bound the output to `limit` tokens; none where the API has no such limit."""
        del facts, limit, provider
        return {}

    def usage_changes(self, facts: RequestFacts, provider: str) -> Mapping[str, object]:
        """The top-level fields that ask for usage in the stream; none where it comes anyway."""
        del facts, provider
        return {}

    def path_for(self, path: str, model: str) -> str:
        """The path with the model that is to serve, for APIs that name it there."""
        match = self.path_model.search(path) if self.path_model else None
        if match is None:
            return path
        start, end = match.span("model")
        return path[:start] + quote(model, safe="") + path[end:]

    def meter(self, *, content_type: str, content_encoding: str, hide_usage: bool) -> Meter:
        """A meter for one response."""
        return make_meter(
            self.shape, content_type=content_type, content_encoding=content_encoding, hide_usage=hide_usage
        )

    @property
    def can_end_streams(self) -> bool:
        """Whether its streams can be ended before they are over."""
        return self.shape.ending is not None

    def ending_meter(self, *, content_type: str, content_encoding: str, hide_usage: bool) -> EndingMeter | None:
        """A meter that can end the response it reads; None where that is no stream of events."""
        return make_ending_meter(
            self.shape, content_type=content_type, content_encoding=content_encoding, hide_usage=hide_usage
        )

    def usage_from_counts(self, counts: Mapping[str, int]) -> Usage:
        """The normal form of what the paths of `usage_table` report."""
        return self.shape.usage_from_counts(counts)

    def native_answer_bytes(self, facts: RequestFacts, output_limit: int) -> int | None:
        """How large an answer may be that Envoy's own parsers can read; None where they cannot.

        They follow paths through objects, and cannot count. What is not in the body (a search, a stored prompt) may be
        billed by what stands in an array of the answer, and may bring answers of any size.
        """
        more = facts.external_inputs or any(facts.document.get(name) for name in _MORE_THAN_TEXT)
        if more or not self.is_native:
            return None
        return _BYTES_PER_PROMPT_BYTE * facts.prompt_bytes + _BYTES_PER_OUTPUT_TOKEN * output_limit

    def native_reading(self, reported: Mapping[str, object]) -> Reading:
        """What Envoy's own parsers found."""
        tally = Tally(self.shape)
        tally.take(native_document(reported))
        return tally.reading()

    def error_body(self, refusal: Refusal) -> dict[str, object]:
        """The refusal in this dialect's error shape; OpenAI's, where nothing else is said."""
        return error_body.openai(refusal)

    def model_in_path(self, path: str) -> str:
        """The model a path names. Raises `DialectError` when it names none."""
        match = self.path_model.search(path) if self.path_model else None
        if match is None:
            raise DialectError("(path)", "names no model")
        return unquote(match.group("model"))
