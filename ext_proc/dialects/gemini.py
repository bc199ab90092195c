"""Gemini: generateContent and streamGenerateContent, at Google AI and at Vertex.

A stream is server-sent events (`alt=sse`) or one JSON array; each part repeats the usage so far, so the last value
counts. `promptTokenCount` includes cached tokens, `candidatesTokenCount` excludes thoughts, tool use prompts stand
beside both; `totalTokenCount` is the sum and gives away the servers that count otherwise. Source: the `google-genai`
SDK's type `GenerateContentResponseUsageMetadata`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ext_proc.dialects import error_body, jsonbody
from ext_proc.dialects.base import BaseDialect
from ext_proc.dialects.content import PromptSize
from ext_proc.dialects.ending import CutPoint, Ending
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.sse import written
from ext_proc.dialects.tally import NEVER, Needle, ResponseShape, object_at, text_keys
from ext_proc.dialects.usage_paths import UsageTable, dig, paths
from ext_proc.pricing.usage import Usage
from ext_proc.refusal import Refusal

USAGE_TABLE = UsageTable(
    root="usageMetadata",
    counts=paths(
        {
            "prompt": "promptTokenCount",
            "cache_read": "cachedContentTokenCount",
            "candidates": "candidatesTokenCount",
            "thoughts": "thoughtsTokenCount",
            "tool_prompt": "toolUsePromptTokenCount",
            "total": "totalTokenCount",
            "audio_in": "promptTokensDetails.modality=AUDIO.tokenCount",
            "image_in": "promptTokensDetails.modality=IMAGE.tokenCount",
            "video_in": "promptTokensDetails.modality=VIDEO.tokenCount",
            "cache_read_audio": "cacheTokensDetails.modality=AUDIO.tokenCount",
            "cache_read_image": "cacheTokensDetails.modality=IMAGE.tokenCount",
            "audio_out": "candidatesTokensDetails.modality=AUDIO.tokenCount",
            "image_out": "candidatesTokensDetails.modality=IMAGE.tokenCount",
            "video_out": "candidatesTokensDetails.modality=VIDEO.tokenCount",
        },
        below="usageMetadata",
    ),
    served_model=(("modelVersion",),),
    service_tier=(("usageMetadata", "serviceTier"), ("usageMetadata", "trafficType")),
)


def usage_from_counts(counts: Mapping[str, int]) -> Usage:
    """Disjoint counts; every remainder is clamped at 0."""
    prompt, candidates, thoughts = _repaired(counts)
    read = min(counts.get("cache_read", 0), prompt)
    read_audio = min(counts.get("cache_read_audio", 0), read)
    read_image = min(counts.get("cache_read_image", 0), read - read_audio)
    fresh = prompt - read
    audio = min(max(0, counts.get("audio_in", 0) - read_audio), fresh)
    image = min(max(0, counts.get("image_in", 0) - read_image), fresh - audio)
    video = min(counts.get("video_in", 0), fresh - audio - image)
    audio_out = min(counts.get("audio_out", 0), candidates)
    image_out = min(counts.get("image_out", 0), candidates - audio_out)
    video_out = min(counts.get("video_out", 0), candidates - audio_out - image_out)
    return Usage(
        input_uncached=fresh - audio - image - video,
        cache_read=read - read_audio - read_image,
        cache_read_audio=read_audio,
        cache_read_image=read_image,
        audio_in=audio,
        image_in=image,
        video_in=video,
        tool_prompt=counts.get("tool_prompt", 0),
        output=candidates - audio_out - image_out - video_out + thoughts,
        reasoning=thoughts,
        audio_out=audio_out,
        image_out=image_out,
        video_out=video_out,
        searches=counts.get("searches", 0),
        requests=1,
    )


def _repaired(counts: Mapping[str, int]) -> tuple[int, int, int]:
    """(prompt with what was cached, candidates without thoughts, thoughts), where the total shows a server's own way.

    Vertex at times reports as prompt only what was not cached; some servers count thoughts among the candidates; a
    blocked or cut answer has no candidates at all.
    """
    prompt, thoughts = counts.get("prompt", 0), counts.get("thoughts", 0)
    total, tools, read = counts.get("total", 0), counts.get("tool_prompt", 0), counts.get("cache_read", 0)
    candidates = counts.get("candidates", max(0, total - prompt - tools - thoughts))
    if read and total == prompt + read + tools + candidates + thoughts:
        prompt += read
    elif thoughts and total in {prompt + candidates, prompt + candidates + tools}:
        candidates -= min(thoughts, candidates)
    return prompt, candidates, thoughts


def _searches(document: Mapping[str, object]) -> Mapping[str, int]:
    """Grounding with Google Search: Gemini 3 and later bill each query, those before the request that used any."""
    queries = 0
    candidates = document.get("candidates")
    for candidate in candidates if isinstance(candidates, list) else []:
        asked = dig(candidate, ("groundingMetadata", "webSearchQueries"))
        queries += len(asked) if isinstance(asked, list) else 0
    per_request = re.match(r"gemini-[12]\b", str(document.get("modelVersion", "")))
    return {"searches": 1 if per_request else queries} if queries else {}


_OF_EVERY_PART = ("usageMetadata", "modelVersion", "responseId")


def _end(point: CutPoint) -> bytes | None:
    """A part without text that finishes each candidate with `MAX_TOKENS`, with the usage so far."""
    latest = point.latest.get("candidates")
    candidates = [one for one in latest if isinstance(one, dict)] if isinstance(latest, list) else []
    if not candidates or any(one.get("finishReason") for one in candidates):
        return None
    empty = {"parts": [{"text": ""}], "role": "model"}
    finished = [{"content": empty, "finishReason": "MAX_TOKENS", "index": index} for index in range(point.choices)]
    head = {name: point.latest[name] for name in _OF_EVERY_PART if name in point.latest}
    return written({"candidates": finished, **head})


SHAPE = ResponseShape(
    table=USAGE_TABLE,
    usage_from_counts=usage_from_counts,
    output_count="total",
    text=text_keys("text"),
    terminal=Needle(b'"finishReason"', re.compile(rb'"finishReason"\s*:\s*"')),
    watched=object_at("usageMetadata"),
    more_counts=_searches,
    ending=Ending(latest=re.compile(rb'"candidates"'), write=_end),
)

MODEL_IN_PATH = re.compile(r"/(?:models|tunedModels|endpoints)/(?P<model>[^:?]+):")

_OVERHEAD_PER_REQUEST = 8
_OVERHEAD_PER_CONTENT = 8
_OVERHEAD_PER_TOOL = 16
_FUNCTIONS = frozenset({"functionDeclarations", "function_declarations"})


class Gemini(BaseDialect):
    """`POST …/models/{model}:generateContent` and `:streamGenerateContent`."""

    name = "gemini"
    default_account = "gemini-main"
    shape = SHAPE
    path_model = MODEL_IN_PATH

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body. The API reads every field in camelCase and in snake_case."""
        config = jsonbody.optional_object(document, _spelled(document, "generationConfig"))
        contents = jsonbody.required_items(document, "contents")
        tools = jsonbody.optional_items(document, "tools")
        size = PromptSize()
        for content in (document.get(_spelled(document, "systemInstruction")), *contents):
            size.add_content(content)
        size.add_schema(tools)
        for field in ("responseSchema", "responseJsonSchema"):
            size.add_schema(config.get(_spelled(config, field)))
        size.external_inputs += document.get(_spelled(document, "cachedContent")) is not None
        size.external_inputs += sum(bool(tool.keys() - _FUNCTIONS) for tool in tools if isinstance(tool, dict))
        return RequestFacts(
            model=self.model_in_path(path),
            stream=path.partition("?")[0].endswith(":streamGenerateContent"),
            output_limit=_count(config, "maxOutputTokens"),
            choices=_count(config, "candidateCount") or 1,
            prompt_bytes=size.text_bytes,
            overhead_tokens=(
                _OVERHEAD_PER_REQUEST + _OVERHEAD_PER_CONTENT * len(contents) + _OVERHEAD_PER_TOOL * len(tools)
            ),
            external_inputs=size.external_inputs,
            wants_usage=True,
            document=document,
            service_tier=jsonbody.optional_text(document, _spelled(document, "serviceTier")),
        )

    def limit_changes(self, facts: RequestFacts, limit: int, provider: str) -> Mapping[str, object]:
        """`generationConfig.maxOutputTokens`, in the spelling the client uses."""
        del provider
        field = _spelled(facts.document, "generationConfig")
        config = jsonbody.optional_object(facts.document, field)
        return {field: {**config, _spelled(config, "maxOutputTokens"): limit}}

    def error_body(self, refusal: Refusal) -> dict[str, object]:
        """The refusal in Google's shape."""
        return error_body.google(refusal)


class GeminiCountTokens(Gemini):
    """`POST …/models/{model}:countTokens`: free of charge."""

    name = "gemini-count-tokens"
    operation = "count_tokens"
    shape = ResponseShape(
        table=UsageTable(root="totalTokens", counts=paths({"counted": "totalTokens"}, below="")),
        usage_from_counts=lambda _: Usage(requests=1),
        output_count="counted",
        text=(),
        terminal=NEVER,
        watched=NEVER,
    )

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body: what is counted is not read by a model."""
        return RequestFacts(
            model=self.model_in_path(path),
            stream=False,
            output_limit=0,
            choices=1,
            prompt_bytes=0,
            overhead_tokens=0,
            external_inputs=0,
            wants_usage=True,
            document=document,
        )

    def limit_changes(self, facts: RequestFacts, limit: int, provider: str) -> Mapping[str, object]:
        """Nothing is generated."""
        del facts, limit, provider
        return {}


def _spelled(document: Mapping[str, object], camel: str) -> str:
    """The spelling of a field that the document uses. Both at once would leave open which one counts."""
    snake = re.sub(r"[A-Z]", lambda letter: "_" + letter.group().lower(), camel)
    if snake not in document:
        return camel
    if camel in document:
        raise DialectError(snake, f"stands beside {camel}; keep one of them")
    return snake


def _count(config: Mapping[str, object], camel: str) -> int | None:
    return jsonbody.optional_count(config, _spelled(config, camel), within="generationConfig.")
