"""What can be seen of a request beyond its size: whether it brings tools, whether it holds images.

Read from the parsed body by the keys of all dialects at once: they differ in names, not in meaning. What may be an
image counts as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ext_proc.dialects.interface import RequestFacts

_TOOL_KEYS: Final = ("tools", "functions", "web_search_options")
_CONTENT_KEYS: Final = ("messages", "input", "contents", "system", "systemInstruction", "prompt")
_ELSEWHERE_KEYS: Final = ("previous_response_id", "conversation", "cachedContent", "cached_content")
"""What was said before, at the provider's: nobody here knows what it holds."""

_IMAGE_TYPES: Final = frozenset(
    {"image", "image_url", "input_image", "input_file", "file", "document", "container_upload"}
)
_MEDIA_KEYS: Final = ("inlineData", "inline_data", "fileData", "file_data", "image", "document")
_MIME_KEYS: Final = ("mimeType", "mime_type", "media_type")
_NO_IMAGES: Final = ("audio/", "text/", "video/")


def brings_tools(facts: RequestFacts) -> bool:
    """Whether the model may call tools, of the caller's or of the provider's."""
    document = facts.document
    if any(document.get(key) for key in _TOOL_KEYS):
        return True
    config = document.get("toolConfig")
    return isinstance(config, Mapping) and bool(config.get("tools"))


def holds_images(facts: RequestFacts) -> bool:
    """Whether the model is shown images, or files that may be images. Without recursion: bodies are as deep as clients
    like.
    """
    document = facts.document
    if any(document.get(key) for key in _ELSEWHERE_KEYS) or isinstance(document.get("prompt"), Mapping):
        return True
    waiting: list[object] = [document.get(key) for key in _CONTENT_KEYS]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, Mapping):
            if _is_image(value):
                return True
            waiting.extend(value.values())
    return False


def _is_image(part: Mapping[str, object]) -> bool:
    if part.get("type") in _IMAGE_TYPES:
        return not _is_text(part.get("source"))
    return any(isinstance(media := part.get(key), Mapping) and not _is_other(media) for key in _MEDIA_KEYS)


def _is_text(source: object) -> bool:
    """Anthropic's documents of inline text."""
    return isinstance(source, Mapping) and source.get("type") == "text"


def _is_other(media: Mapping[str, object]) -> bool:
    kinds = (media.get(key) for key in _MIME_KEYS)
    return any(isinstance(kind, str) and kind.startswith(_NO_IMAGES) for kind in kinds)
