"""Compressed responses: read through one decompressor, passed on as they are."""

from __future__ import annotations

import zlib

from ext_proc.dialects.interface import Meter, Reading

_INFLATE_STEP_BYTES = 1 << 20  # a small chunk may inflate to a thousand times its size
_HEADER_BYTES = 2


class InflatingMeter:
    """Reads a gzip or deflate body through one decompressor; the client gets the compressed bytes unchanged."""

    __slots__ = ("_header", "_inflate", "_inner")

    def __init__(self, inner: Meter) -> None:
        self._inner = inner
        self._header: bytes | None = b""  # the first bytes, until there are enough to tell the format
        self._inflate: zlib._Decompress | None = None

    def feed(self, chunk: bytes, *, end: bool) -> bytes:
        """Take the next bytes; return them."""
        data = chunk
        if self._header is not None and self._inflate is None:
            data = self._header + chunk
            self._header = data if len(data) < _HEADER_BYTES else None
            self._inflate = None if self._header is not None else _decompressor(data)
        while self._inflate is not None and data:
            data = self._step(self._inflate, data)
        if end:
            if self._inflate is not None:
                self._step(self._inflate, b"")
            self._inner.feed(b"", end=True)
        return chunk

    def reading(self) -> Reading:
        """What is known so far."""
        return self._inner.reading()

    def _step(self, inflate: zlib._Decompress, data: bytes) -> bytes:
        """Inflate a bounded amount; what is left of the data."""
        try:
            plain = inflate.decompress(data, _INFLATE_STEP_BYTES)
        except zlib.error:
            self._inflate = None  # what passed so far is all that can be read
            return b""
        if plain:
            self._inner.feed(plain, end=False)
        if not inflate.eof:
            return inflate.unconsumed_tail
        if inflate.unused_data:  # gzip members may follow one another; after any other end nothing is expected
            self._inflate = zlib.decompressobj(wbits=31)
        return inflate.unused_data


def _decompressor(start: bytes) -> zlib._Decompress:
    """By the first two bytes: gzip, zlib, or the raw deflate that some servers send as `deflate`."""
    if start[:2] == b"\x1f\x8b":
        return zlib.decompressobj(wbits=31)
    is_zlib = start[0] & 0x0F == zlib.DEFLATED and int.from_bytes(start[:2], "big") % 31 == 0
    return zlib.decompressobj(wbits=15 if is_zlib else -15)
