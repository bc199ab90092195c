"""The binary AWS event stream, framed incrementally.

A frame: total length and headers length (4 bytes each, big endian), CRC-32 of those 8 bytes, the headers, the payload,
CRC-32 of everything before. The payload is JSON; some APIs wrap the model's own event in it as base64.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib

import orjson

from ext_proc.dialects.interface import Reading
from ext_proc.dialects.tally import ResponseShape, Tally, decoded

CONTENT_TYPE = "application/vnd.amazon.eventstream"

_PRELUDE_BYTES = 12
_CRC_BYTES = 4
_FRAME_MAX_BYTES = 24 << 20  # AWS allows 16 MiB of payload and 128 KiB of headers
_WRAPPED = re.compile(rb'^\s*\{\s*"bytes"\s*:')


class EventStreamMeter:
    """Reads frames; the client gets the bytes unchanged. After a broken frame nothing can be read, only counted."""

    __slots__ = ("_pending", "_shape", "_sound", "_tally")

    def __init__(self, shape: ResponseShape) -> None:
        self._shape = shape
        self._tally = Tally(shape)
        self._pending = bytearray()
        self._sound = True

    def feed(self, chunk: bytes, *, end: bool) -> bytes:  # noqa: ARG002  # the protocol's parameter; frames end themselves
        """Take the next bytes; return them."""
        if not self._sound:
            self._tally.output_bytes += len(chunk)
            return chunk
        pending = self._pending
        pending += chunk
        start = 0
        while len(pending) - start >= _PRELUDE_BYTES:
            total = int.from_bytes(pending[start : start + 4], "big")
            headers = int.from_bytes(pending[start + 4 : start + 8], "big")
            checksum = int.from_bytes(pending[start + 8 : start + 12], "big")
            if not self._is_frame(total, headers) or zlib.crc32(pending[start : start + 8]) != checksum:
                self._give_up(len(pending) - start)
                return chunk
            if len(pending) - start < total:
                break
            body = start + _PRELUDE_BYTES
            self._read(
                bytes(pending[body : body + headers]), bytes(pending[body + headers : start + total - _CRC_BYTES])
            )
            start += total
        del pending[:start]
        return chunk

    def reading(self) -> Reading:
        """What is known so far."""
        return self._tally.reading()

    @staticmethod
    def _is_frame(total: int, headers: int) -> bool:
        return _PRELUDE_BYTES + headers + _CRC_BYTES <= total <= _FRAME_MAX_BYTES

    def _give_up(self, unread_bytes: int) -> None:
        self._sound = False
        self._pending.clear()
        self._tally.output_bytes += unread_bytes

    def _read(self, headers: bytes, payload: bytes) -> None:
        tally, shape = self._tally, self._shape
        if _WRAPPED.match(payload):
            payload = _unwrapped(payload)
        tally.output_bytes += tally.count_text(payload)
        if shape.terminal.is_in(headers) or shape.terminal.is_in(payload):
            tally.finished = True
        if shape.watched.is_in(payload) and (document := decoded(payload)) is not None:
            tally.take(document)


def _unwrapped(payload: bytes) -> bytes:
    try:
        return base64.b64decode(orjson.loads(payload)["bytes"], validate=True)
    except (ValueError, TypeError, KeyError, binascii.Error):
        return payload
