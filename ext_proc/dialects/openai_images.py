"""OpenAI image generations and edits: billed by tokens of text and images (GPT image models), or image by image.

`usage` splits input and output into text and image tokens; streamed events name the output's image tokens alone, in the
completed event. Each partial image costs 100 output tokens more. Source: the `openai` SDK's types `ImagesResponse`,
`ImageGenCompletedEvent`, `ImageGenerateParams`, and OpenAI's image generation guide for tokens by size and quality.

No API field bounds the output in tokens, so a hold estimates it from size and quality, and strict admission refuses.
Answers are megabytes: they go through meter always, never through Envoy's own parsers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ext_proc.dialects import jsonbody
from ext_proc.dialects.content import PromptSize
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.form import FormDialect, count_field, files_of, flag_field
from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.tally import Needle, ResponseShape, object_at
from ext_proc.dialects.usage_paths import UsageTable, paths
from ext_proc.pricing.usage import Usage

USAGE_TABLE = UsageTable(
    root="usage",
    counts=paths(
        {
            "prompt": "input_tokens",
            "cache_read": "input_tokens_details.cached_tokens",
            "image_in": "input_tokens_details.image_tokens",
            "completion": "output_tokens",
            "image_out": "output_tokens_details.image_tokens",
            "text_out": "output_tokens_details.text_tokens",
        },
        below="usage",
    ),
)

_TOKENS_PER_MEGAPIXEL = {"low": 260, "medium": 1_008, "high": 3_968, "xhigh": 7_936, "max": 15_872}
"""Output tokens per million pixels: OpenAI's guide has 272, 1,056 and 4,160 for 1024 × 1024. The two it does not list
are assumed to double from quality to quality."""

_DEFAULT_QUALITY = "high"  # `auto` may choose it
_LARGEST_PIXELS = 1024 * 1536  # `auto` may choose it; larger ones have to be asked for
_PIXELS_PER_UNIT = 1_000_000
_FRAMES = 9  # of a GIF that names no number
_TOKENS_PER_PARTIAL = 100
_TOKENS_PER_FAITHFUL_INPUT = 6_240
"""What an input image takes beyond its usual tokens where `input_fidelity` is high, at most."""

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def usage_from_counts(counts: Mapping[str, int]) -> Usage:
    """Split inclusive counts into disjoint ones. Output that is not told apart is the image."""
    prompt, completion = counts.get("prompt", 0), counts.get("completion", 0)
    cache_read = min(counts.get("cache_read", 0), prompt)
    image_in = min(counts.get("image_in", 0), prompt - cache_read)
    text_out = min(counts.get("text_out", 0), completion)
    image_out = min(counts.get("image_out", completion - text_out), completion)
    return Usage(
        input_uncached=prompt - cache_read - image_in,
        cache_read=cache_read,
        image_in=image_in,
        output=completion - image_out,
        image_out=image_out,
        images=counts.get("images", 0),
        requests=1,
    )


def _images(document: Mapping[str, object]) -> Mapping[str, int]:
    """The images of a whole answer; those of a stream, and of an answer too large to keep, are the request's `n`."""
    data = document.get("data")
    return {"images": len(data)} if isinstance(data, list) and data else {}


SHAPE = ResponseShape(
    table=USAGE_TABLE,
    usage_from_counts=usage_from_counts,
    output_count="completion",
    text=(),
    terminal=Needle(b".completed", re.compile(rb'"type"\s*:\s*"image_(?:generation|edit)\.completed"')),
    watched=object_at("usage"),
    more_counts=_images,
)


class OpenAIImages(FormDialect):
    """`POST /v1/images/generations` (JSON) and `/v1/images/edits` (a form)."""

    name = "openai-images"
    operation = "generate_content"
    default_account = "openai-main"
    shape = SHAPE
    units = frozenset({"images"})
    output_kind = "image_out"
    file_fields = frozenset({"image", "mask"})
    speaks_json = False  # too large for parsers that keep a whole answer

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body. An SVG is refused: a second model draws it, and its price is not this one's."""
        del path  # the model is in the body
        if document.get("output_format") == "svg" or document.get("svg") is not None:
            raise DialectError("output_format", "svg is drawn by another model and cannot be metered; choose png")
        size = PromptSize()
        size.add_content(jsonbody.required_text(document, "prompt", "A lighthouse at dusk."))
        pictures = len(files_of(document)) or _listed(document.get("image")) + _listed(document.get("images"))
        pictures += "mask" in document
        images = count_field(document, "n") or 1
        partial = count_field(document, "partial_images", least=0) or 0
        faithful = _TOKENS_PER_FAITHFUL_INPUT if document.get("input_fidelity") == "high" else 0
        return RequestFacts(
            model=jsonbody.required_text(document, "model", "gpt-image-2"),
            stream=flag_field(document, "stream"),
            output_limit=output_tokens(document) + partial * _TOKENS_PER_PARTIAL,
            choices=images,
            prompt_bytes=size.text_bytes,
            overhead_tokens=8 + pictures * faithful,
            external_inputs=pictures,
            wants_usage=True,
            document=document,
            units=Usage(images=images),
            estimated=frozenset({"output", "image_out"}),
        )


def output_tokens(document: jsonbody.Document) -> int:
    """About how many tokens one image takes, by the size and quality asked for; frames of a GIF count each."""
    asked = _SIZE.fullmatch(str(document.get("size")))
    pixels = int(asked[1]) * int(asked[2]) if asked else _LARGEST_PIXELS
    rate = _TOKENS_PER_MEGAPIXEL.get(str(document.get("quality")), _TOKENS_PER_MEGAPIXEL[_DEFAULT_QUALITY])
    frames = (count_field(document, "frame_count") or _FRAMES) if document.get("output_format") == "gif" else 1
    return max(1, -(-pixels * rate * frames // _PIXELS_PER_UNIT))


def _listed(value: object) -> int:
    return len(value) if isinstance(value, list) else int(value is not None)
