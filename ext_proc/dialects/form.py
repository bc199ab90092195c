"""What dialects share whose requests may be forms (`multipart`): files with a few text fields beside them."""

from __future__ import annotations

from dataclasses import replace

from ext_proc.dialects import jsonbody, multipart
from ext_proc.dialects.base import BaseDialect
from ext_proc.dialects.errors import DialectError
from ext_proc.dialects.interface import RequestFacts, Rewrite
from ext_proc.pricing.price import INPUT_KINDS


class FormDocument(dict[str, object]):
    """The text fields of a form as a document, with the form they stand in."""

    def __init__(self, form: multipart.Form) -> None:
        super().__init__(form.fields())
        self.form = form


class FormDialect(BaseDialect):
    """A dialect whose requests are forms, or JSON. `file_fields`: where a form may have files."""

    file_fields: frozenset[str]

    def read_request(self, body: bytes, *, path: str = "", content_type: str | None = None) -> RequestFacts:
        """Parse a request body. Raises `DialectError` naming the field and the cure."""
        if is_json(body, content_type):
            return super().read_request(body, path=path)
        document = FormDocument(multipart.parse(body, content_type))
        for part in document.form.files:
            if part.name.removesuffix("[]") not in self.file_fields:
                raise DialectError(part.name, "is a file; send it as a text field, without a file name")
        return replace(self.facts(document, path), input_kinds=INPUT_KINDS)

    def rewrite(self, facts: RequestFacts, rewrite: Rewrite) -> bytes | None:
        """The body with another model, every other byte as it came; None when nothing changes."""
        document = facts.document
        if not isinstance(document, FormDocument):
            return super().rewrite(facts, rewrite)
        if rewrite.model is None or rewrite.model == facts.model:
            return None
        return document.form.replaced("model", rewrite.model)


def is_json(body: bytes, content_type: str | None) -> bool:
    """Whether a body is to be read as JSON: the header decides, and where it was seen before, the first byte."""
    if content_type is None:
        return body.lstrip()[:1] == b"{"
    return not content_type.strip().lower().startswith("multipart/")


def count_field(document: jsonbody.Document, field: str, *, least: int = 1) -> int | None:
    """A whole number, which a form writes as text."""
    value = document.get(field)
    if isinstance(document, FormDocument) and isinstance(value, str):
        if not value.isascii() or not value.isdigit() or int(value[:12]) < least:
            raise DialectError(field, f"is {value[:20]!r}; it must be an integer of at least {least}")
        return int(value[:12])
    return jsonbody.optional_count(document, field, least=least)


def flag_field(document: jsonbody.Document, field: str) -> bool:
    """True or false, which a form writes as text."""
    value = document.get(field)
    if isinstance(document, FormDocument) and isinstance(value, str):
        if value.lower() not in {"true", "false", "1", "0"}:
            raise DialectError(field, f"is {value[:20]!r}; it must be true or false")
        return value.lower() in {"true", "1"}
    return jsonbody.optional_flag(document, field)


def files_of(document: jsonbody.Document) -> tuple[multipart.Part, ...]:
    """The files of a form; none in JSON."""
    return document.form.files if isinstance(document, FormDocument) else ()
