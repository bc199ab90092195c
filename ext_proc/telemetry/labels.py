"""Bounds on label values: what a client chooses must not fill a time series database.

Two bounds. Each label keeps the first N distinct values it sees, the rest becomes `other`; and each metric keeps the
first M distinct combinations, because N users × N models × N tenants would be far too many again. Bounds are per
worker process: a scrape over W workers shows at most W times as many.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from prometheus_client.metrics import MetricWrapperBase

from ext_proc.telemetry.names import OTHER

MAX_LABEL_CHARS = 64
MAX_LABEL_VALUES = 500
MAX_SERIES = 5_000

_Metric = TypeVar("_Metric", bound=MetricWrapperBase)


def label_text(value: str, chars_max: int = MAX_LABEL_CHARS) -> str:
    """A text as label value: cut, and without lone surrogates (JSON can spell them). Those cannot be written as UTF-8
    and would break every later scrape.
    """
    return value[:chars_max].encode("utf-8", "replace").decode()


class LabelBound:
    """The first `limit` distinct values of one label, cut to `MAX_LABEL_CHARS` characters; then `other`."""

    __slots__ = ("_known", "_limit")

    def __init__(self, limit: int = MAX_LABEL_VALUES) -> None:
        self._limit = limit
        self._known: dict[str, str] = {}

    def bounded(self, value: str) -> str:
        """The value to use as label."""
        value = value[:MAX_LABEL_CHARS]
        known = self._known.get(value)
        if known is not None:
            return known
        if len(self._known) >= self._limit:
            return OTHER
        clean = label_text(value)
        self._known[value] = clean
        return clean


class Series(Generic[_Metric]):
    """One metric's children by label values, found with one dictionary lookup on the hot path."""

    __slots__ = ("_bounds", "_children", "_clean", "_limit", "_overflow", "metric")

    def __init__(self, metric: _Metric, bounds: tuple[LabelBound, ...], limit: int = MAX_SERIES) -> None:
        self.metric = metric
        self._bounds = bounds
        self._limit = limit
        self._clean: set[tuple[str, ...]] = set()
        self._children: dict[tuple[str, ...], _Metric] = {}
        self._overflow: _Metric | None = None

    def child(self, *values: str) -> _Metric:
        """The child to increment or observe."""
        found = self._children.get(values)
        return found if found is not None else self._new_child(values)

    def _new_child(self, values: tuple[str, ...]) -> _Metric:
        assert len(values) == len(self._bounds), "one value per label"
        clean = tuple(bound.bounded(value) for bound, value in zip(self._bounds, values, strict=True))
        if clean not in self._clean:
            if len(self._clean) >= self._limit:
                return self._overflow_child()
            self._clean.add(clean)
        child = self.metric.labels(*clean)
        # Only values that are kept as they are become cache keys: a client cannot grow the cache past the series.
        if clean == values:
            self._children[values] = child
        return child

    def _overflow_child(self) -> _Metric:
        if self._overflow is None:
            self._overflow = self.metric.labels(*(OTHER for _ in self._bounds))
        return self._overflow
