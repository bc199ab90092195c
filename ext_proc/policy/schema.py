"""Nodes → frozen document models, by their type hints, collecting every error.

A decoder is built once per type and kept. It returns the decoded value, or `BAD` after it has written at least one
error to the sink; the caller goes on, so that one pass finds everything that is wrong.

Supported hints: `str`, `int`, `Decimal`, `bool`, `StrEnum`s, `object` (any YAML), models, `tuple[X, …]`,
`Mapping[str, X]`, `X | None`, and unions whose members differ in kind (scalar, list, mapping); models in one union are
told apart by their `type: Literal[…]` field.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from enum import StrEnum
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ext_proc.policy.errors import PolicyError
from ext_proc.policy.fields import Located, Path, Spec, Where
from ext_proc.policy.scalars import BAD, SCALARS, Decoder, Sink, choice, closest, is_null, kind_of, nearest, shown
from ext_proc.policy.yaml_source import ListNode, MapNode, Node, TextNode

_NO_SPEC = Spec("")

ModelT = TypeVar("ModelT", bound=Located)


def decode(model: type[ModelT], root: MapNode, sink: Sink) -> ModelT | None:
    """One document of a known type; None after its errors went to the sink."""
    value = model_decoder(model)(root, None, sink)
    return None if value is BAD else cast("ModelT", value)


def yaml_name(name: str) -> str:
    """A model's field as it is written in YAML."""
    return name.removesuffix("_")


def decoder(hint: Any, spec: Spec) -> Decoder:  # noqa: ANN401 - a type hint has no better type
    """The decoder of one type hint under one field's bounds."""
    scalar = SCALARS.get(hint)
    if scalar is not None:
        return scalar(spec)
    origin, args = get_origin(hint), get_args(hint)
    if origin is not None:
        return _COMPOUND[origin](args, spec)
    assert isinstance(hint, type), f"no decoder for {hint!r}"
    if issubclass(hint, StrEnum):
        return choice(tuple(member.value for member in hint), hint)
    assert issubclass(hint, Located), f"no decoder for {hint!r}"
    return model_decoder(hint)


def _list(args: tuple[Any, ...], spec: Spec) -> Decoder:
    item = decoder(args[0], Spec("", one_of=spec.one_of, minimum=spec.minimum, maximum=spec.maximum))

    def decode_list(node: Node, path: Path, sink: Sink) -> object:
        if not isinstance(node, ListNode):
            example = f"write a list, such as [{node.text}]" if isinstance(node, TextNode) else "write a list"
            return sink.refuse(node.line, path, f"is {kind_of(node)}", example)
        if spec.max_items is not None and len(node.items) > spec.max_items:
            return sink.refuse(node.line, path, f"has {len(node.items)} entries", f"write at most {spec.max_items}")
        before = len(sink.errors)
        values = tuple([item(child, (path, index), sink) for index, child in enumerate(node.items)])
        return BAD if len(sink.errors) > before else values

    return decode_list


def _map(args: tuple[Any, ...], spec: Spec) -> Decoder:
    value_of = decoder(args[1], Spec("", minimum=spec.minimum, maximum=spec.maximum))

    def decode_map(node: Node, path: Path, sink: Sink) -> object:
        if not isinstance(node, MapNode):
            return sink.refuse(node.line, path, f"is {kind_of(node)}", "write a mapping, such as {key: value}")
        before = len(sink.errors)
        values = {key.text: value_of(child, (path, key.text), sink) for key, child in node.entries}
        return BAD if len(sink.errors) > before else types.MappingProxyType(values)

    return decode_map


def _union(args: tuple[Any, ...], spec: Spec) -> Decoder:
    members = tuple(arg for arg in args if arg is not types.NoneType)
    if len(members) == 1:
        return decoder(members[0], spec)
    by_kind: dict[type[Node], list[Any]] = {}
    for member in members:
        origin = get_origin(member)
        if origin is tuple:
            by_kind.setdefault(ListNode, []).append(member)
        elif origin is Mapping or (isinstance(member, type) and issubclass(member, Located)):
            by_kind.setdefault(MapNode, []).append(member)
        else:
            by_kind.setdefault(TextNode, []).append(member)
    decoders: dict[type[Node], Decoder] = {}
    for kind, alternatives in by_kind.items():
        if len(alternatives) == 1:
            decoders[kind] = decoder(alternatives[0], spec)
        else:
            assert kind is MapNode, f"only models share a union: {alternatives}"
            decoders[kind] = _tagged(tuple(alternatives))
    names = {TextNode: "a single value", ListNode: "a list", MapNode: "a mapping"}
    cure = "write " + " or ".join(names[kind] for kind in decoders)

    def decode_union(node: Node, path: Path, sink: Sink) -> object:
        chosen = decoders.get(type(node))
        if chosen is None:
            return sink.refuse(node.line, path, f"is {kind_of(node)}", cure)
        return chosen(node, path, sink)

    return decode_union


def models_in(hint: object) -> Iterator[type[Located]]:
    """Every model in a type hint, each followed by those inside it, in the order a reader meets them."""
    if isinstance(hint, type) and issubclass(hint, Located):
        yield hint
        for _, inner, _ in model_fields(hint).values():
            yield from models_in(inner)
    for argument in get_args(hint):
        yield from models_in(argument)


def tag_of(model: type[Located]) -> str:
    """The value of a model's `type` field, which tells it apart from the others of its union."""
    return str(get_args(get_type_hints(model)["type"])[0])


def _tagged(models: tuple[type[Located], ...]) -> Decoder:
    by_tag = {tag_of(model): model_decoder(model) for model in models}
    known = tuple(by_tag)

    def decode_tagged(node: Node, path: Path, sink: Sink) -> object:
        assert isinstance(node, MapNode), "the union has chosen by kind"
        for key, value in node.entries:
            if key.text == "type":
                if isinstance(value, TextNode) and value.text in by_tag:
                    return by_tag[value.text](node, path, sink)
                found = shown(value.text) if isinstance(value, TextNode) else kind_of(value)
                guess = value.text if isinstance(value, TextNode) else ""
                return sink.refuse(value.line, (path, "type"), f"{found} is not known here", nearest(guess, known))
        return sink.refuse(node.line, path, "has no 'type'", f"use one of: {', '.join(known)}")

    return decode_tagged


def model_fields(model: type[Located]) -> dict[str, tuple[Field[Any], Any, Spec]]:
    """YAML name → (field, type hint, spec) of everything a person may write in a model."""
    hints = get_type_hints(model)
    return {yaml_name(f.name): (f, hints[f.name], f.metadata["spec"]) for f in fields(model) if "spec" in f.metadata}


@dataclass(frozen=True, slots=True)
class _Entry:
    """One field of a model, as the decoder needs it."""

    attribute: str
    decode: Decoder
    has_default: bool


class _ModelDecoder:
    """The decoder of one model."""

    def __init__(self, model: type[Located]) -> None:
        self._model = model
        self._entries: dict[str, _Entry] = {}
        self._needed: dict[str, Spec] = {}
        for name, (model_field, hint, spec) in model_fields(model).items():
            has_default = model_field.default is not MISSING or model_field.default_factory is not MISSING
            entry = _Entry(model_field.name, decoder(hint, spec), has_default)
            self._entries.update(dict.fromkeys((name, *spec.aliases), entry))
            if not has_default:
                self._needed[model_field.name] = spec
        self._known = tuple(self._entries)

    def __call__(self, node: Node, path: Path, sink: Sink) -> object:
        if not isinstance(node, MapNode):
            cure = f"write {self._model.written_as or f'a mapping with {self._known[0]!r}'}"
            return sink.refuse(node.line, path, f"is {kind_of(node)}", cure)
        before = len(sink.errors)
        lines: dict[str, int] = {}
        misspelt: set[str] = set()
        values = self._values(node, path, sink, lines, misspelt)
        for name, spec in self._needed.items():
            # Whoever misspelt a field has been told its name already.
            if name not in values and name not in misspelt:
                example = f"add it, for example {yaml_name(name)}: {spec.example}" if spec.example else "add it"
                sink.refuse(node.line, (path, yaml_name(name)), "is missing", example)
        if len(sink.errors) > before:
            return BAD
        made = self._model(where=Where(sink.file, node.line, path, lines), **values)
        for problem in made.problems():
            sink.errors.append(problem if isinstance(problem, PolicyError) else made.where.error(*problem))
        return BAD if len(sink.errors) > before else made

    def _values(
        self, node: MapNode, path: Path, sink: Sink, lines: dict[str, int], misspelt: set[str]
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, child in node.entries:
            entry = self._entries.get(key.text)
            if entry is None:
                sink.refuse(key.line, (path, key.text), "unknown field", nearest(key.text, self._known))
                misspelt.update(self._entries[close].attribute for close in closest(key.text, self._known))
                continue
            if entry.attribute in values:
                sink.refuse(key.line, (path, key.text), "is written twice under two names", "keep one")
            lines[key.text] = key.line
            if not (entry.has_default and is_null(child)):
                values[entry.attribute] = entry.decode(child, (path, key.text), sink)
        return values


_MODELS: dict[type[Located], _ModelDecoder] = {}


def model_decoder(model: type[Located]) -> Decoder:
    """The decoder of one model, built at its first use."""
    made = _MODELS.get(model)
    if made is None:
        made = _MODELS[model] = _ModelDecoder(model)
    return made


def _literal(args: tuple[Any, ...], _spec: Spec) -> Decoder:
    return choice(args, lambda text: text)


_COMPOUND: dict[object, Callable[[tuple[Any, ...], Spec], Decoder]] = {
    Union: _union,
    types.UnionType: _union,
    tuple: _list,
    Mapping: _map,
    Literal: _literal,
}
