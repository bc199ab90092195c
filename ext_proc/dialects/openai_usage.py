"""Usage as OpenAI's APIs report it: inclusive counts, split here into disjoint ones."""

from __future__ import annotations

from collections.abc import Mapping

from ext_proc.pricing.usage import Usage


def usage_from_counts(counts: Mapping[str, int]) -> Usage:
    """Split inclusive counts into disjoint ones; every remainder is clamped at 0.

    `cache_write_tokens` is documented as unadjusted, so it may not exceed what is left of the prompt; audio and images
    are billed inside the uncached part only. xAI reports reasoning beside `completion_tokens`, not inside: its total
    gives it away. Embeddings report a prompt and nothing else.
    """
    prompt = counts.get("prompt", 0)
    total = counts.get("total", 0)
    completion = counts.get("completion", max(0, total - prompt) if total else 0)
    reasoning = counts.get("reasoning", 0)
    if reasoning and total == prompt + completion + reasoning:
        completion += reasoning
    cache_read = min(counts.get("cache_read", 0), prompt)
    cache_write = min(counts.get("cache_write", 0), prompt - cache_read)
    uncached = prompt - cache_read - cache_write
    audio_in = min(counts.get("audio_in", 0), uncached)
    image_in = min(counts.get("image_in", 0), uncached - audio_in)
    audio_out = min(counts.get("audio_out", 0), completion)
    image_out = min(counts.get("image_out", 0), completion - audio_out)
    output = completion - audio_out - image_out
    return Usage(
        input_uncached=uncached - audio_in - image_in,
        cache_read=cache_read,
        cache_write_5m=cache_write,
        audio_in=audio_in,
        image_in=image_in,
        output=output,
        reasoning=min(reasoning, output),
        audio_out=audio_out,
        image_out=image_out,
        searches=counts.get("searches", 0),
        requests=1,
    )
