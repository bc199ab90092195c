"""Form bodies (RFC 7578): the text fields of a `multipart/form-data` request, read where they stand.

Read strictly, because what we read must be what the provider will read: the boundary is the header's, nothing stands
before the first part or after the last, no text field comes twice, no part is encoded, and no header is written in a
way that two readers could take apart differently. Files are not looked into; their place and size is all that is kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ext_proc.dialects.errors import DialectError

FIELD_BYTES_MAX = 256 << 10
"""A text field may be so long: prompts of 32,000 characters are the longest that an API takes."""

PARTS_MAX = 128
HEADER_BYTES_MAX = 4 << 10

_FORM = "(form)"
_CURE = "send the form as the provider's SDK does"
_BOUNDARY = re.compile(
    r'multipart/form-data\s*;\s*boundary=(?:"([^"\\\r\n]{1,70})"|([^\s;",]{1,70}))\s*', re.IGNORECASE
)
_OPENING = re.compile(rb"--([^\s\r\n]{1,70})\r\n")
_DISPOSITION = re.compile(
    rb'form-data;\s*name="([^"\\\r\n]*)"(?:;\s*filename="([^"\r\n]*)")?(?:;\s*filename\*=[^;\s]+)?', re.IGNORECASE
)
_KNOWN_HEADERS = frozenset({b"content-disposition", b"content-type", b"content-length"})


@dataclass(frozen=True, slots=True)
class Part:
    """One part: where its content stands in the body. `file`: it has a file name."""

    name: str
    start: int
    end: int
    file: bool

    @property
    def size(self) -> int:
        """Bytes of content."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Form:
    """A form, read. `body` is what the parts stand in."""

    body: bytes
    parts: tuple[Part, ...]

    @property
    def files(self) -> tuple[Part, ...]:
        """The parts that are files."""
        return tuple(part for part in self.parts if part.file)

    def fields(self) -> dict[str, object]:
        """The text fields: of a list (`name[]`) every value, of anything else the one."""
        found: dict[str, object] = {}
        for part in self.parts:
            if part.file:
                continue
            text = self._text(part)
            name = part.name.removesuffix("[]")
            if name == part.name:
                found[name] = text
            else:
                listed = found.setdefault(name, [])
                assert isinstance(listed, list), "parse() refuses a field that is both"
                listed.append(text)
        return found

    def replaced(self, name: str, text: str) -> bytes:
        """The body with another content of one text field; every other byte as it came."""
        part = next(part for part in self.parts if part.name == name and not part.file)
        return self.body[: part.start] + text.encode() + self.body[part.end :]

    def _text(self, part: Part) -> str:
        if part.size > FIELD_BYTES_MAX:
            raise DialectError(part.name, f"has more than {FIELD_BYTES_MAX} bytes; send it as a file")
        try:
            return self.body[part.start : part.end].decode()
        except UnicodeDecodeError:
            raise DialectError(part.name, "is not UTF-8; send text, or a file with a file name") from None


def parse(body: bytes, content_type: str | None) -> Form:
    """The form in a body. `content_type` None: its header has been seen to be right. Raises DialectError."""
    delimiter = b"\r\n--" + _boundary(body, content_type)
    opening = delimiter[2:]
    if not body.startswith(opening):
        raise DialectError(_FORM, f"does not begin with its boundary; {_CURE}")
    at = len(opening)
    parts: list[Part] = []
    names: dict[str, bool] = {}
    while body[at : at + 2] == b"\r\n":
        if len(parts) == PARTS_MAX:
            raise DialectError(_FORM, f"has more than {PARTS_MAX} parts; {_CURE}")
        part, at = _part(body, at + 2, delimiter)
        plain = part.name.removesuffix("[]")
        is_list = part.file or plain != part.name
        if plain in names and not (is_list and names[plain]):
            raise DialectError(part.name, "is given twice; send it once, so that all readers agree")
        names[plain] = is_list
        parts.append(part)
    if body[at:] not in {b"--", b"--\r\n"}:
        raise DialectError(_FORM, f"does not end with its boundary; {_CURE}")
    return Form(body, tuple(parts))


def _boundary(body: bytes, content_type: str | None) -> bytes:
    if content_type is None:
        opening = _OPENING.match(body)
        if opening is None:
            raise DialectError(_FORM, f"does not begin with a boundary; {_CURE}")
        return opening[1]
    found = _BOUNDARY.fullmatch(content_type.strip())
    if found is None:
        raise DialectError("content-type", f"is not multipart/form-data with a boundary; {_CURE}")
    boundary: str = found[1] or found[2]
    if not boundary.isascii() or boundary != boundary.strip() or " " in boundary:
        raise DialectError("content-type", f"has a boundary that readers could take differently; {_CURE}")
    return boundary.encode()


def _part(body: bytes, start: int, delimiter: bytes) -> tuple[Part, int]:
    """The part whose headers begin at `start`, and where its delimiter ends."""
    head_end = body.find(b"\r\n\r\n", start, start + HEADER_BYTES_MAX)
    end = body.find(delimiter, head_end + 2) if head_end >= 0 else -1
    if end < 0 or end < head_end + 4:
        raise DialectError(_FORM, f"has a part that does not end, or has no content; {_CURE}")
    name, is_file = _named(body[start:head_end].split(b"\r\n"))
    return Part(name, head_end + 4, end, is_file), end + len(delimiter)


def _named(lines: list[bytes]) -> tuple[str, bool]:
    disposition: bytes | None = None
    for line in lines:
        header, colon, value = line.partition(b":")
        if (
            not colon
            or header.lower() not in _KNOWN_HEADERS
            or (header.lower()[-11:] == b"disposition" and disposition)
        ):
            raise DialectError(_FORM, f"has a part with the header {line[:60]!r}; {_CURE}")
        if header.lower() == b"content-disposition":
            disposition = value.strip()
    found = _DISPOSITION.fullmatch(disposition or b"")
    if found is None:
        raise DialectError(_FORM, f"has a part without a plain name; {_CURE}")
    try:
        name = found[1].decode()
    except UnicodeDecodeError:
        raise DialectError(_FORM, f"has a part whose name is not UTF-8; {_CURE}") from None
    if not name or not name.isprintable() or "%" in name:
        raise DialectError(_FORM, f"has a part with the name {name[:60]!r}; {_CURE}")
    return name, found[2] is not None
