"""The providers' own SDKs in conversation: each talk is one call, plain or streamed, and all that its client sees.

A talk needs a base URL and headers alone, so that the same talk can be held with the gateway and with the provider
itself, and what came of it be compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anthropic
import boto3
import cohere
import httpx
import openai
from botocore.config import Config
from google import genai
from google.genai import types as google
from mistralai.client import Mistral

Seen = list[Any]
"""Everything the SDK handed to its caller, as JSON."""


@dataclass(frozen=True)
class Talk:
    """One call. `usage` and `behavior` tell the mock provider what to answer; `nanodollars` is what that costs."""

    name: str
    hold: Callable[[str, Mapping[str, str]], Seen]
    usage: Mapping[str, object]
    nanodollars: int
    model: str
    behavior: Mapping[str, object] = field(default_factory=dict)

    def seen(self, url: str, headers: Mapping[str, str]) -> Seen:
        """Hold the talk. Ids are made equal: a mock's differ from call to call."""
        asked = {"x-mock-usage": json.dumps(self.usage), "x-mock-behavior": json.dumps(self.behavior)}
        seen = self.hold(url, {**headers, **asked})
        anonymous: Seen = json.loads(re.sub(r"[0-9a-f]{24}", "<id>", json.dumps(seen, default=_plain)))
        return anonymous


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)


SCHEMA = {"type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer"}}}
SAY = [{"role": "user", "content": "How is the weather in Zürich?"}]
FUNCTION = {"type": "function", "function": {"name": "weather", "description": "A forecast.", "parameters": SCHEMA}}


PICTURE = ("lake.png", b"\x89PNG\r\n--not-a-boundary\r\n" * 9, "image/png")
RECORDING = ("speech.wav", b"RIFF\x24\x3e\x00\x00WAVEfmt " + bytes(12) + (32_000).to_bytes(4, "little") + bytes(16_000))


def _openai(url: str, headers: Mapping[str, str]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="k", default_headers=headers, max_retries=0)


def _anthropic(url: str, headers: Mapping[str, str]) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="k", default_headers=headers, max_retries=0)


def _events(made: Any, *, stream: bool) -> Seen:
    return list(made) if stream else [made]


def openai_chat(*, stream: bool, **more: Any) -> Callable[[str, Mapping[str, str]], Seen]:
    def hold(url: str, headers: Mapping[str, str]) -> Seen:
        with _openai(url, headers) as client:
            create: Any = client.chat.completions.create
            return _events(create(model="gpt-4o-mini", messages=SAY, stream=stream, **more), stream=stream)

    return hold


def openai_responses(*, stream: bool, **more: Any) -> Callable[[str, Mapping[str, str]], Seen]:
    def hold(url: str, headers: Mapping[str, str]) -> Seen:
        with _openai(url, headers) as client:
            create: Any = client.responses.create
            made = create(model="gpt-4o-mini", input="How is the weather in Zürich?", stream=stream, **more)
            return _events(made, stream=stream)

    return hold


def openai_completions(*, stream: bool) -> Callable[[str, Mapping[str, str]], Seen]:
    def hold(url: str, headers: Mapping[str, str]) -> Seen:
        with _openai(url, headers) as client:
            create: Any = client.completions.create
            made = create(model="gpt-3.5-turbo-instruct", prompt="Say something.", max_tokens=64, stream=stream)
            return _events(made, stream=stream)

    return hold


def openai_embeddings(url: str, headers: Mapping[str, str]) -> Seen:
    with _openai(url, headers) as client:
        return [client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])]


def openai_images(*, stream: bool, edit: bool = False) -> Callable[[str, Mapping[str, str]], Seen]:
    def hold(url: str, headers: Mapping[str, str]) -> Seen:
        with _openai(url, headers) as client:
            make: Any = client.images.edit if edit else client.images.generate
            more: dict[str, Any] = {"image": [PICTURE, PICTURE]} if edit else {"n": 1 if stream else 2}
            if stream:
                more |= {"partial_images": 2}
            made = make(
                model="gpt-image-1.5", prompt="A lighthouse — at dusk.", size="1024x1024", stream=stream, **more
            )
            return _events(made, stream=stream)

    return hold


def openai_transcriptions(*, stream: bool, model: str) -> Callable[[str, Mapping[str, str]], Seen]:
    def hold(url: str, headers: Mapping[str, str]) -> Seen:
        with _openai(url, headers) as client:
            create: Any = client.audio.transcriptions.create
            made = create(model=model, file=RECORDING, prompt="Grüezi", stream=stream)
            return _events(made, stream=stream)

    return hold


def openai_speech(url: str, headers: Mapping[str, str]) -> Seen:
    with _openai(url, headers) as client:
        return [client.audio.speech.create(model="tts-1", voice="alloy", input="Grüezi mitenand.").content.hex()]


def anthropic_messages(*, stream: bool, **more: Any) -> Callable[[str, Mapping[str, str]], Seen]:
    def hold(url: str, headers: Mapping[str, str]) -> Seen:
        with _anthropic(url, headers) as client:
            create: Any = client.messages.create
            made = create(model="claude-sonnet-4-6", max_tokens=4_000, messages=SAY, stream=stream, **more)
            return _events(made, stream=stream)

    return hold


def gemini(*, stream: bool, tools: bool = False) -> Callable[[str, Mapping[str, str]], Seen]:
    def hold(url: str, headers: Mapping[str, str]) -> Seen:
        options = google.HttpOptions(base_url=url, headers=dict(headers))
        declared = google.FunctionDeclaration(name="weather", description="A forecast.", parameters_json_schema=SCHEMA)
        config = google.GenerateContentConfig(
            thinking_config=google.ThinkingConfig(include_thoughts=True),
            tools=[google.Tool(function_declarations=[declared])] if tools else None,
        )
        client = genai.Client(api_key="k", http_options=options)
        generate = client.models.generate_content_stream if stream else client.models.generate_content
        made: Any = generate(model="gemini-2.5-flash", contents="How is the weather in Zürich?", config=config)
        seen = [_without_headers(one.model_dump(mode="json")) for one in _events(made, stream=stream)]
        client.close()
        return seen

    return hold


def _without_headers(response: dict[str, Any]) -> dict[str, Any]:
    """The google-genai SDK shows its caller the HTTP response too: its headers are compared elsewhere."""
    return {name: value for name, value in response.items() if name != "sdk_http_response"}


BEDROCK_MODEL = "us.anthropic.claude-haiku-4-5-20251001-v1:0"


def bedrock(*, stream: bool, **more: Any) -> Callable[[str, Mapping[str, str]], Seen]:
    def hold(url: str, headers: Mapping[str, str]) -> Seen:
        client = boto3.client(
            "bedrock-runtime",
            region_name="us-east-1",
            endpoint_url=url,
            aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
            aws_secret_access_key="dummy",
            config=Config(retries={"max_attempts": 0}),
        )

        def add_headers(request: Any, **_: Any) -> None:
            for name, value in headers.items():
                request.headers[name] = value

        client.meta.events.register("before-sign.bedrock-runtime", add_headers)
        talk = {"modelId": BEDROCK_MODEL, "messages": [{"role": "user", "content": [{"text": "hi"}]}], **more}
        answer = client.converse_stream(**talk) if stream else client.converse(**talk)
        del answer["ResponseMetadata"]
        seen = list(answer["stream"]) if stream else [answer]
        client.close()
        return seen

    return hold


def mistral(*, stream: bool, **more: Any) -> Callable[[str, Mapping[str, str]], Seen]:
    def hold(url: str, headers: Mapping[str, str]) -> Seen:
        with Mistral(api_key="k", server_url=url) as client:
            talk: Any = client.chat.stream if stream else client.chat.complete
            model = "mistral-main/mistral-small-latest"
            made = talk(model=model, messages=SAY, http_headers=dict(headers), **more)
            return _events(made, stream=stream)

    return hold


def cohere_chat(*, stream: bool, **more: Any) -> Callable[[str, Mapping[str, str]], Seen]:
    def hold(url: str, headers: Mapping[str, str]) -> Seen:
        with httpx.Client() as http:
            client = cohere.ClientV2(
                api_key="k", base_url=url, httpx_client=http, log_warning_experimental_features=False
            )
            talk: Any = client.chat_stream if stream else client.chat
            options = {"additional_headers": dict(headers), "max_retries": 0}
            made = talk(model="command-r-08-2024", messages=SAY, request_options=options, **more)
            return _events(made, stream=stream)

    return hold


def cohere_rerank(url: str, headers: Mapping[str, str]) -> Seen:
    with httpx.Client() as http:
        client = cohere.ClientV2(api_key="k", base_url=url, httpx_client=http, log_warning_experimental_features=False)
        options: Any = {"additional_headers": dict(headers), "max_retries": 0}
        documents = ["Zürich lies on a lake.", "Bern does not."]
        return [client.rerank(model="rerank-v3.5", query="lake", documents=documents, request_options=options)]


def _both(
    name: str, make: Callable[..., Any], usage: Mapping[str, object], nanodollars: int, **more: Any
) -> list[Talk]:
    """The talk plain and streamed: it costs the same."""
    behavior, model = more.pop("behavior", {}), more.pop("model")
    return [
        Talk(f"{name}-{kind}", make(stream=stream, **more), usage, nanodollars, model, behavior)
        for kind, stream in (("plain", False), ("streamed", True))
    ]


_OPENAI = {"input": 1_000, "cache_read": 600, "output": 200, "reasoning": 150}
_OPENAI_COST = 1_000 * 150 + 600 * 75 + 200 * 600
_ANTHROPIC = {
    "input": 10, "cache_read": 2_000, "cache_write": 200, "cache_write_1h": 300, "output": 900, "reasoning": 800,
}  # fmt: skip
_ANTHROPIC_COST = 10 * 3_000 + 2_000 * 300 + 200 * 3_750 + 300 * 6_000 + 900 * 15_000
_GEMINI = {"input": 200, "cache_read": 1_000, "output": 380, "reasoning": 300}
_GEMINI_COST = 200 * 300 + 1_000 * 30 + 380 * 2_500
_BEDROCK = {"input": 368, "cache_write": 10_536, "output": 19}
_BEDROCK_COST = 368 * 1_100 + 10_536 * 1_375 + 19 * 5_500
_MISTRAL = {"input": 1_000, "output": 200}
_MISTRAL_COST = 1_000 * 150 + 200 * 600
_COHERE = {"input": 300, "output": 200}
_COHERE_COST = 300 * 150 + 200 * 600
_CALLS = {"tool_calls": 2}

TALKS: tuple[Talk, ...] = (
    *_both("openai-chat", openai_chat, _OPENAI, _OPENAI_COST, model="openai-main/gpt-4o-mini"),
    *_both(
        "openai-chat-tools",
        openai_chat,
        _OPENAI,
        _OPENAI_COST,
        model="openai-main/gpt-4o-mini",
        behavior=_CALLS,
        tools=[FUNCTION],
    ),
    *_both("openai-responses", openai_responses, _OPENAI, _OPENAI_COST, model="openai-main/gpt-4o-mini"),
    *_both(
        "openai-responses-tools",
        openai_responses,
        _OPENAI,
        _OPENAI_COST,
        model="openai-main/gpt-4o-mini",
        behavior=_CALLS,
        tools=[{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}],
    ),
    *_both(
        "openai-completions",
        openai_completions,
        {"input": 30, "output": 20},
        30 * 1_500 + 20 * 2_000,
        model="openai-main/gpt-3.5-turbo-instruct",
    ),
    Talk("openai-embeddings", openai_embeddings, {"input": 500}, 500 * 20, "openai-main/text-embedding-3-small"),
    *_both(
        "openai-images",
        openai_images,
        {"input": 50, "output": 0, "image_out": 2_000},
        50 * 5_000 + 2_000 * 32_000,
        model="openai-main/gpt-image-1.5",
    ),
    *_both(
        "openai-image-edits",
        openai_images,
        {"input": 50, "output": 0, "image_in": 700, "image_out": 2_000},
        50 * 5_000 + 700 * 8_000 + 2_000 * 32_000,
        model="openai-main/gpt-image-1.5",
        edit=True,
    ),
    *_both(
        "openai-transcriptions",
        partial(openai_transcriptions, model="gpt-4o-transcribe"),
        {"input": 20, "audio_in": 500, "output": 80},
        20 * 2_500 + 500 * 6_000 + 80 * 10_000,
        model="openai-main/gpt-4o-transcribe",
    ),
    Talk(
        "openai-transcriptions-by-length",
        openai_transcriptions(stream=False, model="whisper-1"),
        {"output": 80, "audio_ms": 12_500},
        12_500 * 100,  # $0.006 a minute
        "openai-main/whisper-1",
    ),
    Talk("openai-speech", openai_speech, {"audio_out": 30}, 16 * 15_000, "openai-main/tts-1"),
    *_both(
        "anthropic-thinking",
        anthropic_messages,
        _ANTHROPIC,
        _ANTHROPIC_COST,
        model="anthropic-main/claude-sonnet-4-6",
        thinking={"type": "enabled", "budget_tokens": 2_000},
    ),
    *_both(
        "anthropic-tools",
        anthropic_messages,
        _ANTHROPIC,
        _ANTHROPIC_COST,
        model="anthropic-main/claude-sonnet-4-6",
        behavior=_CALLS,
        tools=[{"name": "weather", "input_schema": SCHEMA}],
    ),
    *_both("gemini", gemini, _GEMINI, _GEMINI_COST, model="gemini-main/gemini-2.5-flash"),
    *_both(
        "gemini-tools",
        gemini,
        _GEMINI,
        _GEMINI_COST,
        model="gemini-main/gemini-2.5-flash",
        behavior=_CALLS,
        tools=True,
    ),
    *_both("bedrock", bedrock, _BEDROCK, _BEDROCK_COST, model=f"bedrock-main/{BEDROCK_MODEL}"),
    *_both(
        "bedrock-tools",
        bedrock,
        _BEDROCK,
        _BEDROCK_COST,
        model=f"bedrock-main/{BEDROCK_MODEL}",
        behavior=_CALLS,
        toolConfig={"tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": SCHEMA}}}]},
    ),
    *_both(
        "mistral",
        mistral,
        _MISTRAL,
        _MISTRAL_COST,
        model="mistral-main/mistral-small-latest",
        behavior={"like_mistral": True, "model": "mistral-small-latest"},
    ),
    *_both(
        "mistral-tools",
        mistral,
        _MISTRAL,
        _MISTRAL_COST,
        model="mistral-main/mistral-small-latest",
        behavior={"like_mistral": True, "model": "mistral-small-latest", **_CALLS},
        tools=[FUNCTION],
    ),
    Talk("cohere-rerank", cohere_rerank, {"searches": 2}, 2 * 2_000_000, "cohere-main/rerank-v3.5"),
    *_both("cohere", cohere_chat, _COHERE, _COHERE_COST, model="cohere-main/command-r-08-2024"),
    *_both(
        "cohere-tools",
        cohere_chat,
        _COHERE,
        _COHERE_COST,
        model="cohere-main/command-r-08-2024",
        behavior=_CALLS,
        tools=[FUNCTION],
    ),
)
