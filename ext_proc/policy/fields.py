"""How document models describe their fields: the text, bounds and examples that decoding, JSON Schema and docs share.

A model is a frozen dataclass that derives from `Located`; each field is declared with `required` or `optional`. The
name in YAML is the field's name without a trailing underscore (`in_` is written `in`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, ClassVar

from ext_proc.policy.errors import PolicyError

Problem = tuple[str, str, str] | PolicyError
"""What a model's own check yields: (field path below the model, what is wrong, what would be right), or an error that a
part of the model has worded."""

Path = tuple["Path", str | int] | None
"""Where a node stands in its document: linked upwards, so that the common case builds no text."""


def path_text(path: Path) -> str:
    """`rules[2].when.subjects[0]`; `(document)` for the root."""
    parts: list[str] = []
    while path is not None:
        path, key = path
        parts.append(f"[{key}]" if isinstance(key, int) else f".{key}")
    return "".join(reversed(parts)).removeprefix(".") or "(document)"


@dataclass(frozen=True, slots=True)
class Where:
    """Where a model was read from: for errors and warnings that are found after decoding."""

    file: str
    line: int
    path: Path
    lines: Mapping[str, int]  # field as written in YAML → line

    def error(self, field_path: str, problem: str, cure: str) -> PolicyError:
        """An error about a field below this model ('' for the model itself)."""
        first = field_path.split(".", 1)[0].split("[", 1)[0]
        own = path_text(self.path)
        full = field_path if own == "(document)" and field_path else f"{own}.{field_path}" if field_path else own
        return PolicyError(self.file, self.lines.get(first, self.line), full, problem, cure)


NOWHERE = Where(file="", line=0, path=None, lines={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """The base of every document model."""

    written_as: ClassVar[str] = ""  # the cure for something that is no mapping, where naming a field is not enough

    where: Where = field(default=NOWHERE, compare=False, repr=False)

    def problems(self) -> Iterator[Problem]:
        """What is wrong although every field for itself is right."""
        yield from ()


@dataclass(frozen=True, slots=True)
class Spec:
    """One field as people see it."""

    doc: str
    example: str = ""  # as YAML
    one_of: tuple[str, ...] = ()  # for text fields with a fixed vocabulary
    elsewhere: tuple[tuple[str, str], ...] = ()  # words people write here that belong elsewhere → the cure
    minimum: int | None = None
    maximum: int | None = None
    max_items: int | None = None
    aliases: tuple[str, ...] = ()
    extension: bool = False  # ours, not in the schema people bring with them


def required(doc: str, **spec: Any) -> Any:  # noqa: ANN401 - a field's declared type is what callers see
    """A field that must be written."""
    return field(metadata={"spec": Spec(doc, **spec)})


def optional(
    doc: str,
    *,
    default: Any = MISSING,  # noqa: ANN401 - as `required`
    factory: Callable[[], object] | None = None,
    **spec: Any,  # noqa: ANN401 - as `required`
) -> Any:  # noqa: ANN401 - as `required`
    """A field that may be left out; `null` means left out too."""
    metadata = {"spec": Spec(doc, **spec)}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=None if default is MISSING else default, metadata=metadata)
