"""How much a request makes the model read: bytes of inline text, and inputs whose size no byte count bounds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ext_proc.dialects.jsonbody import dump, utf8_bytes

_MEDIA_KEYS = frozenset({
    "audio", "document", "file", "file_data", "file_id", "fileData", "file_url", "image", "image_url", "inlineData",
    "input_audio", "source", "url", "video", "video_url",
})  # fmt: skip
"""Keys of a content part that hold, or point to, something other than the text beside them."""

_UNREAD_KEYS = frozenset({"type", "cache_control", "id", "index", "signature"})
"""Keys of a content part that the model does not read."""


@dataclass(slots=True)
class PromptSize:
    """A running count, as `RequestFacts` wants it."""

    text_bytes: int = 0
    external_inputs: int = 0

    def add_content(self, content: object) -> None:
        """Message content: a string, or parts of text and media in any nesting; anything else counts in full."""
        match content:
            case None:
                return
            case str():
                self.text_bytes += utf8_bytes(content)
            case list():
                for part in content:
                    self.add_content(part)
            case dict():
                self._add_part(content)
            case _:
                self.text_bytes += len(str(content))

    def add_schema(self, value: object) -> None:
        """Tool definitions, response formats: what the provider renders into the prompt. Their JSON text bounds it."""
        if value:
            self.text_bytes += len(dump({"": value}))

    def _add_part(self, part: dict[str, object]) -> None:
        if _MEDIA_KEYS.intersection(part) and not _is_text_source(part.get("source")):
            self.external_inputs += 1
        for key, value in part.items():
            if key in _MEDIA_KEYS:
                if isinstance(value, dict) and _is_text_source(value):
                    self.add_content(value.get("data", value.get("content")))
            elif isinstance(value, str):
                if key not in _UNREAD_KEYS:
                    self.text_bytes += utf8_bytes(value)
            elif isinstance(value, (list, dict)) and key not in _UNREAD_KEYS:
                self._add_nested(key, value)

    def _add_nested(self, key: str, value: list[object] | dict[str, object]) -> None:
        if key in {"input", "args", "arguments", "parameters", "response"}:
            self.add_schema(value)  # structured data that the model reads as JSON text
        else:
            self.add_content(value)


def _is_text_source(source: object) -> bool:
    """Anthropic's document sources of inline text: the text itself stands in the body."""
    return isinstance(source, dict) and source.get("type") in {"text", "content"}


def count_tools_of_type(tools: list[object], local: Collection[str]) -> tuple[int, int]:
    """(tools, server tools): a tool whose `type` is not in `local` runs at the provider and brings input of its own."""
    server = 0
    for tool in tools:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind not in local:
            server += 1
    return len(tools), server
