"""Requests of responses, completions, embeddings and count_tokens, and what compatible servers do not know."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ext_proc.dialects import registry
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import RequestFacts, Rewrite


def read(name: str, document: dict[str, Any]) -> RequestFacts:
    """Read a document with a dialect."""
    return registry.dialect(name).read_request(json.dumps(document).encode())


def rewritten(name: str, document: dict[str, Any], rewrite: Rewrite) -> dict[str, Any]:
    """A document after a rewrite."""
    body = registry.dialect(name).rewrite(read(name, document), rewrite)
    after = document if body is None else json.loads(body)
    assert isinstance(after, dict)
    return after


def test_responses_count_text_wherever_it_stands() -> None:
    """Instructions, items, outputs of functions and schemas are counted; references are external."""
    facts = read(
        "openai-responses",
        {
            "model": "gpt-5",
            "instructions": "i" * 10,
            "previous_response_id": "resp_0",
            "max_output_tokens": 64,
            "stream": True,
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "t" * 20}]},
                {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]},
                {"type": "function_call_output", "call_id": "c", "output": "o" * 40},
                {"type": "item_reference", "id": "msg_0"},
            ],
            "tools": [{"type": "function", "name": "f" * 80}, {"type": "web_search"}],
        },
    )

    assert 150 <= facts.prompt_bytes <= 320
    assert facts.external_inputs == 4  # the stored response, the image, the reference, the search
    assert (facts.output_limit, facts.stream, facts.wants_usage) == (64, True, True)


def test_responses_take_a_plain_string_and_no_input_at_all() -> None:
    """`input` may be a string, or absent where a stored prompt brings it."""
    assert read("openai-responses", {"model": "m", "input": "Grüezi"}).prompt_bytes == 7
    assert read("openai-responses", {"model": "m", "prompt": {"id": "p"}}).external_inputs == 1


def test_a_background_response_is_refused() -> None:
    """What is answered later on another path would pass by every budget."""
    with pytest.raises(DialectError) as caught:
        read("openai-responses", {"model": "m", "input": "x", "background": True})

    assert caught.value.field == "background"


def test_every_completion_of_every_prompt_is_bounded() -> None:
    """Two prompts, best of three, are six times the limit; token ids are counted exactly."""
    facts = read(
        "openai-completions",
        {"model": "m", "prompt": ["abc", "de"], "n": 2, "best_of": 3, "max_tokens": 9, "suffix": "end"},
    )
    ids = read("openai-completions", {"model": "m", "prompt": [[1, 2, 3], [4]]})

    assert (facts.choices, facts.output_limit, facts.prompt_bytes) == (6, 9, 8)
    assert (ids.choices, ids.prompt_bytes, ids.overhead_tokens) == (2, 0, 4 + 16)


@pytest.mark.parametrize(
    ("given", "text_bytes", "tokens"), [("abc", 3, 0), (["abc", "ü"], 5, 0), ([1, 2, 3], 0, 3), ([[1], [2, 3]], 0, 3)]
)
def test_embeddings_read_every_kind_of_input(given: object, text_bytes: int, tokens: int) -> None:
    """Text, texts, token ids and arrays of them."""
    facts = read("openai-embeddings", {"model": "m", "input": given})

    assert facts.prompt_bytes == text_bytes
    assert tokens <= facts.overhead_tokens <= tokens + 4
    assert facts.output_limit == 0


@pytest.mark.parametrize("given", [None, [], {}, [None], [["a"]], [[True]], 3])
def test_an_input_that_is_no_text_is_refused(given: object) -> None:
    """Anything else leaves the cost unknown."""
    with pytest.raises(DialectError) as caught:
        read("openai-embeddings", {"model": "m", "input": given})

    assert caught.value.field.startswith("input")


def test_counting_tokens_holds_nothing() -> None:
    """count_tokens is free: nothing is read by a model, nothing generated, and max_tokens is not asked for."""
    facts = read("anthropic-count-tokens", {"model": "c", "messages": [{"role": "user", "content": "x" * 999}]})

    assert (facts.prompt_bytes, facts.overhead_tokens, facts.external_inputs, facts.output_limit) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "document", "provider", "limit"),
    [
        ("openai-chat", {"messages": [{}]}, "", {"max_completion_tokens": 5}),
        ("openai-chat", {"messages": [{}]}, "azure-openai", {"max_completion_tokens": 5}),
        ("openai-chat", {"messages": [{}]}, "mistral", {"max_tokens": 5}),
        ("openai-chat", {"messages": [{}]}, "openai-compatible", {"max_tokens": 5}),
        ("openai-completions", {"prompt": "x"}, "openai", {"max_tokens": 5}),
        ("openai-responses", {"input": "x"}, "openai", {"max_output_tokens": 5}),
        ("openai-embeddings", {"input": "x"}, "openai", {}),
        ("anthropic-count-tokens", {"messages": [{}]}, "anthropic", {}),
    ],
)
def test_a_limit_is_added_in_the_field_the_server_knows(
    name: str, document: dict[str, Any], provider: str, limit: dict[str, int]
) -> None:
    """OpenAI wants max_completion_tokens, most compatible servers know max_tokens only; some APIs have no limit."""
    document = {"model": "m", **document}

    assert rewritten(name, document, Rewrite(output_limit=5, provider=provider)) == {**document, **limit}


@pytest.mark.parametrize(("provider", "asked"), [("openai", True), ("openai-compatible", True), ("mistral", False)])
@pytest.mark.parametrize("name", ["openai-chat", "openai-completions"])
def test_usage_is_asked_for_where_that_is_understood(name: str, provider: str, asked: bool) -> None:
    """Mistral refuses unknown fields, and reports usage at the end of every stream."""
    document = {"model": "m", "messages": [{}], "prompt": "x", "stream": True}

    after = rewritten(name, document, Rewrite(include_usage=True, provider=provider))

    assert after.get("stream_options") == ({"include_usage": True} if asked else None)
