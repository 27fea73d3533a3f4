"""Bytes that were read from Redis and are not decoded yet: bounded, in order, over the end of a connection.

They are taken in as fast as Redis can send them (what a subscriber leaves with Redis for too long Redis throws away,
the subscriber with it), and decoded a piece at a time: a piece is what the state is locked for.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from mmap import mmap
from typing import Any

import hiredis
import msgspec

from loopwatch_monitor.intake.batch import Batch
from loopwatch_monitor.intake.decode import decode
from loopwatch_monitor.intake.envelope import unwrap

__all__ = ["Backlog"]

PART_BYTES = 8 * 1024 * 1024
"""Of address space; memory is taken as it is used."""
LITTLE_BYTES = PART_BYTES // 4
"""Less room than this is not worth a read: every read may have to wait for the interpreter's lock, while a page is
rendered, and should then get all that the kernel has (6 MB by default)."""
PIECE_BYTES = 32 * 1024
"""hiredis moves the rest of what it was fed at every message, so it is fed little at a time."""

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Part:
    """A stretch of bytes, in memory that goes back to the system as soon as nobody needs it. ``reader``: that of the
    connection that begins with it. ``cut_off``: whether the one before ended too early."""

    __slots__ = ("cut_off", "end", "memory", "reader", "start", "view")

    def __init__(self, reader: hiredis.Reader | None = None, cut_off: bool = False) -> None:
        self.reader = reader
        self.cut_off = cut_off
        self.memory = mmap(-1, PART_BYTES)
        self.view = memoryview(self.memory)
        self.start = self.end = 0


class Backlog:
    """The bytes.

    Args:
        limit: the most bytes that are kept; beyond it the oldest messages go, and their events are counted.

    Attributes:
        size: how many there are.
        error: why a connection cannot be read any further, once it cannot; to be reset by who looks at it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.error: hiredis.ProtocolError | None = None
        self._parts = deque([_Part()])
        self._reader: Any = hiredis.Reader()  # its types know of bytes only, it reads any buffer

    def __bool__(self) -> bool:
        return self.size > 0 or len(self._parts) > 1

    def begin(self, reader: hiredis.Reader, *, cut_off: bool = False) -> None:
        """What is read from now on comes from a new connection, whose first bytes the reader has already. ``cut_off``:
        the server closed the one before though it had more to send."""
        self._parts.append(_Part(reader, cut_off))

    def room(self) -> memoryview:
        """Where to read to; then say how much by `filled`."""
        if PART_BYTES - self._parts[-1].end < LITTLE_BYTES:
            self._parts.append(_Part())
        part = self._parts[-1]
        return part.view[part.end :]

    def filled(self, size: int) -> None:
        """So many bytes were read to `room`."""
        self._parts[-1].end += size
        self.size += size

    def batch(self) -> Batch:
        """The events of the next piece, and what was lost before them."""
        batch = Batch()
        try:
            self._make_room(batch)
            self._decode(batch)
        except hiredis.ProtocolError as error:
            self._abandon(batch)
            self.error = error
        return batch

    def _make_room(self, batch: Batch) -> None:
        while self.size > self.limit:
            for payload in self._payloads(batch):
                batch.lost["buffer_full"] += _number_of_events(payload)

    def _decode(self, batch: Batch) -> None:
        events, malformed = batch.events, batch.malformed
        for payload in self._payloads(batch):
            body = unwrap(payload, malformed)
            if body is not None:
                events += decode(body, malformed)

    def _payloads(self, batch: Batch) -> Iterator[bytes]:
        """The messages of the next piece."""
        self._feed(batch)
        gets = self._reader.gets
        while (reply := gets()) is not False:
            # Not the answers to PING.
            if type(reply) is list and len(reply) == 4:
                yield reply[3]
        if self._reader.len() > self.limit:
            raise hiredis.ProtocolError(f"a message of more than {self.limit} bytes")

    def _feed(self, batch: Batch) -> None:
        part = self._parts[0]
        if part.reader is not None:
            self._follow(part.reader, batch, part.cut_off)
            part.reader = None
        size = min(PIECE_BYTES, part.end - part.start)
        self._reader.feed(part.memory, part.start, size)
        part.start += size
        self.size -= size
        if part.start < part.end:
            return
        if len(self._parts) > 1:
            self._parts.popleft()
        elif part.end < LITTLE_BYTES:
            part.start = part.end = 0
        else:
            self._parts[0] = _Part()

    def _follow(self, reader: hiredis.Reader, batch: Batch, cut_off: bool = False) -> None:
        """Reads on in the next connection. The one before was lost in the middle of a message if some of it is left."""
        batch.lost["disconnected"] += cut_off or self._reader.has_data()
        self._reader = reader

    def _abandon(self, batch: Batch) -> None:
        """Gives up what is left of a connection that makes no sense."""
        while self._parts and self._parts[0].reader is None:
            part = self._parts.popleft()
            self.size -= part.end - part.start
        if not self._parts:
            self._parts.append(_Part())
        self._follow(hiredis.Reader(), batch)


def _number_of_events(payload: bytes) -> int:
    body = unwrap(payload, Counter())
    try:
        return len(_split(body or b""))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 1  # an object; or nothing that anybody could read
