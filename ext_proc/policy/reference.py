"""The reference page of the policy language (docs/policy-reference.md), written from the models that decode it."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal, Union, get_args, get_origin

from ext_proc.policy.documents import DOCUMENT_TYPES
from ext_proc.policy.fields import Located, Spec
from ext_proc.policy.schema import model_fields, models_in

_HEAD = """\
# Policy reference

Every document type and field, with an example each. This page is written by `tollgate schema --reference` from the
models that load policies; a test holds it current. [policies.md](policies.md) explains how the parts work together;
`tollgate schema` prints the same as JSON Schema for editors and CI.

A policy set is a directory of `*.yaml` and `*.yml` files (hidden names are skipped), each with any number of documents.
A document has a `name` and a `type`, once per type and name. **Bold** fields must be written. ＋ marks what Tollgate
adds to TrueFoundry's gateway documents; document types that TrueFoundry does not have are ours as a whole.
"""

_WORDS: Mapping[object, str] = {
    str: "text",
    int: "whole number",
    Decimal: "number",
    bool: "true or false",
    object: "any",
}
_MAX_LISTED = 8


def reference() -> str:
    """The whole page."""
    shared = _shared_models()
    parts = [_HEAD, "## Document types\n"]
    parts += [f"- [`{name}`](#{name}): {_first_sentence(model)}" for name, model in DOCUMENT_TYPES.items()]
    for name, model in DOCUMENT_TYPES.items():
        parts.append(f"\n## {name}\n\n{_doc(model)}\n")
        parts.append(_table(model))
        parts += [_section(part) for part in _nested(model) if part not in shared]
    parts.append("\n## Shared by several documents\n")
    parts += [_section(part) for part in shared]
    return "\n".join(parts) + "\n"


def _section(model: type[Located]) -> str:
    return f"\n### {model.__name__}\n\n{_doc(model)}\n\n{_table(model)}"


def _table(model: type[Located]) -> str:
    rows = ["| field | value | meaning | example |", "|---|---|---|---|"]
    for name, (model_field, hint, spec) in model_fields(model).items():
        has_default = model_field.default is not MISSING or model_field.default_factory is not MISSING
        shown = f"`{name}`" if has_default else f"**`{name}`**"
        if spec.aliases:
            shown += f" (also `{'`, `'.join(spec.aliases)}`)"
        meaning = spec.doc + _default(model_field.default)
        cells = [shown + (" ＋" if spec.extension else ""), _type(hint, spec), meaning, f"`{spec.example}`"]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _default(default: object) -> str:
    if default is MISSING or default is None or default == ():
        return ""
    if isinstance(default, tuple):
        return f" Default `[{', '.join(str(part) for part in default)}]`."
    return f" Default `{str(default).lower() if isinstance(default, bool) else default}`."


def _type(hint: Any, spec: Spec) -> str:  # noqa: ANN401 - a type hint has no better type
    origin, args = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        named = [_type(arg, spec) for arg in args if arg is not types.NoneType]
        return " or ".join(named) if len(named) <= 3 else f"one of: {', '.join(named)}"  # noqa: PLR2004 - a line's worth
    if origin is tuple:
        return f"list of {_type(args[0], spec)}"
    if origin is Mapping:
        return f"mapping of name → {_type(args[1], spec)}"
    if origin is Literal:
        return " or ".join(f"`{arg}`" for arg in args)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return ", ".join(f"`{member.value}`" for member in hint)
    if isinstance(hint, type) and issubclass(hint, Located):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    if spec.one_of:
        listed = ", ".join(f"`{word}`" for word in spec.one_of)
        return listed if len(spec.one_of) <= _MAX_LISTED else f"one of: {listed}"
    return _WORDS[hint] + _bounds(spec)


def _bounds(spec: Spec) -> str:
    if spec.minimum is not None and spec.maximum is not None:
        return f", {spec.minimum} to {spec.maximum}"
    if spec.minimum is not None:
        return f", at least {spec.minimum}"
    return f", at most {spec.maximum}" if spec.maximum is not None else ""


def _nested(model: type[Located]) -> list[type[Located]]:
    return [part for part in dict.fromkeys(models_in(model)) if part is not model]


def _shared_models() -> list[type[Located]]:
    """Models that more than one document type uses."""
    uses: dict[type[Located], int] = {}
    for document in DOCUMENT_TYPES.values():
        for part in _nested(document):
            uses[part] = uses.get(part, 0) + 1
    return [part for part, count in uses.items() if count > 1]


def _doc(model: type[Located]) -> str:
    return " ".join((model.__doc__ or "").split())


def _first_sentence(model: type[Located]) -> str:
    return _doc(model).split(". ")[0].rstrip(".") + "."
