"""How much a request makes the model read: bytes of inline text, and inputs whose size no byte count bounds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.jsonbody import dump, kind, required_items, utf8_bytes

_MEDIA_KEYS = frozenset({
    "audio", "document", "file", "fileData", "file_data", "file_id", "file_url", "image", "image_url", "inlineData",
    "inline_data", "input_audio", "source", "url", "video", "video_url",
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
        if isinstance(content, str):
            self.text_bytes += utf8_bytes(content)
        elif isinstance(content, list):
            for part in content:
                self.add_content(part)
        elif isinstance(content, dict):
            self._add_part(content)
        elif content is not None:
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
        if key in {"input", "args", "arguments", "json", "parameters", "response"}:
            self.add_schema(value)  # structured data that the model reads as JSON text
        else:
            self.add_content(value)


def _is_text_source(source: object) -> bool:
    """Anthropic's document sources of inline text: the text itself stands in the body."""
    return isinstance(source, dict) and source.get("type") in {"text", "content"}


def count_server_tools(tools: list[object], local: Collection[str]) -> int:
    """Tools whose `type` is not in `local`: they run at the provider and bring input of their own."""
    kinds = (tool.get("type") for tool in tools if isinstance(tool, dict))
    return sum(isinstance(kind, str) and kind not in local for kind in kinds)


@dataclass(frozen=True, slots=True)
class TextInput:
    """An input that is text or tokens, one or many."""

    texts: int = 0
    text_bytes: int = 0
    tokens: int = 0  # where the client sends token ids, their number is exact


def read_text_input(document: Mapping[str, object], field: str) -> TextInput:
    """A string, token ids, or an array of either. Raises `DialectError` for anything else."""
    value = document.get(field)
    if isinstance(value, str):
        return TextInput(texts=1, text_bytes=utf8_bytes(value))
    items = required_items(document, field)
    if all(_is_token(item) for item in items):
        return TextInput(texts=1, tokens=len(items))
    text_bytes = tokens = 0
    for index, item in enumerate(items):
        if isinstance(item, str):
            text_bytes += utf8_bytes(item)
        elif isinstance(item, list) and all(_is_token(token) for token in item):
            tokens += len(item)
        else:
            raise DialectError(f"{field}[{index}]", f"is {kind(item)}; it must be a string or an array of token ids")
    return TextInput(texts=len(items), text_bytes=text_bytes, tokens=tokens)


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
