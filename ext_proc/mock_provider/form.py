"""Forms, read by the standard library's mail parser: another reader than Tollgate's, on purpose."""

from __future__ import annotations

from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP

from ext_proc.mock_provider.errors import MockRequestError


def read_form(content_type: str, body: bytes) -> dict[str, object]:
    """The fields of a form: files as bytes, numbers and flags as such, anything else as text."""
    message: Message = BytesParser(policy=HTTP).parsebytes(
        b"content-type: " + content_type.encode() + b"\r\n\r\n" + body
    )
    if not message.is_multipart():
        raise MockRequestError("the body is not the form that its header says")
    found: dict[str, object] = {}
    for part in message.get_payload():
        assert isinstance(part, Message), "a multipart message has parts"
        name = str(part.get_param("name", header="content-disposition"))
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes), "a leaf has content"
        found[name] = content if part.get_filename() else _value(content.decode())
    return found


def _value(text: str) -> object:
    if text.isdigit():
        return int(text)
    return {"true": True, "false": False}.get(text, text)
