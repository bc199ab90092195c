"""Single values: what the text of a YAML scalar means in a field of a given type, and how errors quote it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

from ext_proc.policy.errors import PolicyError
from ext_proc.policy.fields import Path, Spec, path_text
from ext_proc.policy.yaml_source import ListNode, MapNode, Node, TextNode

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})
_FALSE = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})
_MAX_DIGITS = 40
_MAX_SHOWN = 60


class _Bad:
    """The answer of a decoder that has reported an error."""


BAD = _Bad()


class Sink:
    """Where decoders write the errors of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.errors: list[PolicyError] = []

    def refuse(self, line: int, path: Path, problem: str, cure: str) -> _Bad:
        """Write one error down."""
        self.errors.append(PolicyError(self.file, line, path_text(path), problem, cure))
        return BAD


Decoder = Callable[[Node, Path, Sink], object]


def is_null(node: Node) -> bool:
    """Whether a node says nothing: `key:`, `key: ~`, `key: null`."""
    return isinstance(node, TextNode) and node.plain and node.text in _NULLS


def nearest(word: str, known: Sequence[str]) -> str:
    """The cure for a word that is not one of a vocabulary: the nearest, or all of them."""
    for close in closest(word, known):
        return f"did you mean {close!r}?"
    return f"use one of: {', '.join(known)}"


def closest(word: str, known: Sequence[str]) -> Sequence[str]:
    """The one word of a vocabulary that another is near to, or none."""
    return difflib.get_close_matches(word, known, n=1)


def shown(text: str) -> str:
    """A value as errors quote it: bounded, one line."""
    return repr(text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…")


def kind_of(node: Node) -> str:
    """What a person sees a node as."""
    if isinstance(node, TextNode):
        return "null" if is_null(node) else "a single value"
    return "a list" if isinstance(node, ListNode) else "a mapping"


def _text(spec: Spec) -> Decoder:
    if spec.one_of:
        return choice(spec.one_of, lambda text: text, dict(spec.elsewhere))

    def decode_text(node: Node, path: Path, sink: Sink) -> object:
        if not isinstance(node, TextNode):
            return sink.refuse(node.line, path, f"is {kind_of(node)}", "write text")
        if node.plain and node.text in _NULLS:
            return sink.refuse(node.line, path, "is empty", 'write text (quote it to mean the word "null")')
        return node.text

    return decode_text


def choice(
    values: tuple[str, ...], make: Callable[[str], object], elsewhere: Mapping[str, str] | None = None
) -> Decoder:
    """A decoder of one word out of a fixed vocabulary. `elsewhere`: words of other places → what would be right."""
    cures = elsewhere or {}
    made = {value: make(value) for value in values}

    def decode_choice(node: Node, path: Path, sink: Sink) -> object:
        if not isinstance(node, TextNode):
            return sink.refuse(node.line, path, f"is {kind_of(node)}", f"use one of: {', '.join(values)}")
        value = made.get(node.text)
        if value is None:
            cure = cures.get(node.text) or nearest(node.text, values)
            return sink.refuse(node.line, path, f"{shown(node.text)} is not known here", cure)
        return value

    return decode_choice


def _number(spec: Spec, wanted: str) -> Callable[[Node, Path, Sink], Decimal | _Bad]:
    bounds = [f"at least {spec.minimum}"] if spec.minimum is not None else []
    bounds += [f"at most {spec.maximum}"] if spec.maximum is not None else []
    cure = f"write {wanted}" + (f" of {' and '.join(bounds)}" if bounds else "")

    def decode_number(node: Node, path: Path, sink: Sink) -> Decimal | _Bad:
        if not isinstance(node, TextNode):
            return sink.refuse(node.line, path, f"is {kind_of(node)}", cure)
        try:
            number = Decimal(node.text.strip() if len(node.text) <= _MAX_DIGITS else "nan")
        except InvalidOperation:
            return sink.refuse(node.line, path, f"{shown(node.text)} is not a number", cure)
        # An exponent such as 1e999999 would make later integer arithmetic explode.
        if not number.is_finite() or abs(number.adjusted()) > _MAX_DIGITS:
            return sink.refuse(node.line, path, f"{shown(node.text)} is not a usable number", cure)
        if spec.minimum is not None and number < spec.minimum:
            return sink.refuse(node.line, path, f"{shown(node.text)} is too small", cure)
        if spec.maximum is not None and number > spec.maximum:
            return sink.refuse(node.line, path, f"{shown(node.text)} is too large", cure)
        return number

    return decode_number


def _integer(spec: Spec) -> Decoder:
    number = _number(spec, "a whole number")

    def decode_integer(node: Node, path: Path, sink: Sink) -> object:
        value = number(node, path, sink)
        if isinstance(value, _Bad):
            return value
        if value != value.to_integral_value():
            assert isinstance(node, TextNode), "numbers are scalars"
            return sink.refuse(node.line, path, f"{shown(node.text)} is a fraction", "write a whole number")
        return int(value)

    return decode_integer


def _decimal(spec: Spec) -> Decoder:
    return _number(spec, "a number")


def _bool(_spec: Spec) -> Decoder:
    def decode_bool(node: Node, path: Path, sink: Sink) -> object:
        if isinstance(node, TextNode) and node.plain:
            if node.text in _TRUE:
                return True
            if node.text in _FALSE:
                return False
        found = shown(node.text) if isinstance(node, TextNode) else kind_of(node)
        return sink.refuse(node.line, path, f"{found} is not a truth value", "write true or false, without quotes")

    return decode_bool


def _anything(_spec: Spec) -> Decoder:
    def plain_value(node: Node) -> object:
        if isinstance(node, ListNode):
            return tuple(plain_value(item) for item in node.items)
        if isinstance(node, MapNode):
            return {key.text: plain_value(value) for key, value in node.entries}
        return _plain_scalar(node)

    def decode_anything(node: Node, _path: Path, _sink: Sink) -> object:
        return plain_value(node)

    return decode_anything


def _plain_scalar(node: TextNode) -> object:
    """A scalar where the field gives no type: JSON's reading of it."""
    if not node.plain:
        return node.text
    if node.text in _NULLS:
        return None
    if node.text in {"true", "false"}:
        return node.text == "true"
    try:
        return int(node.text) if len(node.text) <= _MAX_DIGITS else node.text
    except ValueError:
        pass
    try:
        number = Decimal(node.text)
    except InvalidOperation:
        return node.text
    return float(number) if number.is_finite() else node.text


SCALARS: dict[object, Callable[[Spec], Decoder]] = {
    str: _text,
    int: _integer,
    Decimal: _decimal,
    bool: _bool,
    object: _anything,
}
