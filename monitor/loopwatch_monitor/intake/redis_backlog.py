"""Bytes that were read from Redis and are not decoded yet: bounded, in order, over the end of a connection.

They are taken in as fast as Redis can send them (what a subscriber leaves with Redis for too long Redis throws away,
the subscriber with it), and decoded a piece at a time: a piece is what the state is locked for.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import hiredis
import msgspec

from loopwatch_monitor.intake.batch import Batch
from loopwatch_monitor.intake.decode import decode
from loopwatch_monitor.intake.envelope import unwrap

__all__ = ["Backlog"]

PIECE_BYTES = 32 * 1024
"""hiredis moves the rest of what it was fed at every message, so it is fed little at a time."""

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


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
        self._chunks: deque[bytes | Any] = deque()
        """Bytes, and a connection's reader before its first ones."""
        self._offset = 0
        self._reader = hiredis.Reader()

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def begin(self, reader: Any) -> None:
        """What is added from now on comes from a new connection, whose first bytes the reader has already."""
        self._chunks.append(reader)

    def add(self, chunk: bytes) -> None:
        """Keeps what was read."""
        self._chunks.append(chunk)
        self.size += len(chunk)

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
        if not self._chunks:
            return
        chunk = self._chunks[0]
        if not isinstance(chunk, bytes):
            self._chunks.popleft()
            self._follow(chunk, batch)
            return
        taken = min(PIECE_BYTES, len(chunk) - self._offset)
        self._reader.feed(chunk, self._offset, taken)
        self._offset += taken
        self.size -= taken
        if self._offset == len(chunk):
            self._chunks.popleft()
            self._offset = 0

    def _follow(self, reader: Any, batch: Batch) -> None:
        """Reads on in the next connection. The one before was lost in the middle of a message if some of it is left."""
        batch.lost["disconnected"] += self._reader.has_data()
        self._reader = reader

    def _abandon(self, batch: Batch) -> None:
        """Gives up what is left of a connection that makes no sense."""
        while self._chunks and isinstance(self._chunks[0], bytes):
            self._chunks.popleft()
        self._offset = 0
        self.size = sum(len(chunk) for chunk in self._chunks if isinstance(chunk, bytes))
        self._follow(hiredis.Reader(), batch)


def _number_of_events(payload: bytes) -> int:
    body = unwrap(payload, Counter())
    try:
        return len(_split(body or b""))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 1  # an object; or nothing that anybody could read
