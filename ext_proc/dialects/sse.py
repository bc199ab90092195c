"""Server-sent events, framed incrementally.

The framing follows the HTML standard: lines end in CRLF, LF or CR, an empty line ends an event, `data` lines of one
event are joined by LF, comment lines start with a colon, a byte order mark may open the stream. One thing is added on
purpose: an event that the stream's end cuts off before its empty line is still read, because servers forget it and the
last event is the one with the usage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import orjson

from ext_proc.dialects.buffer import WHOLE_MAX_BYTES, BoundedBuffer

_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")  # atomic: CRLF is one line end, never two
_LINE_END = re.compile(rb"\r\n|\n|\r")
_OVERLAP_BYTES = 3  # a blank line is at most CRLF CRLF, so at most three of its bytes stand before a cut


class Framer:
    """Turns chunks into blocks of whole events. A block may hold many: most need no closer look.

    Memory is bounded: of an event larger than the buffer's bound only head and tail are kept, and the block that ends
    it says so by `oversized`.
    """

    __slots__ = ("_buffer", "_tail", "cut", "oversized")

    def __init__(self) -> None:
        self._buffer = BoundedBuffer()
        self._tail = b""
        self.oversized: BoundedBuffer | None = None
        self.cut: int | None = None  # where in the last chunk the last complete event ended; None: nowhere

    @property
    def pending(self) -> BoundedBuffer:
        """The event that is not complete yet."""
        return self._buffer

    def feed(self, chunk: bytes) -> bytes:
        """The whole events that are complete with this chunk, as one block; empty when none is.

        After a block of which the first event was too large to keep, `oversized` holds its ends, and the block has only
        what came after it.
        """
        self.oversized = None
        cut = self.cut = self._last_boundary(chunk)
        if cut is None:
            self._buffer.append(chunk)
            self._tail = (self._tail + chunk)[-_OVERLAP_BYTES:]
            return b""
        held = self._buffer
        complete = chunk if cut == len(chunk) else chunk[:cut]
        if held.total_bytes:
            self._buffer = BoundedBuffer()
            if held.is_whole and held.total_bytes + cut <= WHOLE_MAX_BYTES:
                complete = held.whole() + complete
            else:
                complete = self._split_oversized(held, complete)
        rest = chunk[cut:] if cut < len(chunk) else b""
        if rest:
            self._buffer.append(rest)
        self._tail = rest[-_OVERLAP_BYTES:]
        return complete

    def end(self) -> BoundedBuffer:
        """What is left when the stream ends: an event without its empty line, or nothing."""
        held, self._buffer, self._tail = self._buffer, BoundedBuffer(), b""
        return held

    def _last_boundary(self, chunk: bytes) -> int | None:
        """Where the last complete event ends in this chunk: an index into it, None for nowhere.

        A CR at the very end may be half of a CRLF: what it ends is not complete before the next byte is seen.
        """
        if chunk.endswith(b"\n\n"):
            return len(chunk)
        window = self._tail + chunk
        if b"\r" not in window:
            found = window.rfind(b"\n\n")
            return None if found < 0 else found + 2 - len(self._tail)
        last = None
        for match in _BLANK_LINE.finditer(window):
            if match.end() < len(window) or not window.endswith(b"\r"):
                last = match.end() - len(self._tail)
        return last

    def _split_oversized(self, held: BoundedBuffer, complete: bytes) -> bytes:
        """Finish the event that is too large with the first blank line of what completes it."""
        window = self._tail + complete
        match = _BLANK_LINE.search(window)
        end = max(0, match.end() - len(self._tail)) if match else len(complete)
        held.append(complete[:end])
        self.oversized = held
        return complete[end:]


def events(block: bytes) -> Iterator[bytes]:
    """The events of a block one by one, each with its empty line: joined they are the block again."""
    start = 0
    for match in _BLANK_LINE.finditer(block):
        yield block[start : match.end()]
        start = match.end()
    if start < len(block):
        yield block[start:]


def written(document: Mapping[str, object], name: str = "") -> bytes:
    """One event with this JSON as its data."""
    head = f"event: {name}\n".encode() if name else b""
    return b"%sdata: %s\n\n" % (head, orjson.dumps(document))


def fields(event: bytes) -> tuple[bytes, bytes]:
    """(event name, data) of one event; both empty when it has none (comments, stray empty lines)."""
    if event.startswith(b"data: ") and b"\r" not in event and event.find(b"\n") >= len(event) - 2:
        return b"", event[6:].rstrip(b"\n")  # one line of data: almost every event of almost every provider
    name = b""
    data: list[bytes] = []
    for line in _LINE_END.split(event.removeprefix(b"\xef\xbb\xbf")):
        if line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            name = line[7:] if line[6:7] == b" " else line[6:]
        elif line == b"data":
            data.append(b"")
    return name, data[0] if len(data) == 1 else b"\n".join(data)
