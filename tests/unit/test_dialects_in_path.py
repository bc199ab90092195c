"""Dialects whose paths name the model: Gemini, Vertex, Bedrock, Azure; and those of Cohere."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import pytest

from ext_proc.dialects import registry
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.event_stream import CONTENT_TYPE
from ext_proc.dialects.interface import RequestFacts, Rewrite
from ext_proc.pricing.price import Price, Tier
from ext_proc.pricing.usage import Rates
from ext_proc.refusal import Refusal, RefusalType

GEMINI = "/v1beta/models/gemini-2.5-pro:generateContent"
VERTEX = "/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro:streamGenerateContent"
CLAUDE = "/v1/projects/p/locations/l/publishers/anthropic/models/claude-opus-4-6:streamRawPredict"
CONVERSE = "/model/anthropic.claude-sonnet-4-20250514-v1%3A0/converse-stream"
INVOKE = "/model/meta.llama3-70b/invoke"
AZURE = "/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"

SAY = [{"role": "user", "parts": [{"text": "Grüezi"}]}]
BODIES: dict[str, dict[str, Any]] = {
    GEMINI: {"contents": SAY},
    VERTEX: {"contents": SAY},
    CLAUDE: {"anthropic_version": "vertex-2023-10-16", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]},
    CONVERSE: {"messages": [{"role": "user", "content": [{"text": "Grüezi"}]}]},
    INVOKE: {"prompt": "hello", "max_gen_len": 64},
    AZURE: {"messages": [{"role": "user", "content": "hi"}]},
}


def read(path: str, document: dict[str, Any]) -> RequestFacts:
    """Read a document at a path, as admission does."""
    endpoint = registry.resolve("POST", path)
    assert endpoint is not None
    return endpoint.dialect.read_request(json.dumps(document).encode(), path=endpoint.upstream_path)


def rewritten(path: str, document: dict[str, Any], rewrite: Rewrite) -> dict[str, Any]:
    """A document after a rewrite."""
    endpoint = registry.resolve("POST", path)
    assert endpoint is not None
    body = endpoint.dialect.rewrite(read(path, document), rewrite)
    after = document if body is None else json.loads(body)
    assert isinstance(after, dict)
    return after


@pytest.mark.parametrize(
    ("path", "name", "model", "stream"),
    [
        (GEMINI, "gemini", "gemini-2.5-pro", False),
        (VERTEX, "vertex-gemini", "gemini-2.5-pro", True),
        (CLAUDE, "vertex-anthropic", "claude-opus-4-6", True),
        (CONVERSE, "bedrock-converse", "anthropic.claude-sonnet-4-20250514-v1:0", True),
        (INVOKE, "bedrock-invoke", "meta.llama3-70b", False),
        (AZURE, "azure-chat", "my-gpt", False),
    ],
)
def test_model_and_streaming_are_read_from_the_path(path: str, name: str, model: str, stream: bool) -> None:
    """Percent-encoding is undone; the body need not name a model, and stays without one."""
    endpoint = registry.resolve("POST", path)
    assert endpoint is not None
    facts = read(path, BODIES[path])

    assert endpoint.dialect.name == name
    assert (facts.model, facts.stream) == (model, stream)
    assert rewritten(path, BODIES[path], Rewrite(model="other")) == BODIES[path]


@pytest.mark.parametrize(
    ("path", "model", "want"),
    [
        (GEMINI, "gemini-2.5-flash", "/v1beta/models/gemini-2.5-flash:generateContent"),
        (
            "/v1beta/models/gemini-main/gemini-2.5-pro:generateContent?alt=sse",
            "gemini-2.5-pro",
            "/v1beta/models/gemini-2.5-pro:generateContent?alt=sse",
        ),
        (CONVERSE, "amazon.nova-pro-v1:0", "/model/amazon.nova-pro-v1%3A0/converse-stream"),
        (AZURE, "small", "/openai/deployments/small/chat/completions?api-version=2024-10-21"),
        ("/v1/chat/completions", "gpt-4o", "/v1/chat/completions"),
    ],
)
def test_the_model_that_serves_is_put_into_the_path(path: str, model: str, want: str) -> None:
    """A downgrade of such an API is a change of path; other paths stay."""
    endpoint = registry.resolve("POST", path)
    assert endpoint is not None

    assert endpoint.dialect.path_for(endpoint.upstream_path, model) == want


@pytest.mark.parametrize(
    "path",
    [
        "/v1beta/models/x:batchGenerateContent",
        "/v1beta/models/:generateContent",
        "/v1beta/models/x:generateContent/more",
        "/v1beta/models/../../v1/files:generateContent",
        "/v1beta/models/x%2e%2e/:generateContent",
        "/model/a/../../secret/converse",
        "/model//converse",
        "/model/x/converse/y",
        "/model/x/async-invoke",
        "/openai/deployments/a/b/chat/completions",
        "/openai/deployments/x/images/generations",
    ],
)
def test_paths_that_another_reader_could_take_otherwise_are_not_understood(path: str) -> None:
    """T19: no batch, no traversal, no half-matching path passes as a metered one."""
    assert registry.resolve("POST", path) is None


@pytest.mark.parametrize(
    ("query", "want"),
    [
        ("?key=AIza", ""),
        ("?alt=sse&key=AIza", "?alt=sse"),
        ("?key=AIza&alt=sse", "?alt=sse"),
        ("?alt=sse", "?alt=sse"),
        ("?monkey=1", "?monkey=1"),
    ],
)
def test_a_credential_in_the_query_goes_no_further(query: str, want: str) -> None:
    """Google's clients may send their key as a parameter; a client's credential never reaches a provider."""
    endpoint = registry.resolve("POST", GEMINI + query)

    assert endpoint is not None
    assert endpoint.upstream_path == GEMINI + want


def test_gemini_reads_both_spellings_and_never_both_at_once() -> None:
    """The API takes camelCase and snake_case; what stands twice would leave the limit open."""
    snake = {
        "contents": SAY,
        "system_instruction": {"parts": [{"text": "s" * 20}]},
        "generation_config": {"max_output_tokens": 7, "candidate_count": 2},
        "cached_content": "cachedContents/1",
    }
    facts = read(GEMINI, snake)

    assert (facts.output_limit, facts.choices, facts.external_inputs) == (7, 2, 1)
    assert facts.prompt_bytes >= 27
    assert rewritten(GEMINI, snake, Rewrite(output_limit=3))["generation_config"]["max_output_tokens"] == 3
    with pytest.raises(DialectError) as caught:
        read(GEMINI, {**snake, "generationConfig": {"maxOutputTokens": 9}})
    assert caught.value.field == "generation_config"


@pytest.mark.parametrize(
    ("path", "document", "external"),
    [
        (GEMINI, {"contents": [{"parts": [{"inlineData": {"data": "AAAA"}}, {"fileData": {"fileUri": "u"}}]}]}, 2),
        (GEMINI, {"contents": [{"parts": [{"inline_data": {"data": "AAAA"}}]}]}, 1),
        (GEMINI, {"contents": SAY, "tools": [{"googleSearch": {}}, {"functionDeclarations": []}]}, 1),
        (CONVERSE, {"messages": [{"content": [{"image": {"source": {"bytes": "AAAA"}}}, {"text": "x"}]}]}, 1),
        (CONVERSE, {"promptVariables": {"a": {"text": "x"}}}, 1),
        (CLAUDE, {**BODIES[CLAUDE], "tools": [{"type": "web_search_20250305"}]}, 1),
    ],
)
def test_external_inputs_are_noticed(path: str, document: dict[str, Any], external: int) -> None:
    """Media, files, caches and searches bring tokens that no byte of the body bounds."""
    assert read(path, document).external_inputs == external


@pytest.mark.parametrize(
    ("path", "document", "limit", "after"),
    [
        (GEMINI, BODIES[GEMINI], None, {"generationConfig": {"maxOutputTokens": 3}}),
        (
            GEMINI,
            {"contents": SAY, "generationConfig": {"maxOutputTokens": 9, "temperature": 0}},
            9,
            {"generationConfig": {"maxOutputTokens": 3, "temperature": 0}},
        ),
        (CONVERSE, BODIES[CONVERSE], None, {"inferenceConfig": {"maxTokens": 3}}),
        (
            CONVERSE,
            {
                **BODIES[CONVERSE],
                "inferenceConfig": {"maxTokens": 5},
                "additionalModelRequestFields": {"max_tokens": 8, "top_k": 1},
            },
            8,
            {"inferenceConfig": {"maxTokens": 3}, "additionalModelRequestFields": {"max_tokens": 3, "top_k": 1}},
        ),
        (INVOKE, BODIES[INVOKE], 64, {"max_gen_len": 3}),
        (
            INVOKE,
            {"inferenceConfig": {"max_new_tokens": 6, "x": 1}},
            6,
            {"inferenceConfig": {"max_new_tokens": 3, "x": 1}},
        ),
        (INVOKE, {"inputText": "x"}, None, {}),
        (CLAUDE, BODIES[CLAUDE], 9, {"max_tokens": 3}),
        (AZURE, BODIES[AZURE], None, {"max_completion_tokens": 3}),
        ("/v2/chat", {"model": "m", "messages": [{}]}, None, {"max_tokens": 3}),
    ],
)
def test_the_output_limit_is_read_and_written_where_each_api_has_it(
    path: str, document: dict[str, Any], limit: int | None, after: dict[str, Any]
) -> None:
    """The larger limit counts where several are set, and all of them are lowered."""
    assert read(path, document).output_limit == limit
    assert rewritten(path, document, Rewrite(output_limit=3, provider="azure-openai")) == {**document, **after}


def test_rerank_counts_the_query_once_per_document() -> None:
    """A reranker reads the query with every document."""
    facts = read("/v2/rerank", {"model": "rerank-v3.5", "query": "q" * 100, "documents": ["d" * 50] * 10})

    assert 1500 <= facts.prompt_bytes <= 1600
    assert facts.output_limit == 0


@pytest.mark.parametrize(
    ("documents", "units"),
    [(["d"] * 100, 1), (["d"] * 101, 2), (["d" * 2_400] * 100, 2), ([{"text": "d"}] * 250, 3)],
)
def test_rerank_is_held_for_every_search_unit(documents: list[Any], units: int) -> None:
    """A hundred documents are one unit, long ones count more than once: the price per request is held for each."""
    facts = read("/v2/rerank", {"model": "rerank-v3.5", "query": "q", "documents": documents})
    price = Price((Tier(0, Rates(requests=2_000)),), "v")

    assert price.dearest_request_rate() + price.units_picodollars(facts.units) == units * 2_000


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_rerank_is_one_dialect(path: str) -> None:
    """Cohere's two versions, Jina and Voyage share a body."""
    endpoint = registry.resolve("POST", path)

    assert endpoint is not None
    assert endpoint.dialect.name == "rerank"


@pytest.mark.parametrize(
    ("path", "shape"),
    [(GEMINI, "status"), (CONVERSE, "message"), ("/v2/chat", "message"), ("/v1beta/models/x:unknown", "status")],
)
def test_refusals_have_the_shape_the_sdk_expects(path: str, shape: str) -> None:
    """Google's SDK reads error.status, AWS's and Cohere's the top-level message."""
    body = registry.dialect_for_path(path).error_body(
        Refusal(RefusalType.RATE_LIMITED, HTTPStatus.TOO_MANY_REQUESTS, "Too fast.", "Wait.")
    )
    error = body["error"]
    assert isinstance(error, dict)

    assert body["message"] == "Too fast." if shape == "message" else error["status"] == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("broken", [b"\0" * 64, b"\0\0\0\x10\0\0\0\0BAD!", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_broken_frame_ends_the_reading_and_not_the_stream(broken: bytes) -> None:
    """Bytes that are no frame pass unchanged and are counted; nothing is claimed about the end."""
    meter = registry.dialect("bedrock-converse").meter(content_type=CONTENT_TYPE, content_encoding="", hide_usage=True)

    assert meter.feed(broken, end=False) is broken
    assert meter.feed(b"more", end=True) == b"more"
    assert meter.reading().output_bytes == len(broken) + 4
    assert not meter.reading().finished
