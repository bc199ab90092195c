"""A public catalogue in the form that the genai-prices project publishes: a JSON array of providers.

Only what is charged by is read and checked; descriptions and the like may be anything. Nothing is guessed: a clause, a
constraint or an amount of another form is an error that names its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, time
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from ext_proc.pricing.entries import Clause, Constraint, Entry, Listed, Model, Provider, Tiered, Variant

_TEXT_CLAUSES = frozenset({"starts_with", "ends_with", "contains", "equals", "regex"})
_JOINING_CLAUSES = frozenset({"or", "and"})

_Read = TypeVar("_Read")


class FormError(Exception):
    """What is wrong, and where: `0.models.3.prices.input_mtok: …`."""


def providers(raw: object) -> tuple[Provider, ...]:
    """Raises FormError."""
    return _each(raw, "", _provider)


def _provider(raw: object, place: str) -> Provider:
    fields = _mapping(raw, place)
    name = _text(fields, "id", place)
    models = _each(fields.get("models", []), f"{place}.models", _model)
    fallbacks = _each(fields.get("fallback_model_providers") or [], f"{place}.fallback_model_providers", _is_text)
    return Provider(name, models, fallbacks)


def _model(raw: object, place: str) -> Model:
    fields = _mapping(raw, place)
    window, deprecated = fields.get("context_window"), fields.get("deprecated")
    if window is not None and type(window) is not int:
        raise FormError(f"{place}.context_window: is {window!r}; it must be a whole number of tokens")
    if deprecated is not None and type(deprecated) is not bool:
        raise FormError(f"{place}.deprecated: is {deprecated!r}; it must be true or false")
    return Model(
        id=_text(fields, "id", place),
        match=_clause(fields.get("match"), f"{place}.match"),
        entries=_entries(fields.get("prices", []), f"{place}.prices"),
        variants=_each(fields.get("price_variants") or [], f"{place}.price_variants", _variant),
        context_window=window,
        deprecated=bool(deprecated),
    )


def _clause(raw: object, place: str) -> Clause:
    fields = _mapping(raw, place)
    if len(fields) != 1:
        raise FormError(f"{place}: has the keys {', '.join(fields)}; a clause has one")
    ((kind, of),) = fields.items()
    if kind in _JOINING_CLAUSES:
        return Clause(kind, _each(of, f"{place}.{kind}", _clause))
    if kind not in _TEXT_CLAUSES:
        raise FormError(f"{place}: there is no clause {kind!r}")
    text = _is_text(of, f"{place}.{kind}")
    if kind == "regex":
        try:
            re.compile(text)
        except re.error as error:
            raise FormError(f"{place}.regex: is no regular expression: {error}") from None
    return Clause(kind, text)


def _entries(raw: object, place: str) -> tuple[Entry, ...]:
    return _each(raw, place, _entry) if isinstance(raw, list) else (Entry(_listed(raw, place)),)


def _entry(raw: object, place: str) -> Entry:
    fields = _mapping(raw, place)
    constraint = _constraint(fields.get("constraint"), f"{place}.constraint")
    return Entry(_listed(fields.get("prices"), f"{place}.prices"), constraint)


def _variant(raw: object, place: str) -> Variant:
    fields = _mapping(raw, place)
    when = _mapping(fields.get("when"), f"{place}.when")
    if not when:
        raise FormError(f"{place}.when: says of no request when it holds")
    return Variant(
        when={dimension: _text(when, dimension, f"{place}.when") for dimension in when},
        listed=_listed(fields.get("prices"), f"{place}.prices"),
        constraint=_constraint(fields.get("constraint"), f"{place}.constraint"),
    )


def _constraint(raw: object, place: str) -> Constraint:
    if raw is None:
        return None
    fields = _mapping(raw, place)
    try:
        match fields:
            case {"start_date": str(start)}:
                return date.fromisoformat(start)
            case {"start_time": str(start), "end_time": str(end)}:
                return time.fromisoformat(start), time.fromisoformat(end)
            case _:
                raise FormError(f"{place}: has neither start_date nor start_time and end_time")
    except ValueError as error:
        raise FormError(f"{place}: {error}") from None


def _listed(raw: object, place: str) -> Listed:
    listed = _mapping(raw, place)
    return {key: _dollars_or_tiers(value, f"{place}.{key}") for key, value in listed.items() if value is not None}


def _dollars_or_tiers(raw: object, place: str) -> Decimal | Tiered:
    if not isinstance(raw, Mapping):
        return _dollars(raw, place)
    tiers = _each(raw.get("tiers"), f"{place}.tiers", _tier)
    return Tiered(_dollars(raw.get("base"), f"{place}.base"), tuple(sorted(tiers)))


def _tier(raw: object, place: str) -> tuple[int, Decimal]:
    fields = _mapping(raw, place)
    start = fields.get("start")
    if type(start) is not int:
        raise FormError(f"{place}.start: is {start!r}; it must be a whole number of tokens")
    return start, _dollars(fields.get("price"), f"{place}.price")


def _dollars(raw: object, place: str) -> Decimal:
    """A number, or a text that is one."""
    try:
        if isinstance(raw, str | int | float) and not isinstance(raw, bool):
            dollars = Decimal(str(raw))  # a float's shortest form is what was published
            if dollars.is_finite():
                return dollars
    except InvalidOperation:
        pass
    raise FormError(f"{place}: is {raw!r}; it must be a number of dollars")


def _each(raw: object, place: str, read: Callable[[object, str], _Read]) -> tuple[_Read, ...]:
    if not isinstance(raw, list):
        raise FormError(f"{place}: is no list")
    return tuple(read(item, f"{place}.{index}".removeprefix(".")) for index, item in enumerate(raw))


def _mapping(raw: object, place: str) -> Mapping[str, Any]:
    if isinstance(raw, dict):
        return raw
    raise FormError(f"{place}: is missing or no object")


def _text(fields: Mapping[str, object], key: str, place: str) -> str:
    if key not in fields:
        raise FormError(f"{place}.{key}: is missing")
    return _is_text(fields[key], f"{place}.{key}")


def _is_text(raw: object, place: str) -> str:
    if isinstance(raw, str):
        return raw
    raise FormError(f"{place}: is {raw!r}; it must be a text")
