"""What LiteLLM and genai-prices would charge for the bodies of the corpus, beside what Tollgate charges.

    python -m venv others && others/bin/pip install litellm genai-prices orjson pyyaml
    PYTHONPATH=. others/bin/python bench/price_comparison.py > docs/price-comparison.md

Both are asked in their own way: each provider's usage goes through LiteLLM's own transformation and cost function, and
through genai-prices' own extractor and calculation. A difference without an explanation below is an error, so that the
page cannot grow stale: exit code 1, and the case on stderr.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from decimal import ROUND_HALF_UP, Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # the price list in the wheel: nothing is fetched

import genai_prices
import litellm
from litellm.llms.anthropic.chat.transformation import AnthropicConfig
from litellm.llms.bedrock.chat.converse_transformation import AmazonConverseConfig
from litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini import VertexGeminiConfig
from litellm.types.llms.openai import ResponsesAPIResponse
from litellm.types.utils import ModelResponse, Usage

from ext_proc.dialects import registry
from ext_proc.dialects.event_stream import CONTENT_TYPE
from ext_proc.pricing.book import PriceBook

CORPUS = Path(__file__).parent.parent / "tests" / "corpus"
NOW_US = time.time_ns() // 1_000
TYPES = {".json": "application/json", ".sse": "text/event-stream", ".bin": CONTENT_TYPE}

SERVES = {
    "openai-chat": ("openai", "openai", "chat", "gpt-4o-mini"),
    "openai-completions": ("openai", "text-completion-openai", "chat", "gpt-3.5-turbo-instruct"),
    "openai-embeddings": ("openai", "openai", "embeddings", "text-embedding-3-small"),
    "openai-responses": ("openai", "openai", "responses", "gpt-5-2025-08-07"),
    "anthropic-messages": ("anthropic", "anthropic", "default", "claude-sonnet-4-5-20250929"),
    "gemini": ("gemini", "gemini", "default", "gemini-2.5-pro"),
    "bedrock-converse": ("bedrock", "bedrock", "default", "anthropic.claude-sonnet-4-5-20250929-v1:0"),
    "cohere-chat": ("cohere", "cohere_chat", "default", "command-r-08-2024"),
}
"""Dialect → our provider, LiteLLM's, genai-prices' flavour of API, and the model of bodies that name no priced one."""

MODELS = {
    "openai-chat/plain-reasoning-beside": ("xai", "xai", "default", "grok-4"),
    "openai-chat/stream-openrouter": ("openrouter", "openrouter", "default", "anthropic/claude-sonnet-4.5"),
    "openai-chat/stream-groq": ("groq", "groq", "default", "llama-3.3-70b-versatile"),
}
"""Bodies of other providers than their dialect's first."""

_OWN_COST = "LiteLLM believes the `cost` that a router reports of itself; the table prices tokens."
_REGIONAL = (
    "Price lists: AWS sells Claude 4.5 and later at a tenth more outside its `global.` profiles. LiteLLM's entry for "
    "the bare id has the global price."
)
_COHERE = (
    "LiteLLM takes `usage.tokens`, which counts the provider's preamble; Cohere bills `usage.billed_units`, as the "
    "names say."
)
WHY = {
    "openai-chat/plain-audio": "LiteLLM's list has no such model.",
    "openai-chat/plain-clamped": "More tokens are said to be read and written than the prompt has (the field is "
    "documented as unadjusted). LiteLLM bills all of them, genai-prices refuses to answer; ours never bills more input "
    "than there was.",
    "openai-chat/plain-provider-cost-zero": f"{_OWN_COST} 0 is what it took from a customer who brought a key of their "
    "own, and whoever gave the key is billed for the tokens.",
    "openai-chat/stream-openrouter": _OWN_COST,
    "openai-chat/plain-reasoning-beside": "xAI reports reasoning beside `completion_tokens`, and its total shows it. "
    "genai-prices leaves it out; xAI bills it. LiteLLM's list has no such model.",
    "openai-chat/stream-reasoning-tools": "The cache hits stand where DeepSeek puts them, and genai-prices looks there "
    "only for DeepSeek's own models. A compatible server's hits are hits.",
    "openai-completions/plain": "LiteLLM does not know the name that OpenAI's answer gives the model.",
    "openai-responses/plain-search": "One search, and one page opened. OpenAI bills searches: LiteLLM counts both, "
    "genai-prices neither (its extractor reads `usage` only).",
    "anthropic-messages/plain-compaction": "genai-prices reads the top-level counts, which leave the compaction out; "
    "Anthropic bills every iteration.",
    "anthropic-messages/plain-geo": "genai-prices does not know `inference_geo`; Anthropic bills 1.1 times.",
    "anthropic-messages/stream-fallback": "LiteLLM bills the declined attempt too, genai-prices the top-level counts "
    "alone. None of the three has the advisor at its own model's price: that would be 2,650,000, so ours is an "
    "estimate and says so.",
    "anthropic-messages/stream-writes-grew": "The total of cache writes moved on after its split was told. Both "
    "others bill the total at the five-minute rate; ours the total, in the split's proportion.",
    "gemini/plain-grounded-per-query": "Two searches, and Gemini 3 bills each query. LiteLLM's list has no price of "
    "tokens for this model at Google AI and one search at the older price; genai-prices' extractor reads no searches.",
    "gemini/plain-grounded": "genai-prices' extractor does not read searches. Google bills one per grounded request.",
    "gemini/plain-modalities": "Price lists: LiteLLM has an audio rate for this image model and assumes a discount on "
    "cached input; the catalogue has one input rate.",
    "gemini/plain-prompt-fresh-only": "The total shows that this prompt count holds only what was not cached. LiteLLM "
    "takes the cached tokens off again, genai-prices refuses to answer.",
    "gemini/plain-thoughts-inside": "The total shows that the candidates hold the thoughts already; genai-prices "
    "counts them twice.",
    "bedrock-converse/plain-v5": _REGIONAL,
    "bedrock-converse/stream-tool-use": _REGIONAL,
    "cohere-chat/plain": _COHERE,
    "cohere-chat/stream": _COHERE,
}
"""Case → what the difference is, and what the provider bills."""

PAGE = """# The same answers, three bills

Written by `python bench/price_comparison.py`: the bodies of `tests/corpus` whose usage is complete, at the public
prices of the day it ran, with LiteLLM {litellm} and genai-prices {genai}. Each is asked in its own way: LiteLLM's
transformation of the provider's usage and its cost function, genai-prices' extractor and calculation. Amounts are
nano-dollars; `=` is the same to the nano-dollar. The bodies are hand-written in the providers' shapes and chosen for
what is hard in them, so the table says where readings differ, not how often.

What the provider bills is taken from its published pages and SDK types; no invoice was compared. Streams that were cut
before their usage are left out: the others have nothing to count there.

| body | model | Tollgate | LiteLLM | genai-prices | why they differ, and what the provider bills |
|---|---|---|---|---|---|
"""


def documents(path: Path) -> list[dict[str, Any]]:
    """The JSON of a body: its one document, or every event of a stream."""
    raw = path.read_bytes()
    match path.suffix:
        case ".json":
            try:
                parsed = json.loads(raw)
            except ValueError:
                return []
            return parsed if isinstance(parsed, list) else [parsed]
        case ".sse":
            lines = (line[5:].strip() for line in raw.replace(b"\r", b"\n").split(b"\n") if line.startswith(b"data:"))
            return [document for line in lines if (document := _parsed(line)) is not None]
        case _:
            return [document for payload in _payloads(raw) if (document := _parsed(payload)) is not None]


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data)
    except ValueError:
        return None
    if isinstance(document, dict) and isinstance(document.get("bytes"), str):
        return _parsed(base64.b64decode(document["bytes"]))
    return document if isinstance(document, dict) else None


def _payloads(raw: bytes) -> Iterator[bytes]:
    while len(raw) >= 16:
        total, headers = int.from_bytes(raw[:4], "big"), int.from_bytes(raw[4:8], "big")
        yield raw[12 + headers : total - 4]
        raw = raw[total:]


def final(dialect: str, events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The body that carries the last usage: what a plain answer would have been."""
    last: dict[str, Any] | None = None
    for one in events:
        inner = (
            one.get("response") if dialect == "openai-responses" else one.get("message") if "message" in one else None
        )
        if dialect == "cohere-chat" and "delta" in one:
            inner = one["delta"]
        holder = inner if isinstance(inner, dict) and "usage" in inner else one
        key = "usageMetadata" if dialect == "gemini" else "usage"
        if not isinstance(holder.get(key), dict):
            continue
        known = {} if last is None else last[key]
        fresh = {name: value for name, value in holder[key].items() if value is not None}
        last = {**(last or {}), **holder, key: {**known, **fresh}}
    return last


def litellm_nanodollars(dialect: str, provider: str, model: str, body: dict[str, Any]) -> int:
    """LiteLLM's cost of a body, by its own transformation of the provider's usage."""
    match dialect:
        case "anthropic-messages":
            usage = AnthropicConfig().calculate_usage(body["usage"], None, completion_response=body)
        case "gemini":
            usage = VertexGeminiConfig._calculate_usage(body)  # type: ignore[arg-type]  # noqa: SLF001  (no public one)
            grounding = [one["groundingMetadata"] for one in body.get("candidates", []) if "groundingMetadata" in one]
            VertexGeminiConfig.set_grounding_usage_counters(usage, grounding)
        case "bedrock-converse":
            usage = AmazonConverseConfig().transform_usage(body["usage"])
        case "openai-responses":
            whole = ResponsesAPIResponse(**{"created_at": 0, "output": [], **body})
            cost = litellm.completion_cost(whole, model=model, custom_llm_provider=provider, call_type="responses")
            return _nano(Decimal(str(cost)))
        case "cohere-chat":
            tokens = body["usage"].get("tokens", {})  # what its transformation takes, instead of `billed_units`
            usage = Usage(prompt_tokens=tokens.get("input_tokens", 0), completion_tokens=tokens.get("output_tokens", 0))
        case _:
            usage = Usage(**body["usage"])
    answer = ModelResponse(model=model, usage=usage, service_tier=body.get("service_tier"))
    call = "embedding" if dialect == "openai-embeddings" else "completion"
    cost = litellm.completion_cost(
        completion_response=answer, model=model, custom_llm_provider=provider, call_type=call
    )
    return _nano(Decimal(str(cost)))


def genai_nanodollars(provider: str, flavor: str, model: str, body: dict[str, Any]) -> int:
    """genai-prices' cost of a body, by its own extractor."""
    from ext_proc.pricing.catalogue import PROVIDERS  # noqa: PLC0415  (beside its one use)

    name = PROVIDERS.get(provider, provider)
    usage = genai_prices.extract_usage({**body, "model": model}, provider_id=name, api_flavor=flavor).usage
    return _nano(genai_prices.calc_price(usage, model, provider_id=name).total_price)


def _nano(dollars: Decimal) -> int:
    return int((dollars * 10**9).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def ours_nanodollars(path: Path, provider: str, model: str) -> int | None:
    """Tollgate's charge of a body at public prices; None where the model has none or nothing is charged."""
    meter = registry.dialect(path.parent.name).meter(
        content_type=TYPES[path.suffix], content_encoding="", hide_usage=False
    )
    meter.feed(path.read_bytes(), end=True)
    reading = meter.reading()
    price = PriceBook().price(provider, model, NOW_US)
    if price is None or reading.usage is None or not reading.output_known:
        return None
    price = price.served_by(reading.service_tier).served_in(reading.geo)
    return price.charge_nanodollars(reading.usage, [part.usage for part in reading.parts])


def _attempt(ask: Callable[..., int], *arguments: object) -> int | None:
    try:
        return ask(*arguments)
    except Exception as error:  # noqa: BLE001  (whatever another library raises: it has no answer)
        sys.stderr.write(f"  {arguments[:3]}: {type(error).__name__}: {str(error)[:150]}\n")
        return None


def rows() -> Iterator[tuple[str, str, int, int | None, int | None]]:
    """(case, model, ours, LiteLLM's, genai-prices') of every body whose usage somebody can price."""
    for dialect, defaults in SERVES.items():
        for path in sorted(path for path in (CORPUS / dialect).iterdir() if path.suffix in TYPES):
            case = f"{dialect}/{path.stem}"
            provider, theirs, flavor, fallback = MODELS.get(case, defaults)
            body = final(dialect, documents(path))
            named = str((body or {}).get("model") or (body or {}).get("modelVersion") or fallback)
            model = named if PriceBook().price(provider, named, NOW_US) else fallback
            ours = ours_nanodollars(path, provider, model)
            if body is None or ours is None:
                continue
            yield (
                case,
                model,
                ours,
                _attempt(litellm_nanodollars, dialect, theirs, model, body),
                _attempt(genai_nanodollars, provider, flavor, model, body),
            )


def _shown(value: int | None, ours: int) -> str:
    if value is None:
        return "no answer"
    return "=" if value == ours else f"{value:,} ({(value - ours) / ours:+.1%})" if ours else f"{value:,}"


def main() -> int:
    """Print the page; 1 where a difference is not explained, or an explanation explains nothing."""
    print(PAGE.format(litellm=version("litellm"), genai=version("genai-prices")), end="")
    unexplained, unused = [], set(WHY)
    for case, model, ours, lite, genai in rows():
        same = lite == ours == genai
        unused -= {case} if not same else set()
        unexplained += [case] if not same and case not in WHY else []
        cells = (
            f"`{case}`",
            model,
            f"{ours:,}",
            _shown(lite, ours),
            _shown(genai, ours),
            "" if same else WHY.get(case, ""),
        )
        print(f"| {' | '.join(cells)} |")
    for case in (*unexplained, *sorted(unused)):
        sys.stderr.write(f"{case}: the explanation is missing, or explains no difference any more\n")
    return 1 if unexplained or unused else 0


if __name__ == "__main__":
    sys.exit(main())
