"""Meters: one response body each, fed in any chunking, in bounded memory, never raising on what a provider sends.

What differs between dialects is data (`ResponseShape`); the mechanics are the same for all. A block of a stream is
split into events and decoded only where its bytes show that it can hold usage.
"""

from __future__ import annotations

import re

from ext_proc.dialects import event_stream
from ext_proc.dialects.buffer import BoundedBuffer
from ext_proc.dialects.ending import CutPoint, Ending
from ext_proc.dialects.inflate import InflatingMeter
from ext_proc.dialects.interface import EndingMeter, Meter, Reading
from ext_proc.dialects.sse import Framer, events, fields
from ext_proc.dialects.tally import ResponseShape, Tally, decoded, decoded_all

HOLD_MAX_BYTES = 64 << 10
"""How much of an unfinished event is kept from a client while it may still turn out to be the usage chunk."""

EVENT_STREAM = "text/event-stream"

_MODEL_EVENTS = 8
"""Events decoded at the start of a stream to learn which model serves."""


class SseMeter:
    """Reads a stream of server-sent events; can keep the usage chunk from the client, and end the stream early.

    Either of the two gives the client whole events only: what is unfinished waits for its end.
    """

    __slots__ = (
        *("_ending", "_framer", "_held", "_hide", "_latest", "_model_events", "_opening", "_shape", "_tally", "_whole"),
    )

    def __init__(self, shape: ResponseShape, *, hide_usage: bool, may_end: bool = False) -> None:
        self._shape = shape
        self._tally = Tally(shape)
        self._framer = Framer()
        self._hide = hide_usage
        self._ending = shape.ending if may_end else None
        self._whole = hide_usage or may_end
        self._opening = b""  # the block with the event that the stream began with, where its end needs that
        self._latest = b""  # the last block with an event that says where the stream is
        self._held = b""  # the part of an unfinished event that the client has not been given
        self._model_events = _MODEL_EVENTS

    def feed(self, chunk: bytes, *, end: bool) -> bytes:
        """Take the next bytes; return what the client is to see."""
        block = self._framer.feed(chunk)
        if self._framer.oversized is not None:
            self._read_oversized(self._framer.oversized)
        if self._ending is not None and block:
            self._note(block, self._ending)
        kept = self._read(block, may_hide=self._hide) if block else block
        if not self._whole:
            if end:
                self._read_rest(may_hide=False)
            return chunk
        if not end and kept is block and not self._held and self._framer.cut == len(chunk):
            return chunk
        return self._release(chunk, block, kept, end=end)

    def reading(self) -> Reading:
        """What is known so far, an unfinished event's text included."""
        pending = self._framer.pending
        if not pending.total_bytes:
            return self._tally.reading()
        unread = self._tally.count_text(pending.whole()) if pending.is_whole else pending.total_bytes
        return self._tally.reading(more_output_bytes=unread)

    @property
    def is_between_events(self) -> bool:
        """Whether the client has been given whole events and nothing else: a stream can be ended here."""
        return len(self._held) == self._framer.pending.total_bytes

    def ending(self, *, choices: int, input_tokens: int, output_tokens: int) -> bytes | None:
        """The events that end the stream here; None where it cannot be, or is about to end by itself."""
        ending = self._ending
        latest = None if ending is None else _last_document(self._latest, ending.latest)
        if ending is None or latest is None:
            return None
        opening = _last_document(self._opening, ending.opening) if ending.opening else None
        point = CutPoint(opening, latest, choices, input_tokens, output_tokens, shows_usage=not self._hide)
        return ending.write(point)

    def _note(self, block: bytes, ending: Ending) -> None:
        if ending.opening is not None and not self._opening and ending.opening.search(block):
            self._opening = block
        if ending.latest.search(block):
            self._latest = block

    def _read(self, block: bytes, *, may_hide: bool) -> bytes:
        """Take a block of whole events; the same object unless an event was taken out of it."""
        tally = self._tally
        tally.output_bytes += tally.count_text(block)
        if self._shape.terminal.is_in(block):
            tally.finished = True
        if not self._model_events and not self._shape.watched.is_in(block):
            return block
        kept: list[bytes] | None = None
        whole = list(events(block))
        for index, event in enumerate(whole):
            hidden = self._read_event(event) and may_hide
            if hidden and kept is None:
                kept = whole[:index]
            elif kept is not None and not hidden:
                kept.append(event)
        return block if kept is None else b"".join(kept)

    def _read_event(self, event: bytes) -> bool:
        """Take one event; whether it holds nothing but usage."""
        watched = self._shape.watched.is_in(event)
        if not watched and not self._model_events:
            return False
        document = decoded(fields(event)[1])
        if document is None:
            return False
        self._tally.take(document)
        if self._model_events:
            self._model_events = 0 if self._tally.served_model else self._model_events - 1
        return watched and self._shape.usage_only(document)

    def _read_oversized(self, event: BoundedBuffer) -> None:
        if event.is_whole:
            self._read(event.whole(), may_hide=False)
            return
        known = self._tally.has_counts
        self._tally.take_fragment(event)
        if known or not self._tally.has_counts:
            self._tally.output_bytes += event.total_bytes

    def _read_rest(self, *, may_hide: bool) -> bool:
        """Take an event that the end of the stream cut off; whether it is to be hidden."""
        rest = self._framer.end()
        if not rest.total_bytes:
            return False
        if rest.is_whole:
            return not self._read(rest.whole(), may_hide=may_hide)
        self._read_oversized(rest)
        return False

    def _release(self, chunk: bytes, block: bytes, kept: bytes, *, end: bool) -> bytes:
        """What the client gets now, when something was hidden or an event is unfinished."""
        cut = self._framer.cut
        complete = b"" if cut is None else self._held + chunk[:cut]
        if kept is not block:
            ahead = len(complete) - len(block)  # > 0: the rest of an event too large to keep; < 0: already given out
            given = block[:-ahead] if ahead < 0 else b""
            if given and not kept.startswith(given):
                kept = block  # its beginning is with the client already: too late to hide
            complete = complete[:ahead] + kept if ahead >= 0 else kept[-ahead:]
        self._held = self._held + chunk if cut is None else chunk[cut:]
        if end:
            hidden = self._read_rest(may_hide=self._hide)
            held, self._held = self._held, b""
            shown = complete if hidden else complete + held
            return chunk if shown == chunk else shown
        if len(self._held) > HOLD_MAX_BYTES:
            complete, self._held = complete + self._held, b""
        return complete


class BodyMeter:
    """Reads one JSON document, at its end."""

    __slots__ = ("_buffer", "_ended", "_shape", "_tally")

    def __init__(self, shape: ResponseShape) -> None:
        self._shape = shape
        self._tally = Tally(shape)
        self._buffer = BoundedBuffer()
        self._ended = False

    def feed(self, chunk: bytes, *, end: bool) -> bytes:
        """Take the next bytes; the client sees them unchanged."""
        if chunk:
            self._buffer.append(chunk)
        if end and not self._ended:
            self._ended = True
            self._read()
        return chunk

    def reading(self) -> Reading:
        """What is known so far; before the end, an estimate of the text that passed."""
        if self._ended or not self._buffer.total_bytes:
            return self._tally.reading()
        self._tally.take_fragment(self._buffer)
        return self._tally.reading(more_output_bytes=self._text_bytes())

    def _read(self) -> None:
        tally, buffer = self._tally, self._buffer
        if buffer.is_whole:
            documents = decoded_all(buffer.whole())
            for document in documents or ():
                tally.take(document)
            tally.finished = documents is not None
        else:
            tally.finished = buffer.tail().rstrip().endswith((b"}", b"]"))
        if not tally.finished or not buffer.is_whole:
            tally.take_fragment(buffer)
        tally.output_bytes = self._text_bytes()
        self._buffer = BoundedBuffer()

    def _text_bytes(self) -> int:
        buffer = self._buffer
        return self._tally.count_text(buffer.whole(), body=True) if buffer.is_whole else buffer.total_bytes


class SniffingMeter:
    """For a response whose content type says neither: the first byte decides between JSON and events."""

    __slots__ = ("_hide", "_meter", "_shape")

    def __init__(self, shape: ResponseShape, *, hide_usage: bool) -> None:
        self._shape = shape
        self._hide = hide_usage
        self._meter: Meter | None = None

    def feed(self, chunk: bytes, *, end: bool) -> bytes:
        """Take the next bytes; return what the client is to see."""
        if self._meter is None:
            start = chunk.lstrip()
            if not start and not end:
                return chunk
            self._meter = self._meter_for(start[:1])
        return self._meter.feed(chunk, end=end)

    def reading(self) -> Reading:
        """What is known so far."""
        return self._meter.reading() if self._meter else Reading()

    def _meter_for(self, first: bytes) -> Meter:
        if first in {b"{", b"["}:
            return BodyMeter(self._shape)
        media = self._shape.media
        if media and first not in {b"d", b"e", b":"}:
            return MediaMeter(self._shape, next(iter(media.values())))
        return SseMeter(self._shape, hide_usage=self._hide)


class MediaMeter:
    """A recording: its size tells about how many tokens it took. It is finished when its body is."""

    __slots__ = ("_bytes", "_bytes_per_token", "_ended", "_shape")

    def __init__(self, shape: ResponseShape, bytes_per_token: int) -> None:
        self._shape = shape
        self._bytes_per_token = bytes_per_token
        self._bytes = 0
        self._ended = False

    def feed(self, chunk: bytes, *, end: bool) -> bytes:
        """Take the next bytes; return them."""
        self._bytes += len(chunk)
        self._ended |= end
        return chunk

    def reading(self) -> Reading:
        """What its size so far stands for."""
        if not self._bytes:
            return Reading(finished=self._ended)
        usage = self._shape.usage_from_counts({"completion": -(-self._bytes // self._bytes_per_token)})
        return Reading(usage=usage, finished=self._ended)


class OpaqueMeter:
    """A body we cannot read (an encoding that was not asked for): its size stands for the text."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = 0

    def feed(self, chunk: bytes, *, end: bool) -> bytes:  # noqa: ARG002  # the protocol's parameter; nothing ends here
        """Take the next bytes; return them."""
        self._bytes += len(chunk)
        return chunk

    def reading(self) -> Reading:
        """The bytes that passed; never finished, because its end cannot be seen."""
        return Reading(output_bytes=self._bytes)


def make_meter(shape: ResponseShape, *, content_type: str, content_encoding: str, hide_usage: bool) -> Meter:
    """The meter for one response. Nothing can be hidden in a compressed body."""
    encoding = content_encoding.strip().lower()
    if encoding in {"", "identity"}:
        return _plain_meter(shape, content_type, hide_usage=hide_usage)
    if encoding in {"gzip", "x-gzip", "deflate"}:
        return InflatingMeter(_plain_meter(shape, content_type, hide_usage=False))
    return OpaqueMeter()


def make_ending_meter(
    shape: ResponseShape, *, content_type: str, content_encoding: str, hide_usage: bool
) -> EndingMeter | None:
    """A meter that can end the stream it reads; None where this response is no such stream."""
    plain = content_encoding.strip().lower() in {"", "identity"}
    if shape.ending is None or not plain or _media_type(content_type) != EVENT_STREAM:
        return None
    return SseMeter(shape, hide_usage=hide_usage, may_end=True)


def _last_document(block: bytes, pattern: re.Pattern[bytes]) -> dict[str, object] | None:
    """The last event of a block in which the pattern is found."""
    matching = [event for event in events(block) if pattern.search(event)]
    return decoded(fields(matching[-1])[1]) if matching else None


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _plain_meter(shape: ResponseShape, content_type: str, *, hide_usage: bool) -> Meter:
    media_type = _media_type(content_type)
    if media_type == event_stream.CONTENT_TYPE:
        return event_stream.EventStreamMeter(shape)
    if media_type == EVENT_STREAM:
        return SseMeter(shape, hide_usage=hide_usage)
    if media_type == "application/json" or media_type.endswith("+json"):
        return BodyMeter(shape)
    if media_type in shape.media:
        return MediaMeter(shape, shape.media[media_type])
    return SniffingMeter(shape, hide_usage=hide_usage)
