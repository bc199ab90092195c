"""Messages that took several inferences: `usage.iterations` of Anthropic's betas.

Each entry (`message`, `compaction`, `advisor_message`, `fallback_message`) has token counts of its own and may name a
model. What a compaction or an advisor used is not in the top-level counts, so the entries are charged instead of them.
A declined attempt before a fallback has no output and is not billed. Source: the `anthropic` SDK's types
`BetaIterationsUsage` and its members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ext_proc.dialects.interface import Part
from ext_proc.dialects.usage_paths import as_count, dig
from ext_proc.pricing.usage import Usage

_PLACES = (("usage", "iterations"), ("message", "usage", "iterations"))
_COUNTS = {
    "input": ("input_tokens",),
    "cache_read": ("cache_read_input_tokens",),
    "cache_write": ("cache_creation_input_tokens",),
    "cache_write_5m": ("cache_creation", "ephemeral_5m_input_tokens"),
    "cache_write_1h": ("cache_creation", "ephemeral_1h_input_tokens"),
    "output": ("output_tokens",),
}


def parts(document: Mapping[str, object], usage_from_counts: Callable[[Mapping[str, int]], Usage]) -> tuple[Part, ...]:
    """The inferences a document reports, in order; none where it reports none."""
    for place in _PLACES:
        found = dig(document, place)
        if isinstance(found, list) and found:
            entries = [entry for entry in found if isinstance(entry, dict)]
            fell_back = any(entry.get("type") == "fallback_message" for entry in entries)
            read = [_part(entry, usage_from_counts) for entry in entries]
            return tuple(part for part in read if part.usage.output or not fell_back)
    return ()


def _part(entry: Mapping[str, object], usage_from_counts: Callable[[Mapping[str, int]], Usage]) -> Part:
    read = ((name, as_count(dig(entry, path))) for name, path in _COUNTS.items())
    model = entry.get("model")
    return Part(
        usage_from_counts({name: count for name, count in read if count is not None}),
        model if isinstance(model, str) else None,
    )
