"""OpenAI's older completions, still what many self-hosted servers are asked with."""

from __future__ import annotations

from collections.abc import Mapping

from ext_proc.dialects import jsonbody
from ext_proc.dialects.base import BaseDialect
from ext_proc.dialects.content import TextInput, read_text_input
from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.openai_chat import SHAPE, ask_for_usage, wants_usage


class OpenAICompletions(BaseDialect):
    """`POST /v1/completions`. Its responses report usage as chat does."""

    name = "openai-completions"
    operation = "text_completion"
    default_account = "openai-main"
    shape = SHAPE

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body. Every prompt is completed max(n, best_of) times."""
        del path  # the model is in the body
        prompt = read_text_input(document, "prompt") if document.get("prompt") is not None else TextInput(texts=1)
        suffix = jsonbody.optional_text(document, "suffix") or ""
        times = max(
            jsonbody.optional_count(document, "n") or 1,
            jsonbody.optional_count(document, "best_of") or 1,
        )
        return RequestFacts(
            model=jsonbody.required_text(document, "model", "gpt-3.5-turbo-instruct"),
            stream=jsonbody.optional_flag(document, "stream"),
            output_limit=jsonbody.optional_count(document, "max_tokens", least=0),
            choices=times * prompt.texts,
            prompt_bytes=prompt.text_bytes + jsonbody.utf8_bytes(suffix),
            overhead_tokens=prompt.tokens + 8 * prompt.texts,
            external_inputs=0,
            wants_usage=wants_usage(document),
            document=document,
        )

    def limit_changes(self, facts: RequestFacts, limit: int, provider: str) -> Mapping[str, object]:
        """`max_tokens`."""
        del facts, provider
        return {"max_tokens": limit}

    def usage_changes(self, facts: RequestFacts, provider: str) -> Mapping[str, object]:
        """`stream_options.include_usage`, merged into the client's other options."""
        return ask_for_usage(facts, provider)
