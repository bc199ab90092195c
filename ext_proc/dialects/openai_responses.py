"""OpenAI responses.

The stream's terminal events (`response.completed`, `.incomplete`, `.failed`) each carry the whole response with its
usage; an incomplete or failed one is billed too. Text arrives in `delta` fields and is repeated whole in `…done` events
and in the terminal one, so only the deltas are counted. Source: the `openai` SDK's types `ResponseUsage` and
`ResponseStreamEvent`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ext_proc.dialects import jsonbody
from ext_proc.dialects.base import BaseDialect
from ext_proc.dialects.content import PromptSize, count_server_tools
from ext_proc.dialects.ending import CutPoint, Ending
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.openai_chat import LOCAL_TOOLS, OVERHEAD_PER_MESSAGE, OVERHEAD_PER_REQUEST, OVERHEAD_PER_TOOL
from ext_proc.dialects.openai_usage import usage_from_counts
from ext_proc.dialects.sse import written
from ext_proc.dialects.tally import Needle, ResponseShape, object_at, text_keys
from ext_proc.dialects.usage_paths import UsageTable, dig, paths

_USAGE = {
    "prompt": "input_tokens",
    "cache_read": "input_tokens_details.cached_tokens",
    "cache_write": "input_tokens_details.cache_write_tokens",
    "audio_in": "input_tokens_details.audio_tokens",
    "completion": "output_tokens",
    "reasoning": "output_tokens_details.reasoning_tokens",
    "audio_out": "output_tokens_details.audio_tokens",
    "total": "total_tokens",
}

USAGE_TABLE = UsageTable(
    root="usage",
    counts=(*paths(_USAGE, below="response.usage"), *paths(_USAGE, below="usage")),
    served_model=(("response", "model"), ("model",)),
    service_tier=(("response", "service_tier"), ("service_tier",)),
)


def _searches(document: Mapping[str, object]) -> Mapping[str, int]:
    """Web searches are billed per call and stand among the output items; opening a found page is not billed."""
    output = dig(document, ("response", "output")) or document.get("output")
    if not isinstance(output, list):
        return {}
    calls = [item for item in output if isinstance(item, dict) and item.get("type") == "web_search_call"]
    made = sum(dig(call, ("action", "type")) in {None, "search"} for call in calls)
    return {"searches": made} if made else {}


def _end(point: CutPoint) -> bytes | None:
    """`response.incomplete`: the response as it began, without the output that the client has seen in pieces."""
    response, number = (point.opening or {}).get("response"), point.latest.get("sequence_number")
    if not isinstance(response, dict) or not isinstance(number, int):
        return None
    usage = {
        "input_tokens": point.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": point.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": point.input_tokens + point.output_tokens,
    }
    name = "response.incomplete"
    ended = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "usage": usage}
    return written({"type": name, "sequence_number": number + 1, "response": {**response, **ended}}, name)


SHAPE = ResponseShape(
    table=USAGE_TABLE,
    usage_from_counts=usage_from_counts,
    output_count="completion",
    text=text_keys("delta"),
    body_text=text_keys("text", "arguments", "refusal", "input"),
    terminal=Needle(b'"response.', re.compile(rb'"type"\s*:\s*"response\.(?:completed|incomplete|failed)"')),
    watched=object_at("usage"),
    more_counts=_searches,
    ending=Ending(
        latest=re.compile(rb'"sequence_number"'), write=_end, opening=re.compile(rb'"type"\s*:\s*"response\.created"')
    ),
)

_STORED = ("previous_response_id", "conversation", "prompt")
"""Fields that bring in what is stored at the provider."""


class OpenAIResponses(BaseDialect):
    """`POST /v1/responses`."""

    name = "openai-responses"
    default_account = "openai-main"
    shape = SHAPE

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body.

        A background response is refused: it is answered before it is made, and read later on a path that shows no
        request to charge, so it would pass by every budget.
        """
        del path  # the model is in the body
        if jsonbody.optional_flag(document, "background"):
            raise DialectError("background", "cannot be metered; leave it out, and stream long responses instead")
        tools = jsonbody.optional_items(document, "tools")
        size, items = _prompt_size(document)
        size.external_inputs += count_server_tools(tools, LOCAL_TOOLS)
        size.external_inputs += sum(document.get(field) is not None for field in _STORED)
        return RequestFacts(
            model=jsonbody.required_text(document, "model", "gpt-4o-mini"),
            stream=jsonbody.optional_flag(document, "stream"),
            output_limit=jsonbody.optional_count(document, "max_output_tokens"),
            choices=1,
            prompt_bytes=size.text_bytes,
            overhead_tokens=OVERHEAD_PER_REQUEST + OVERHEAD_PER_MESSAGE * items + OVERHEAD_PER_TOOL * len(tools),
            external_inputs=size.external_inputs,
            wants_usage=True,
            document=document,
            service_tier=jsonbody.optional_text(document, "service_tier"),
        )

    def limit_changes(self, facts: RequestFacts, limit: int, provider: str) -> Mapping[str, object]:
        """`max_output_tokens`."""
        del facts, provider
        return {"max_output_tokens": limit}


def _prompt_size(document: Mapping[str, object]) -> tuple[PromptSize, int]:
    """The size, and the number of input items."""
    size = PromptSize()
    size.add_content(document.get("instructions"))
    given = document.get("input")
    items = given if isinstance(given, list) else [given]
    for index, item in enumerate(items):
        if not isinstance(item, (str, dict)) and given is not None:
            raise DialectError(f"input[{index}]", f"is {jsonbody.kind(item)}; each item must be an object")
        if isinstance(item, dict) and item.get("type") == "item_reference":
            size.external_inputs += 1
        size.add_content(item)
    for field in ("tools", "text"):
        size.add_schema(document.get(field))
    return size, len(items)
