"""OpenAI transcriptions and translations: a recording to text, billed by tokens or by the recording's length.

`usage` is of type `tokens` (audio and text apart) or `duration` (seconds); a verbose answer of an older server tells
its `duration` alone. Formats that are no JSON (`text`, `srt`, `vtt`) tell nothing: such an answer is charged by the
estimate below. Source: the `openai` SDK's types `Transcription`, `TranscriptionVerbose`, `TranscriptionTextDoneEvent`.

Nothing bounds the length of a recording but its size: a hold goes by the lowest bit rates in use, a WAV file by its
header, and strict admission refuses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ext_proc.dialects import jsonbody, multipart
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.form import FormDialect, FormDocument, flag_field
from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.tally import Needle, ResponseShape, object_at, text_keys
from ext_proc.dialects.usage_paths import COUNT_MAX, UsageTable, dig, paths
from ext_proc.pricing.usage import Usage

USAGE_TABLE = UsageTable(
    root="usage",
    counts=paths(
        {
            "prompt": "input_tokens",
            "audio_in": "input_token_details.audio_tokens",
            "text_in": "input_token_details.text_tokens",
            "completion": "output_tokens",
        },
        below="usage",
    ),
)

TOKENS_PER_MINUTE = 1_000
"""Of audio: OpenAI puts a minute at $0.006, which is so many tokens of `gpt-4o-transcribe`."""

_WORDS_PER_MINUTE = 300  # tokens of text in a minute of fast speech
_BYTES_PER_SECOND = 4_000  # 32 kbit/s: little for MP3 and AAC, plenty for Opus
_WAV = re.compile(rb"RIFF....WAVEfmt ", re.DOTALL)
_WAV_BYTE_RATE = slice(28, 32)
_WAV_HEADER_BYTES = 44
_WAV_BYTE_RATES = range(8_000, 1_536_001)  # 8 kHz and 8 bits to 192 kHz, 32 bits, stereo: others are not believed


def usage_from_counts(counts: Mapping[str, int]) -> Usage:
    """Input that is not told apart is the recording. Billed by length, tokens are none."""
    if "audio_ms" in counts:
        return Usage(audio_ms=counts["audio_ms"], requests=1)
    prompt = counts.get("prompt", 0)
    text_in = min(counts.get("text_in", 0), prompt)
    audio_in = min(counts.get("audio_in", prompt - text_in), prompt)
    return Usage(input_uncached=prompt - audio_in, audio_in=audio_in, output=counts.get("completion", 0), requests=1)


def _length(document: Mapping[str, object]) -> Mapping[str, int]:
    """The recording's length in milliseconds, where it is what is billed, or all that is told."""
    usage = document.get("usage")
    seconds = dig(usage, ("seconds",)) if isinstance(usage, dict) else document.get("duration")
    if isinstance(seconds, str):  # an older server of the same API writes 12.5 as text
        seconds = float(seconds) if re.fullmatch(r"\d{1,7}(\.\d{1,9})?", seconds) else None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds * 1_000 <= COUNT_MAX:
        return {}
    return {"audio_ms": round(seconds * 1_000)}


class OpenAITranscriptions(FormDialect):
    """`POST /v1/audio/transcriptions` and `/v1/audio/translations`."""

    name = "openai-transcriptions"
    operation = "generate_content"
    default_account = "openai-main"
    units = frozenset({"audio_ms"})
    input_kind = "audio_in"
    file_fields = frozenset({"file"})
    speaks_json = False  # some of its formats are no JSON
    shape = ResponseShape(
        table=USAGE_TABLE,
        usage_from_counts=usage_from_counts,
        output_count=None,
        text=text_keys("delta"),
        body_text=text_keys("text"),
        terminal=Needle(b"transcript.text.done", re.compile(rb'"type"\s*:\s*"transcript\.text\.done"')),
        watched=object_at("usage"),
        more_counts=_length,
    )

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a form. The prompt guides the style; the recording is what is read."""
        del path  # the model is in the form
        if not isinstance(document, FormDocument):
            raise DialectError("content-type", "is not multipart/form-data; send the recording as a file of a form")
        if len(document.form.files) != 1:
            raise DialectError("file", "is missing; send one recording as a file")
        length_ms = audio_ms(document.form.body, document.form.files[0])
        prompt = jsonbody.optional_text(document, "prompt") or ""
        return RequestFacts(
            model=jsonbody.required_text(document, "model", "gpt-4o-transcribe"),
            stream=flag_field(document, "stream"),
            output_limit=max(16, length_ms * _WORDS_PER_MINUTE // 60_000),
            choices=1,
            prompt_bytes=jsonbody.utf8_bytes(prompt),
            overhead_tokens=8 + -(-length_ms * TOKENS_PER_MINUTE // 60_000),
            external_inputs=0,
            wants_usage=True,
            document=document,
            units=Usage(audio_ms=length_ms),
            estimated=frozenset({"audio_ms", "audio_in", "output"}),
        )


def audio_ms(body: bytes, file: multipart.Part) -> int:
    """How long a recording probably is at most."""
    header = body[file.start : min(file.end, file.start + _WAV_HEADER_BYTES)]
    rate = _BYTES_PER_SECOND
    if _WAV.match(header) and (told := int.from_bytes(header[_WAV_BYTE_RATE], "little")) in _WAV_BYTE_RATES:
        rate = told
    return max(1, -(-file.size * 1_000 // rate))
