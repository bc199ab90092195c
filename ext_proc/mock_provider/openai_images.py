"""OpenAI images: tiny pictures with the usage of GPT image models; streamed, partial ones come before the whole."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.openai_chat import OpenAIChat
from ext_proc.mock_provider.shape import CREATED, Call, StreamEvent, event, exactly

_PICTURE = base64.b64encode(b"\x89PNG of the mock provider " * 40).decode()
_ASKED = {"background": "opaque", "output_format": "png", "quality": "low", "size": "1024x1024"}


class OpenAIImages(OpenAIChat):
    """`POST /v1/images/generations`."""

    path = exactly("/v1/images/generations")
    kind = "image_generation"

    def check(self, document: Mapping[str, object]) -> None:
        """A request needs a model and a prompt."""
        for name in ("model", "prompt"):
            if not isinstance(document.get(name), str):
                raise MockRequestError(f"you must provide a {name} parameter")

    def output_limit(self, document: Mapping[str, object]) -> int | None:
        """The API has none."""
        del document
        return None

    def plain(self, call: Call) -> dict[str, object]:
        """`n` pictures."""
        number = call.document.get("n")
        answer: dict[str, object] = {
            "created": CREATED,
            "data": [{"b64_json": _PICTURE}] * (number if isinstance(number, int) else 1),
            **_ASKED,
        }
        return answer if call.behavior.no_usage else answer | {"usage": _usage(call, streamed=False)}

    def stream(self, call: Call) -> list[StreamEvent]:
        """`partial_image`s and `completed`."""
        number = call.document.get("partial_images")
        partial = number if isinstance(number, int) else 0
        start = {"b64_json": _PICTURE, "created_at": CREATED, **_ASKED}
        events = [self._event("partial_image", {**start, "partial_image_index": at}) for at in range(partial)]
        usage = {} if call.behavior.no_usage else {"usage": _usage(call, streamed=True)}
        return [*events, self._event("completed", {**start, **usage})]

    def _event(self, name: str, document: Mapping[str, object]) -> StreamEvent:
        return event({"type": f"{self.kind}.{name}", **document}, name=f"{self.kind}.{name}", text=True)


class OpenAIImageEdits(OpenAIImages):
    """`POST /v1/images/edits`."""

    path = exactly("/v1/images/edits")
    kind = "image_edit"


def _usage(call: Call, *, streamed: bool) -> dict[str, object]:
    counts = call.counts
    read, made = counts.input + counts.image_in, counts.output + counts.image_out
    usage: dict[str, object] = {
        "input_tokens": read,
        "input_tokens_details": {"text_tokens": counts.input, "image_tokens": counts.image_in},
        "output_tokens": made,
        "total_tokens": read + made,
    }
    if not streamed:
        usage["output_tokens_details"] = {"text_tokens": counts.output, "image_tokens": counts.image_out}
    return usage
