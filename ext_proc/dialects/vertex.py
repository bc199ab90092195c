"""Vertex: Gemini's and Anthropic's bodies, at paths that name project, location and model."""

from __future__ import annotations

from ext_proc.dialects import jsonbody
from ext_proc.dialects.anthropic_messages import AnthropicMessages, messages_facts, required_limit
from ext_proc.dialects.gemini import MODEL_IN_PATH, Gemini
from ext_proc.dialects.interface import RequestFacts


class VertexGemini(Gemini):
    """`POST …/publishers/google/models/{model}:generateContent` and `:streamGenerateContent`."""

    name = "vertex-gemini"
    default_account = "vertex-main"


class VertexAnthropic(AnthropicMessages):
    """`POST …/publishers/anthropic/models/{model}:rawPredict` and `:streamRawPredict`."""

    name = "vertex-anthropic"
    default_account = "vertex-main"
    path_model = MODEL_IN_PATH

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body."""
        stream = path.partition("?")[0].endswith(":streamRawPredict") or jsonbody.optional_flag(document, "stream")
        return messages_facts(document, model=self.model_in_path(path), limit=required_limit(document), stream=stream)
