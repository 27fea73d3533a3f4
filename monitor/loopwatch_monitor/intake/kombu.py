"""Events by kombu's consumer, from any broker that Celery speaks to: Redis has an intake of its own.

The thread does nothing but take messages off the broker and hand them on; AMQP gives event queues five seconds.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from amqp.transport import TCPTransport
from celery.events.event import get_exchange
from kombu import Connection, Consumer, Queue
from kombu.transport.virtual.base import Message as VirtualMessage

from loopwatch_monitor.intake.batch import Batch, Sink
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.intake.thread import ASK_SECONDS, CONNECT_TIMEOUT, Intake
from loopwatch_monitor.intake.tls_options import kombu_ssl

__all__ = ["KombuIntake", "connect"]

WAIT_SECONDS = 1.0
READ_BYTES = 256 * 1024
QUEUE_TTL, QUEUE_EXPIRES = 60.0, 60.0
"""Seconds that a message waits for us, and that the queue outlives a consumer that is gone."""
QUEUE_BYTES = 256 * 1024 * 1024
"""What the broker keeps for us at most; beyond it the oldest go."""


class _LenientMessage(VirtualMessage):
    """A message of a virtual transport, made even of an envelope that cannot be unwrapped: raising while it is made
    would cost the messages behind it; ``errors`` makes the consumer hand it to ``on_decode_error``."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        try:
            super().__init__(payload, channel=channel, **kwargs)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with it, it is one bad message
            self.errors = [(type(error), error, None)]
            self.body: Any
            self.body, self.content_type, self.channel, self.headers = b"", None, channel, {}


class KombuIntake(Intake):
    """Consumes events by kombu.

    Args:
        url: the broker's URL.
        sink: called in the thread with what was read.
        status: kept true to the state of the connection.
        exchange: Celery's ``event_exchange``.
        options: for the transport.
        ssl_options: TLS: ``ca_certs``, ``cert_reqs`` and the like.
    """

    def __init__(
        self,
        url: str,
        *,
        sink: Sink,
        status: BrokerStatus,
        exchange: str = "celeryev",
        options: Mapping[str, object] | None = None,
        ssl_options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(url, options or {}, sink=sink, status=status)
        self._ssl = kombu_ssl(url, ssl_options or {})
        self._exchange = exchange
        self._options = dict(options or {})

    def _try(self) -> None:
        self._connect().release()

    def _consume(self) -> None:
        with self._connect() as connection:
            channel: Any = connection.channel()
            if getattr(channel, "Message", None) is VirtualMessage:
                channel.Message = _LenientMessage
            queues = [self._queue(connection)]
            consumer = Consumer(channel, queues=queues, no_ack=True, on_message=self._message, accept=None)
            consumer.on_decode_error = lambda message, error: self._refused()
            with consumer:
                self._connected()
                self._drain(connection, channel)

    def _connect(self) -> Connection:
        return connect(self._url, timeout=CONNECT_TIMEOUT, options=self._options, ssl=self._ssl, heartbeat=10)

    def _queue(self, connection: Connection) -> Queue:
        """Ours alone, and gone with its connection. It keeps more and for longer than Celery's own event queues (5
        seconds), as what a stall of ours does not outlast is lost; its bound keeps the broker from harm."""
        return Queue(
            f"celeryev.{uuid.uuid4()}",
            exchange=get_exchange(connection, name=self._exchange),
            routing_key="#",
            exclusive=True,
            auto_delete=True,
            durable=False,
            message_ttl=QUEUE_TTL,
            expires=QUEUE_EXPIRES,
            max_length_bytes=QUEUE_BYTES,
        )

    def _drain(self, connection: Connection, channel: Any) -> None:
        _hasten(connection.connection, channel)
        asked = time.monotonic()
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                connection.drain_events(timeout=WAIT_SECONDS)
            if time.monotonic() - asked >= ASK_SECONDS:
                asked = time.monotonic()
                _ask(connection, channel)

    def _message(self, message: Any) -> None:
        batch = Batch()
        body = message.body
        batch.add(body.encode() if isinstance(body, str) else bytes(body), message.content_type)
        self._sink(batch)

    def _refused(self) -> None:
        batch = Batch()
        batch.malformed["envelope"] += 1
        self._sink(batch)


def connect(
    url: str, *, timeout: float, options: Mapping[str, object], ssl: dict[str, Any] | bool, heartbeat: int = 0
) -> Connection:
    """A connection to the first server that can be had, each of which has ``timeout`` seconds: one that hangs must not
    keep us from the next."""
    connection = Connection(url, connect_timeout=timeout, heartbeat=heartbeat, transport_options=dict(options), ssl=ssl)
    try:
        connection.ensure_connection(max_retries=url.count(";"), interval_start=0)
    except BaseException:
        connection.release()
        raise
    return connection


def _hasten(connection: Any, channel: Any) -> None:
    """Makes py-amqp, where it is that, waste less: it reads each message with nine calls of the system, sets and resets
    the timeout three times, and decodes a body that we want as it is."""
    transport = getattr(connection, "transport", None)
    if not isinstance(transport, TCPTransport) or transport.sock is None:
        return
    transport.sock.settimeout(WAIT_SECONDS)
    transport._quick_recv = _buffered(transport.sock)  # type: ignore[attr-defined,unused-ignore]
    channel.auto_decode = False


def _buffered(sock: socket.socket) -> Callable[[int], bytes]:
    """``sock.recv`` that reads ahead."""
    ahead = b""
    start = 0

    def recv(size: int) -> bytes:
        nonlocal ahead, start
        if start >= len(ahead):
            ahead, start = sock.recv(READ_BYTES), 0
        found = ahead[start : start + size]
        start += size
        return found

    return recv


def _ask(connection: Connection, channel: Any) -> None:
    """Raises when the broker does not answer."""
    if connection.supports_heartbeats:
        connection.heartbeat_check()
        return
    client = getattr(channel, "client", None)
    if client is not None and hasattr(client, "ping"):
        client.ping()
