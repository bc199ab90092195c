"""Bytes kept whole up to a bound; beyond it only the head and the tail, where providers put model and usage."""

from __future__ import annotations

WHOLE_MAX_BYTES = 4 << 20
"""Up to here a body or an event is kept whole and parsed. A 4 MiB answer is a million tokens of text."""

END_BYTES = 64 << 10
"""What is kept of each end of anything larger."""


class BoundedBuffer:
    """Append-only, O(1) amortised per byte, never more than `WHOLE_MAX_BYTES` + one chunk in memory."""

    __slots__ = ("_head", "_parts", "_size", "_tail", "total_bytes")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._head: bytes | None = None  # set once the bound was passed
        self._tail = b""
        self.total_bytes = 0

    def append(self, data: bytes) -> None:
        """Take more bytes."""
        self.total_bytes += len(data)
        if self._head is not None:
            self._tail = (self._tail + data[-END_BYTES:])[-END_BYTES:]
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size > WHOLE_MAX_BYTES:
            joined = b"".join(self._parts)
            self._head, self._tail = joined[:END_BYTES], joined[-END_BYTES:]
            self._parts.clear()

    @property
    def is_whole(self) -> bool:
        """Whether every byte is still there."""
        return self._head is None

    def whole(self) -> bytes:
        """Everything. Only while `is_whole`."""
        assert self._head is None, "the middle was dropped"
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0] if self._parts else b""

    def head(self) -> bytes:
        """The first bytes."""
        return self.whole()[:END_BYTES] if self._head is None else self._head

    def tail(self) -> bytes:
        """The last bytes."""
        return self.whole()[-END_BYTES:] if self._head is None else self._tail

    def clear(self) -> None:
        """Forget everything."""
        self.__init__()  # type: ignore[misc]  # one place that knows the empty state
