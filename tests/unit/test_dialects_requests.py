"""Requests: what is read, what is refused with which cure, and what a rewrite leaves alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ext_proc.dialects import registry
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import RequestFacts, Rewrite

CHAT = registry.dialect("openai-chat")
MESSAGES = registry.dialect("anthropic-messages")


def chat(**fields: Any) -> dict[str, Any]:
    """A chat body that is fine but for what the fields change."""
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], **fields}


def messages(**fields: Any) -> dict[str, Any]:
    """A messages body that is fine but for what the fields change."""
    return {
        "model": "claude-sonnet-4-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "hi"}],
        **fields,
    }


def read(document: dict[str, Any]) -> RequestFacts:
    """Read with the dialect whose body it is."""
    dialect = CHAT if document["model"].startswith("gpt") else MESSAGES
    return dialect.read_request(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        (b"", "(body)", "not JSON"),
        (b"hello", "(body)", "line 1 column 1"),
        (b"[]", "(body)", "an array"),
        (b"\xff\xfe", "(body)", "UTF-8"),
        (b'{"model":"a","model":"b","messages":[]}', "model", "twice"),
        (b'{"model":"m","messages":[{"role":"user","role":"system"}]}', "role", "twice"),
        (b'{"model":"m","temperature":NaN,"messages":[{}]}', "(body)", "NaN"),
        (b'{"model":"m","temperature":1e999,"messages":[{}]}', "(body)", "1e999"),
        (b'{"model":"m","seed":' + b"9" * 5000 + b"}", "(body)", "number"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "(body)", "deeper than 128"),
        (b"[" * 100_000, "(body)", "deeper than 128"),
    ],
)
def test_a_body_that_readers_could_disagree_on_is_refused(body: bytes, field: str, says: str) -> None:
    """What is not one unambiguous JSON object is refused, naming the field at fault."""
    with pytest.raises(DialectError) as caught:
        CHAT.read_request(body)

    assert caught.value.field == field
    assert says in caught.value.problem


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (chat(model=""), "model"),
        (chat(model=3), "model"),
        ({"messages": [{}]}, "model"),
        (chat(messages=[]), "messages"),
        (chat(messages="hi"), "messages"),
        (chat(messages=["hi"]), "messages[0]"),
        (chat(stream="yes"), "stream"),
        (chat(max_tokens="100"), "max_tokens"),
        (chat(max_tokens=0), "max_tokens"),
        (chat(max_completion_tokens=True), "max_completion_tokens"),
        (chat(n=0), "n"),
        (chat(n=1.5), "n"),
        (chat(tools={}), "tools"),
        (chat(stream_options=[]), "stream_options"),
        (chat(stream_options={"include_usage": 1}), "stream_options.include_usage"),
        (messages(max_tokens=None), "max_tokens"),
        (messages(max_tokens=-1), "max_tokens"),
        (messages(messages=[7]), "messages[0]"),
        (messages(stream=1), "stream"),
        (messages(tools="all"), "tools"),
    ],
)
def test_a_field_that_would_leave_the_cost_unknown_is_refused_by_name(document: dict[str, Any], field: str) -> None:
    """A field of the wrong type is the client's fault, named, with what would be right."""
    dialect = MESSAGES if "claude" in str(document.get("model")) else CHAT

    with pytest.raises(DialectError) as caught:
        dialect.read_request(json.dumps(document).encode())

    assert caught.value.field == field
    assert ";" in caught.value.problem


def test_chat_facts() -> None:
    """The larger output limit, the choices, the stream flags and the tier are read."""
    facts = read(
        chat(
            stream=True,
            n=3,
            max_tokens=50,
            max_completion_tokens=80,
            service_tier="flex",
            stream_options={"include_usage": True},
        )
    )

    assert (facts.model, facts.stream, facts.output_limit, facts.choices) == ("gpt-4o-mini", True, 80, 3)
    assert (facts.wants_usage, facts.service_tier) == (True, "flex")


def test_null_is_as_good_as_absent() -> None:
    """SDKs send null for what was not set."""
    facts = read(chat(stream=None, n=None, max_tokens=None, tools=None, stream_options=None))

    assert (facts.stream, facts.choices, facts.output_limit, facts.wants_usage) == (False, 1, None, False)


@pytest.mark.parametrize(
    ("document", "least_bytes", "external"),
    [
        (chat(messages=[{"role": "user", "content": "Grüezi"}]), 7, 0),
        (chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x" * 50}]}]), 50, 0),
        (chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://e"}}]}]), 0, 1),
        (chat(messages=[{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "A"}}]}]), 0, 1),
        (chat(messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}] * 2}]), 0, 2),
        (chat(messages=[{"role": "assistant", "content": None, "audio": {"id": "a"}}]), 0, 1),
        (chat(messages=[{"role": "assistant", "tool_calls": [{"function": {"arguments": "y" * 70}}]}]), 70, 0),
        (chat(tools=[{"type": "function", "function": {"name": "f", "description": "d" * 90}}]), 90, 0),
        (chat(web_search_options={}), 0, 1),
        (chat(response_format={"type": "json_schema", "json_schema": {"schema": {"x": "z" * 40}}}), 40, 0),
        (messages(system="s" * 30), 30, 0),
        (messages(system=[{"type": "text", "text": "s" * 30, "cache_control": {"type": "ephemeral"}}]), 30, 0),
        (
            messages(messages=[{"role": "user", "content": [{"type": "image", "source": {"type": "base64"}}]}]),
            0,
            1,
        ),
        (
            messages(
                messages=[
                    {"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": "t" * 60}}]}
                ]
            ),
            60,
            0,
        ),
        (
            messages(
                messages=[
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "content": [{"type": "text", "text": "r" * 20}]}],
                    }
                ]
            ),
            20,
            0,
        ),
        (
            messages(messages=[{"role": "assistant", "content": [{"type": "tool_use", "input": {"q": "i" * 25}}]}]),
            25,
            0,
        ),
        (messages(tools=[{"type": "web_search_20250305", "name": "web_search"}]), 0, 1),
        (messages(tools=[{"type": "bash_20250124", "name": "bash"}]), 0, 0),
        (messages(mcp_servers=[{"type": "url", "url": "https://e"}]), 0, 1),
    ],
)
def test_every_inline_text_is_counted_and_every_external_input_noticed(
    document: dict[str, Any], least_bytes: int, external: int
) -> None:
    """The prompt's bytes are never undercounted, nor far over; media and references count as external."""
    facts = read(document)

    assert least_bytes <= facts.prompt_bytes <= len(json.dumps(document, ensure_ascii=False).encode())
    assert facts.external_inputs == external


@pytest.mark.parametrize(
    ("document", "reached", "not_reached"),
    [
        (chat(), {"input_uncached", "cache_read", "cache_write_5m"}, {"cache_write_1h", "audio_in"}),
        (
            chat(messages=[{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "A"}}]}]),
            {"audio_in"},
            {"cache_write_1h"},
        ),
        (messages(), {"input_uncached", "cache_read"}, {"cache_write_5m", "cache_write_1h", "audio_in"}),
        (messages(cache_control={"type": "ephemeral"}), {"cache_write_5m"}, {"cache_write_1h"}),
        (messages(cache_control={"type": "ephemeral", "ttl": "1h"}), {"cache_write_5m", "cache_write_1h"}, set()),
        (messages(system="escaped: \u00e9"), {"cache_write_1h"}, {"audio_in"}),
    ],
)
def test_a_request_says_at_which_rates_its_input_can_be_billed(
    document: dict[str, Any], reached: set[str], not_reached: set[str]
) -> None:
    """A hold need not assume cache writes nobody asked for, but an escape that could hide a mark counts as one."""
    kinds = read(document).input_kinds

    assert reached <= kinds
    assert not not_reached & kinds


def test_include_usage_keeps_the_clients_other_options() -> None:
    """apisix 3.18 overwrites all of stream_options; we merge."""
    facts = read(chat(stream=True, stream_options={"include_obfuscation": False, "include_usage": False}))

    body = CHAT.rewrite(facts, Rewrite(include_usage=True))

    assert body is not None
    assert json.loads(body)["stream_options"] == {"include_obfuscation": False, "include_usage": True}


@pytest.mark.parametrize(
    "document", [chat(), chat(stream=True, stream_options={"include_usage": True}), messages(stream=True)]
)
def test_nothing_to_change_means_no_new_body(document: dict[str, Any]) -> None:
    """None says that the client's own bytes can go on."""
    facts = read(document)
    dialect = CHAT if facts.model.startswith("gpt") else MESSAGES

    assert dialect.rewrite(facts, Rewrite(include_usage=True, model=facts.model)) is None


@pytest.mark.parametrize(
    ("document", "want"),
    [
        (chat(), {"max_completion_tokens": 7}),
        (chat(max_tokens=50), {"max_tokens": 7}),
        (chat(max_tokens=50, max_completion_tokens=60), {"max_tokens": 7, "max_completion_tokens": 7}),
        (messages(), {"max_tokens": 7}),
    ],
)
def test_the_output_limit_goes_where_the_client_wrote_it(document: dict[str, Any], want: dict[str, int]) -> None:
    """All limits a request sets are lowered; one is added only where there is none."""
    facts = read(document)
    dialect = CHAT if facts.model.startswith("gpt") else MESSAGES

    body = dialect.rewrite(facts, Rewrite(output_limit=7, model="other"))

    assert body is not None
    assert json.loads(body) == {**document, **want, "model": "other"}


@pytest.mark.parametrize(
    "odd",
    [
        {"seed": 2**70},
        {"seed": -(2**64)},
        {"x": "\ud800 alone"},
        {"x": "日本 🌍 \u2028"},
        {"x": [1.0, 0.1, 1e-7, 123456789.123456789]},
        {"": {"": [None, True, {}]}},
    ],
)
def test_a_rewrite_preserves_what_it_does_not_change(odd: dict[str, Any]) -> None:
    """Integers beyond 64 bits, lone surrogates, floats and empty keys survive a rewrite, in order."""
    source = json.dumps(chat(odd=odd)).encode()
    facts = CHAT.read_request(source)

    body = CHAT.rewrite(facts, Rewrite(model="b"))

    assert body is not None
    assert list(json.loads(body).items()) == list({**json.loads(source), "model": "b"}.items())


def test_a_large_body_is_read() -> None:
    """32 MiB of prompt are parsed, counted and rewritten."""
    text = "word " * (32 * 1024 * 1024 // 5)
    facts = read(chat(messages=[{"role": "user", "content": text}]))

    assert facts.prompt_bytes >= len(text)
    assert len(CHAT.rewrite(facts, Rewrite(model="b")) or b"") > len(text)
