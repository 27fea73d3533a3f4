"""Events from Redis: a subscription on a socket of our own, drained greedily.

Redis keeps what a subscriber has not read (8 MB for a minute, 32 MB at most), and then throws all of it away together
with the subscription. So reading comes before everything else: one thread reads what there is, decodes for a moment,
and reads again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import hiredis
import structlog

from loopwatch_monitor.intake.batch import Batch, Sink
from loopwatch_monitor.intake.redis_address import parse_address
from loopwatch_monitor.intake.redis_backlog import Backlog
from loopwatch_monitor.intake.redis_link import Link, subscribe
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.intake.thread import Intake

__all__ = ["RedisIntake"]

logger = structlog.get_logger("loopwatch_monitor")

BUFFER_BYTES = 256 * 1024 * 1024
WAIT_SECONDS = 0.25
MUCH_BYTES = 64 * 1024
FLOOD_BYTES = 512 * 1024
"""So much since the last read is a flood: 350,000 events a second, or 10,000 and no time to read for 70 ms."""
SLICE_SECONDS = 0.002
"""How long is decoded before the socket is asked again. Redis sends about a megabyte in it, at its very fastest."""
LOCK_SECONDS = 0.001


class RedisIntake(Intake):
    """Consumes events from Redis.

    Args:
        url: the broker's URL, as `loopwatch_monitor.intake.redis_address` says; what it cannot read is a `ValueError`.
        sink: called in the thread with what was read.
        status: kept true to the state of the connection.
        exchange: Celery's ``event_exchange``.
        options: kombu's transport options.
        ssl_options: ``ssl_cert_reqs`` and the like, over those of the URL.
        buffer_bytes: what is kept at most when events come faster than they can be taken in.
    """

    def __init__(
        self,
        url: str,
        *,
        sink: Sink,
        status: BrokerStatus,
        exchange: str = "celeryev",
        options: Mapping[str, Any] | None = None,
        ssl_options: Mapping[str, Any] | None = None,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        super().__init__(url, options or {}, sink=sink, status=status)
        self._address = parse_address(url, exchange=exchange, options=options, ssl_options=ssl_options)
        self._backlog = Backlog(buffer_bytes)
        self._cut_offs: int | None = None
        status.buffer_limit = buffer_bytes

    def _try(self) -> None:
        subscribe(self._address).close()

    def _consume(self) -> None:
        link = subscribe(self._address)
        try:
            self._backlog.begin(link.reader, cut_off=self._was_cut_off(link.cut_offs))
            self._connected()
            while not self._stopping.is_set():
                self._read(link, 0 if self._backlog else WAIT_SECONDS)
                self._decode(SLICE_SECONDS, lambda: self._read(link, 0))
        finally:
            self._status.flooded = False
            link.close()

    def _was_cut_off(self, cut_offs: int | None) -> bool:
        """Whether Redis has thrown anybody out since our last connection began, which is gone: us, then."""
        before, self._cut_offs = self._cut_offs, cut_offs
        return before is not None and cut_offs is not None and cut_offs > before

    def _read(self, link: Link, wait: float) -> None:
        """Takes in what there is. While there is much, there is more to come."""
        backlog, before = self._backlog, self._backlog.size
        size = MUCH_BYTES
        while size >= MUCH_BYTES and backlog.size < backlog.limit:
            size = link.read_into(backlog.room(), wait)
            backlog.filled(size)
            wait = 0
            self._status.flooded = backlog.size - before >= FLOOD_BYTES

    def _decode(self, seconds: float, read: Callable[[], None] = lambda: None) -> None:
        end = time.monotonic() + seconds
        while self._backlog and time.monotonic() < end:
            self._hand_on(self._backlog.batch(), read)
        self._status.buffered = self._backlog.size
        error, self._backlog.error = self._backlog.error, None
        if error is not None:
            raise error

    def _hand_on(self, batch: Batch, read: Callable[[], None]) -> None:
        """Reads on while the state is locked because a page is made of it."""
        if batch.lost["disconnected"]:
            logger.warning(
                "events_lost_by_disconnection",
                broker=self._masked,
                cause="Redis closed the connection before all was sent: it ended, or what it was kept for us reached "
                "its client-output-buffer-limit",
                fix='if that is it, raise the limit: CONFIG SET client-output-buffer-limit "pubsub 256mb 64mb 60"',
            )
        taken = False
        try:
            while not (taken := self._sink(batch, LOCK_SECONDS)):
                read()
        finally:
            if not taken:
                self._sink(batch)

    def _rest(self, seconds: float) -> None:
        """What was read before the connection was lost is still good."""
        end = time.monotonic() + seconds
        with suppress(hiredis.ProtocolError):
            self._decode(seconds)
        super()._rest(max(end - time.monotonic(), 0.0))
