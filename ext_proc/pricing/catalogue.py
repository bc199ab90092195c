"""The public catalogue, turned into our prices: the data of the installed genai-prices package, or of a file in the
form that project publishes (`catalogue_file`). Nothing is fetched here.

Where the catalogue leaves a rate out, the tokens belong to the next larger bucket that has one (its own rule: every
priced unit lands in exactly one bucket). Two rules are ours, where it would otherwise undercharge:
- a Claude model with a cache-write rate but none for the one-hour lifetime: twice the input rate, Anthropic's published
  multiple (the catalogue's fallback is the five-minute rate);
- an entry without any rate is free only where that is known; elsewhere it says that the model is gone or is billed in
  units we do not meter, and the model counts as unpriced.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time
from decimal import ROUND_HALF_UP, Decimal
from functools import cache

from ext_proc.pricing import shipped as shipped_data
from ext_proc.pricing.entries import Constraint, Listed, Model, Provider, Tiered, Variant
from ext_proc.pricing.price import Price, Tier
from ext_proc.pricing.schedule import Dated, Schedule, start_of_day_us
from ext_proc.pricing.usage import Rates

PROVIDERS = {
    "azure-openai": "azure",
    "bedrock": "aws",
    "gemini": "google",
    "vertex": "google",
    "xai": "x-ai",
    "moonshot": "moonshotai",
    "voyage": "voyageai",
}
"""Names of ours that the catalogue calls otherwise. All others are looked up as they are."""

_FREE_MODELS = frozenset({
    ("github-copilot", "gpt-3.5-turbo"), ("github-copilot", "gpt-4.1"), ("github-copilot", "gpt-4o"),
    ("github-copilot", "gpt-4o-mini"), ("google", "gemma-3"), ("google", "gemma-3n"),
    ("google", "gemma-4-26b-a4b-it"), ("google", "gemma-4-31b-it"), ("openai", "moderation"),
})  # fmt: skip
"""Entries without a rate that are free by their provider's own page; besides these, ids that end in `:free`."""

_SERVICE_DIMENSIONS = frozenset({"service_tier", "processing", "speed"})
"""What a response says of how it was served. The catalogue's other dimensions (a router's route) no response tells."""

_PICO_PER_TOKEN = 1_000_000  # of $1 per million tokens
_PICO_PER_UNIT = 1_000_000_000  # of $1 per thousand units

_PICO_PER_HOUR_MS = Decimal(10**12) / 3_600_000  # of $1 per hour

_ANTHROPIC_WRITE_5M = Decimal("1.25")
_ANTHROPIC_WRITE_1H = 2

_INPUT = "input_mtok"
_BILLABLE = frozenset({_INPUT, "output_mtok", "requests_kcount", "input_audio_hours", "input_mchars"})
"""Keys by which something can be charged at all."""

_FALLBACKS: dict[str, tuple[str, ...]] = {
    "input_uncached": (_INPUT,),
    "cache_read": ("cache_read_mtok", _INPUT),
    "cache_read_audio": ("cache_audio_read_mtok", "cache_read_mtok", "input_audio_mtok", _INPUT),
    "cache_read_image": ("cache_image_read_mtok", "cache_read_mtok", "input_image_mtok", _INPUT),
    "cache_write_5m": ("cache_write_5m_mtok", "cache_write_mtok", _INPUT),
    "cache_write_1h": ("cache_write_1h_mtok", "cache_write_mtok", _INPUT),
    "audio_in": ("input_audio_mtok", _INPUT),
    "image_in": ("input_image_mtok", _INPUT),
    "video_in": ("input_video_mtok", _INPUT),
    "tool_prompt": ("input_tool_mtok", _INPUT),
    "output": ("output_mtok",),
    "audio_out": ("output_audio_mtok", "output_mtok"),
    "image_out": ("output_image_mtok", "output_mtok"),
    "video_out": ("output_video_mtok", "output_mtok"),
}
"""Which catalogue keys give a rate, the first that is there."""


_MODELS_REMEMBERED = 4096
"""Bounds what is remembered of the names that clients use."""


class Catalogue:
    """One edition of the public catalogue. `version` stands in every charge priced from it; `dated_us` is when its file
    was written, as far as the file tells.
    """

    def __init__(self, providers: tuple[Provider, ...], version: str, dated_us: int) -> None:
        self.version = version
        self.dated_us = dated_us
        self._providers = providers
        self._by_id = {provider.id: provider for provider in reversed(providers)}
        self._found: dict[tuple[str, str], tuple[str, Model] | None] = {}

    def schedule(self, provider: str, model: str) -> Schedule | None:
        """The prices of a model by our provider name, None where the catalogue knows none."""
        found = self._find(provider, model)
        return self._schedule(*found) if found else None

    def context_window(self, provider: str, model: str) -> int | None:
        """How many tokens a model reads at most, None where the catalogue does not say."""
        found = self._find(provider, model)
        return found[1].context_window if found else None

    def all_schedules(self, provider: str) -> Iterator[tuple[str, Schedule]]:
        """Every priced model of a provider that it still offers."""
        entry = self._provider(provider)
        return self._offered(entry) if entry else iter(())

    def whole(self) -> Iterator[Schedule]:
        """Every priced model of every provider."""
        return (prices for entry in self._providers for _, prices in self._offered(entry))

    def _offered(self, entry: Provider) -> Iterator[tuple[str, Schedule]]:
        for model in entry.models:
            if not model.deprecated and (prices := self._schedule(entry.id, model)):
                yield model.id, prices

    def _provider(self, provider: str) -> Provider | None:
        """By exact id: the catalogue's own looser match would sell `openai-compatible` at the prices of OpenAI."""
        return self._by_id.get(PROVIDERS.get(provider, provider))

    def _find(self, provider: str, model: str) -> tuple[str, Model] | None:
        key = (provider, model)
        if key not in self._found:
            if len(self._found) >= _MODELS_REMEMBERED:
                self._found.clear()
            entry = self._provider(provider)
            found = entry.find(model, self._by_id) if entry else None
            self._found[key] = (entry.id, found) if entry and found else None
        return self._found[key]

    def _schedule(self, provider_id: str, model: Model) -> Schedule | None:
        free = model.id.endswith(":free") or (provider_id, model.id) in _FREE_MODELS
        seller = self._provider(provider_id)
        is_own = seller is not None and any(model is own for own in seller.models)
        variants = model.variants if is_own else ()  # another seller's tiers are not its maker's
        dated: list[Dated] = []
        for entry in model.entries:
            start, daily = _when(entry.constraint)
            for moment in _moments(start, variants):
                tiers = _standard(entry.listed, free=free)
                if tiers is not None:
                    served = _served(entry.listed, variants, moment)
                    dated.append(Dated(Price(tiers, self.version, service_tiers=served), moment, daily))
        return Schedule(tuple(dated)) if dated else None


@cache
def shipped() -> Catalogue:
    """The catalogue of the installed package. Raises CatalogueError where that has a form of its own."""
    providers, version, dated_us = shipped_data.read()
    return Catalogue(providers, f"genai-prices-{version}", dated_us)


def _moments(start: int | None, variants: tuple[Variant, ...]) -> list[int | None]:
    """When an entry's price begins, and when the service tiers beside it change after that."""
    changes = {begun for variant in variants if (begun := _when(variant.constraint)[0]) is not None}
    return [start, *sorted(change for change in changes if start is None or change > start)]


def _served(
    standard: Listed, variants: tuple[Variant, ...], at_us: int | None
) -> tuple[tuple[str, tuple[Tier, ...]], ...]:
    """The tiers of every service tier that is priced at a moment. The first variant that sets a rate sets it."""
    overrides: dict[str, Listed] = {}
    for variant in variants:
        begun, daily = _when(variant.constraint)
        if daily is not None or (begun is not None and (at_us is None or at_us < begun)) or len(variant.when) > 1:
            continue
        ((dimension, value),) = variant.when.items()
        if dimension in _SERVICE_DIMENSIONS:
            overrides[value] = {**variant.listed, **overrides.get(value, {})}
    return tuple((name, _tiers({**standard, **listed})) for name, listed in sorted(overrides.items()) if listed)


def _when(constraint: Constraint) -> tuple[int | None, tuple[int, int] | None]:
    match constraint:
        case None:
            return None, None
        case (start, end):
            return None, (_utc_second(start), _utc_second(end))
        case start_date:
            return start_of_day_us(start_date), None


def _utc_second(moment: time) -> int:
    """Seconds after UTC midnight; a time without a zone is UTC."""
    if moment.tzinfo is not None:
        moment = datetime.combine(datetime(1970, 1, 2, tzinfo=UTC), moment).astimezone(UTC).time()
    return moment.hour * 3600 + moment.minute * 60 + moment.second


def _standard(listed: Listed, *, free: bool) -> tuple[Tier, ...] | None:
    if not listed and not free:
        return None
    if listed and not (_BILLABLE & listed.keys()):
        return None  # billed by pages or another unit that no API tells
    return _tiers(listed)


def _tiers(listed: Listed) -> tuple[Tier, ...]:
    starts = {0} | {start for value in listed.values() if isinstance(value, Tiered) for start, _ in value.tiers}
    return tuple(
        Tier(start, _rates({key: _value_at(v, start) for key, v in listed.items()})) for start in sorted(starts)
    )


def _value_at(value: Decimal | Tiered, input_tokens_above: int) -> Decimal:
    if not isinstance(value, Tiered):
        return value
    chosen = value.base
    for start, dollars in value.tiers:
        if start <= input_tokens_above:
            chosen = dollars
    return chosen


def _rates(listed: dict[str, Decimal]) -> Rates:
    values = {
        name: next((listed[key] for key in keys if key in listed), Decimal(0)) for name, keys in _FALLBACKS.items()
    }
    plain = values["input_uncached"]
    if "cache_write_1h_mtok" not in listed and listed.get("cache_write_mtok") == plain * _ANTHROPIC_WRITE_5M:
        values["cache_write_1h"] = plain * _ANTHROPIC_WRITE_1H
    reasoning = listed.get("output_reasoning_mtok")
    return Rates(
        **{name: _pico(value, _PICO_PER_TOKEN) for name, value in values.items()},
        reasoning=None if reasoning is None else _pico(reasoning, _PICO_PER_TOKEN),
        searches=_pico(listed.get("web_searches_kcount", Decimal(0)), _PICO_PER_UNIT),
        requests=_pico(listed.get("requests_kcount", Decimal(0)), _PICO_PER_UNIT),
        audio_ms=_pico(listed.get("input_audio_hours", Decimal(0)), _PICO_PER_HOUR_MS),
        characters=_pico(listed.get("input_mchars", Decimal(0)), _PICO_PER_TOKEN),
    )


def _pico(dollars: Decimal, scale: int | Decimal) -> int:
    """Integer pico-dollars. The few catalogue values finer than that are averages it computed itself: rounded."""
    return int((dollars * scale).quantize(Decimal(1), rounding=ROUND_HALF_UP))
