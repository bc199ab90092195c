"""JSON Schema of every document type, from the models that decode them: for editors and CI."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal, Union, get_args, get_origin

from ext_proc.policy.documents import DOCUMENT_TYPES
from ext_proc.policy.fields import Located, Spec
from ext_proc.policy.scalars import SCALARS, Sink
from ext_proc.policy.schema import model_fields
from ext_proc.policy.yaml_source import SourceFile, parse_file

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def set_schema() -> Schema:
    """One schema for any document of a policy set, told apart by `type`."""
    definitions: dict[str, Schema] = {}
    references = [_reference(model, definitions) for model in DOCUMENT_TYPES.values()]
    return {"$schema": DIALECT, "title": "Tollgate policy document", "oneOf": references, "$defs": definitions}


def document_schema(document_type: str) -> Schema:
    """The schema of one document type. Raises KeyError for a type that does not exist."""
    definitions: dict[str, Schema] = {}
    reference = _reference(DOCUMENT_TYPES[document_type], definitions)
    return {"$schema": DIALECT, "title": document_type, **reference, "$defs": definitions}


def _reference(model: type[Located], definitions: dict[str, Schema]) -> Schema:
    name = model.__name__
    if name not in definitions:
        definitions[name] = {}  # a place, so that a model inside itself would refer to it
        definitions[name] = _model(model, definitions)
    return {"$ref": f"#/$defs/{name}"}


def _model(model: type[Located], definitions: dict[str, Schema]) -> Schema:
    properties: dict[str, Schema] = {}
    needed: list[str] = []
    for name, (model_field, hint, spec) in model_fields(model).items():
        described = {**_hint(hint, spec, definitions), "description": spec.doc}
        if spec.example:
            described["examples"] = [_value(spec.example)]
        has_default = model_field.default is not MISSING or model_field.default_factory is not MISSING
        if not has_default:
            needed.append(name)
        elif isinstance(model_field.default, str | int | bool):
            described["default"] = model_field.default
        properties.update(dict.fromkeys((name, *spec.aliases), described))
    doc = (model.__doc__ or "").strip()
    return {
        "type": "object",
        "description": doc,
        "properties": properties,
        "required": needed,
        "additionalProperties": False,
    }


def _hint(hint: Any, spec: Spec, definitions: dict[str, Schema]) -> Schema:  # noqa: ANN401 - a type hint
    origin, args = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return _union(args, spec, definitions)
    if origin is tuple:
        bound = {} if spec.max_items is None else {"maxItems": spec.max_items}
        return {"type": "array", "items": _hint(args[0], spec, definitions), **bound}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _hint(args[1], spec, definitions)}
    if origin is Literal:
        return {"enum": list(args)}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {"enum": [member.value for member in hint]}
    if isinstance(hint, type) and issubclass(hint, Located):
        return _reference(hint, definitions)
    return _scalar(hint, spec)


def _union(args: tuple[Any, ...], spec: Spec, definitions: dict[str, Schema]) -> Schema:
    members = [arg for arg in args if arg is not types.NoneType]
    if len(members) == 1:
        return _hint(members[0], spec, definitions)
    return {"anyOf": [_hint(member, spec, definitions) for member in members]}


def _scalar(hint: object, spec: Spec) -> Schema:
    if hint is str:
        # Text fields take any single value as it is written, so that `0123` and `no` need no quotes.
        return {"enum": list(spec.one_of)} if spec.one_of else {"type": ["string", "number", "boolean"]}
    if hint is bool:
        return {"type": "boolean"}
    if hint is object:
        return {}
    assert hint in {int, Decimal}, f"no schema for {hint!r}"
    schema: Schema = {"type": "integer" if hint is int else "number"}
    if spec.minimum is not None:
        schema["minimum"] = spec.minimum
    if spec.maximum is not None:
        schema["maximum"] = spec.maximum
    return schema


def _value(text: str) -> object:
    """An example, written as YAML, as JSON has it."""
    documents, errors = parse_file(SourceFile("example", f"value: {text}".encode()))
    assert not errors, f"no YAML: {text!r}"
    ((_, node),) = documents[0].root.entries
    return SCALARS[object](Spec(""))(node, None, Sink("example"))
