"""OpenAI audio: recordings to text, billed by tokens or by their length, and text to recordings."""

from __future__ import annotations

from collections.abc import Mapping

from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.openai_chat import OpenAIChat
from ext_proc.mock_provider.shape import Call, StreamEvent, event, exactly, output_text, text_pieces

RECORDING_TYPE = "audio/mpeg"
_RECORDING_BYTES_PER_TOKEN = 768


class OpenAITranscriptions(OpenAIChat):
    """`POST /v1/audio/transcriptions`."""

    path = exactly("/v1/audio/transcriptions")

    def check(self, document: Mapping[str, object]) -> None:
        """A form needs a model and a file."""
        if not isinstance(document.get("model"), str):
            raise MockRequestError("you must provide a model parameter")
        if not isinstance(document.get("file"), bytes):
            raise MockRequestError("you must provide a file")

    def output_limit(self, document: Mapping[str, object]) -> int | None:
        """The API has none."""
        del document
        return None

    def plain(self, call: Call) -> dict[str, object]:
        """The text, and what it is billed by: the length where a length was asked of the mock."""
        answer: dict[str, object] = {"text": output_text(call.counts.output)}
        return answer if call.behavior.no_usage else answer | {"usage": _usage(call)}

    def stream(self, call: Call) -> list[StreamEvent]:
        """`transcript.text.delta`s and `transcript.text.done`."""
        pieces = text_pieces(call.counts.output, call.behavior.chunks)
        events = [event({"type": "transcript.text.delta", "delta": piece}, text=True) for piece in pieces]
        done: dict[str, object] = {"type": "transcript.text.done", "text": output_text(call.counts.output)}
        return [*events, event(done if call.behavior.no_usage else done | {"usage": _usage(call)})]


class OpenAISpeech(OpenAIChat):
    """`POST /v1/audio/speech`."""

    path = exactly("/v1/audio/speech")

    def check(self, document: Mapping[str, object]) -> None:
        """A request needs a model, an input and a voice."""
        for name in ("model", "input", "voice"):
            if not isinstance(document.get(name), str):
                raise MockRequestError(f"you must provide a {name} parameter")

    def output_limit(self, document: Mapping[str, object]) -> int | None:
        """The API has none."""
        del document
        return None

    def recording(self, call: Call) -> bytes:
        """Something as large as a recording of so many tokens."""
        return b"\xff" + bytes(call.counts.audio_out * _RECORDING_BYTES_PER_TOKEN - 1)


def _usage(call: Call) -> dict[str, object]:
    counts = call.counts
    if counts.audio_ms:
        return {"type": "duration", "seconds": counts.audio_ms / 1_000}
    read = counts.input + counts.audio_in
    return {
        "type": "tokens",
        "input_tokens": read,
        "input_token_details": {"text_tokens": counts.input, "audio_tokens": counts.audio_in},
        "output_tokens": counts.output,
        "total_tokens": read + counts.output,
    }
