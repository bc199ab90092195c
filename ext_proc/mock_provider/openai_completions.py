"""OpenAI's older completions: usage as in chat, text where chat has messages."""

from __future__ import annotations

from collections.abc import Mapping

from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.openai_chat import DONE, OpenAIChat, head, tokens_of_choices, usage, wants_usage
from ext_proc.mock_provider.shape import Call, StreamEvent, event, exactly, output_text, text_pieces


class OpenAICompletions(OpenAIChat):
    """`POST /v1/completions`."""

    path = exactly("/v1/completions")

    def check(self, document: Mapping[str, object]) -> None:
        """A request needs a model."""
        if not isinstance(document.get("model"), str):
            raise MockRequestError("you must provide a model parameter")

    def plain(self, call: Call) -> dict[str, object]:
        """A `text_completion`."""
        answer = head(call, "text_completion", "cmpl")
        answer["choices"] = [
            self._choice(index, output_text(tokens), self._finish_reason(call))
            for index, tokens in enumerate(tokens_of_choices(call))
        ]
        if not call.behavior.no_usage:
            answer["usage"] = usage(call.counts)
        return answer

    def stream(self, call: Call) -> list[StreamEvent]:
        """`text_completion`s and `[DONE]`."""
        with_usage = wants_usage(call)
        start = head(call, "text_completion", "cmpl")
        tail: dict[str, object] = {"usage": None} if with_usage else {}
        events = [
            event({**start, "choices": [self._choice(index, piece, None)], **tail}, text=True)
            for index, tokens in enumerate(tokens_of_choices(call))
            for piece in text_pieces(tokens, call.behavior.chunks)
        ]
        finish = self._finish_reason(call)
        events += [
            event({**start, "choices": [self._choice(index, "", finish)], **tail})
            for index in range(len(tokens_of_choices(call)))
        ]
        if with_usage:
            events.append(event({**start, "choices": [], "usage": usage(call.counts)}))
        return [*events, DONE]

    @staticmethod
    def _choice(index: int, text: str, finish: str | None) -> dict[str, object]:
        return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}
