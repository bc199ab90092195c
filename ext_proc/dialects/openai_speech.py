"""OpenAI speech: text to a recording, billed by the characters of the text (`tts-1`) or by tokens (`gpt-4o-mini-tts`).

Only a stream of events (`stream_format: sse`) tells tokens, in `speech.audio.done`. A recording tells nothing: its
characters are known from the request, and tokens are estimated from its size. Source: the `openai` SDK's types
`SpeechCreateParams`; OpenAI's price page puts a minute of speech at $0.015, which is 1,250 tokens of `gpt-4o-mini-tts`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ext_proc.dialects import jsonbody
from ext_proc.dialects.base import BaseDialect
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.tally import Needle, ResponseShape, object_at
from ext_proc.dialects.usage_paths import UsageTable, paths
from ext_proc.pricing.usage import Usage

USAGE_TABLE = UsageTable(
    root="usage", counts=paths({"prompt": "input_tokens", "completion": "output_tokens"}, below="usage")
)

_BYTES_PER_TOKEN = {
    "audio/mpeg": 768,
    "audio/aac": 768,
    "audio/opus": 384,
    "audio/ogg": 384,
    "audio/flac": 1_152,
    "audio/wav": 2_304,
    "audio/pcm": 2_304,
    "audio/x-wav": 2_304,
    "application/octet-stream": 768,
}
"""At 20.8 tokens a second: 128 kbit/s of MP3 and AAC, 64 of Opus, 24 kHz and 16 bits of PCM, half of that in FLAC."""

_TOKENS_PER_CHARACTER = 2  # ten characters a second is slow speech
_SLOWEST = 0.25


def usage_from_counts(counts: Mapping[str, int]) -> Usage:
    """What is spoken is audio."""
    return Usage(input_uncached=counts.get("prompt", 0), audio_out=counts.get("completion", 0), requests=1)


class OpenAISpeech(BaseDialect):
    """`POST /v1/audio/speech`."""

    name = "openai-speech"
    operation = "generate_content"
    default_account = "openai-main"
    units = frozenset({"characters"})
    output_kind = "audio_out"
    speaks_json = False  # a recording, or events of kilobytes
    shape = ResponseShape(
        table=USAGE_TABLE,
        usage_from_counts=usage_from_counts,
        output_count="completion",
        text=(),
        terminal=Needle(b"speech.audio.done", re.compile(rb'"type"\s*:\s*"speech\.audio\.done"')),
        watched=object_at("usage"),
        media=_BYTES_PER_TOKEN,
    )

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body."""
        del path  # the model is in the body
        text = jsonbody.required_text(document, "input", "Good morning.")
        instructions = jsonbody.optional_text(document, "instructions") or ""
        return RequestFacts(
            model=jsonbody.required_text(document, "model", "gpt-4o-mini-tts"),
            stream=document.get("stream_format") == "sse",
            output_limit=max(1, round(len(text) * _TOKENS_PER_CHARACTER / min(1, _speed(document)))),
            choices=1,
            prompt_bytes=jsonbody.utf8_bytes(text) + jsonbody.utf8_bytes(instructions),
            overhead_tokens=8,
            external_inputs=0,
            wants_usage=True,
            document=document,
            units=Usage(characters=len(text)),
            estimated=frozenset({"output", "audio_out"}),
        )


def _speed(document: jsonbody.Document) -> float:
    value = document.get("speed")
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DialectError("speed", f"is {jsonbody.kind(value)}; it must be a number from 0.25 to 4")
    return max(_SLOWEST, float(value))
