"""Events by kombu's consumer, from any broker that Celery speaks to: a thread with a connection of its own.

The thread does nothing but take messages off the broker and hand their bodies on; AMQP gives event queues five
seconds. A connection that is lost is made anew for ever, with backoff and jitter. A broker that has fallen silent
without closing its connection is found by asking it every `ASK_SECONDS`.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import structlog
from celery.events.event import get_exchange
from kombu import Connection, Consumer, Queue
from kombu.transport.virtual.base import Message as VirtualMessage

from loopwatch_monitor.intake.status import BrokerStatus

__all__ = ["BrokerUnreachableError", "KombuIntake"]

logger = structlog.get_logger("loopwatch_monitor")

CONNECT_TIMEOUT = 5
ASK_SECONDS = 5.0
BACKOFF_SECONDS = (0.5, 15.0)
"""The first and the longest pause between two attempts to connect."""
_REDIS_OPTIONS = {
    "socket_connect_timeout": CONNECT_TIMEOUT,
    "socket_timeout": float(CONNECT_TIMEOUT),
    "socket_keepalive": True,
    "health_check_interval": 10,
}
_QUEUE_TTL, _QUEUE_EXPIRES = 5.0, 60.0
"""Celery's own defaults for event queues: another consumer's queues look the same."""


class BrokerUnreachableError(Exception):
    """The broker could not be reached; the message holds no credentials."""


class _LenientMessage(VirtualMessage):
    """A message of a virtual transport (Redis), made even of an envelope that cannot be unwrapped: raising while it
    is made would cost the messages behind it; ``errors`` makes the consumer hand it to ``on_decode_error``."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        try:
            super().__init__(payload, channel=channel, **kwargs)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with it, it is one bad message
            self.errors = [(type(error), error, None)]
            self.body: Any
            self.body, self.content_type, self.channel, self.headers = b"", None, channel, {}


class KombuIntake:
    """Consumes events in a thread and hands each message's body to ``sink``.

    Args:
        url: the broker's URL.
        sink: called in the thread with a body and its content type; must not raise.
        refused: called with ``"envelope"`` for a message that could not be unwrapped.
        status: kept true to the state of the connection.
        options: for the transport, over our timeouts.
    """

    def __init__(
        self,
        url: str,
        *,
        sink: Callable[[bytes, str | None], None],
        refused: Callable[[str], None],
        status: BrokerStatus,
        options: Mapping[str, object] | None = None,
    ) -> None:
        self._url = url
        self._sink = sink
        self._refused = refused
        self._status = status
        self._options = dict(options or {})
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loopwatch-intake", daemon=True)

    def probe(self) -> None:
        """Connects once and lets go; raises `BrokerUnreachableError`."""
        try:
            self._connect().release()
        except Exception as error:  # noqa: BLE001  # any of a dozen libraries' errors says the same
            raise BrokerUnreachableError(f"{self._masked()}: {self._reason(error)}") from None

    def start(self) -> None:
        """Begins to consume."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; one that hangs in the broker's socket is left to die with the process."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def _run(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            try:
                with self._connect() as connection:
                    self._consume(connection)
            except Exception as error:  # noqa: BLE001  # the same; and the same cure: try again, for ever
                attempt = 0 if self._status.up else attempt + 1
                pause = _backoff(attempt)
                logger.warning(
                    "broker_lost" if self._status.up else "broker_unreachable",
                    broker=self._masked(),
                    error=self._reason(error),
                    retry_in_seconds=round(pause, 2),
                )
                self._lost()
                self._stopping.wait(pause)

    def _lost(self) -> None:
        if self._status.up:
            self._status.up = False
            self._status.lost += 1

    def _connect(self) -> Connection:
        redis = self._url.split(":", 1)[0] in ("redis", "rediss", "sentinel")
        connection = Connection(
            self._url,
            connect_timeout=CONNECT_TIMEOUT,
            heartbeat=10,
            transport_options={**(_REDIS_OPTIONS if redis else {}), **self._options},
        )
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=CONNECT_TIMEOUT)
        except BaseException:
            connection.release()
            raise
        return connection

    def _consume(self, connection: Connection) -> None:
        channel: Any = connection.channel()
        if getattr(channel, "Message", None) is VirtualMessage:
            channel.Message = _LenientMessage
        queue = Queue(
            f"celeryev.{uuid.uuid4()}",
            exchange=get_exchange(connection),
            routing_key="#",
            exclusive=True,  # gone with its connection, and no one else's
            auto_delete=True,
            durable=False,
            message_ttl=_QUEUE_TTL,
            expires=_QUEUE_EXPIRES,
        )
        consumer = Consumer(channel, queues=[queue], no_ack=True, on_message=self._message, accept=None)
        consumer.on_decode_error = lambda message, error: self._refused("envelope")
        with consumer:
            self._status.up = True
            logger.info("broker_connected", broker=self._masked())
            self._drain(connection, channel)

    def _drain(self, connection: Connection, channel: Any) -> None:
        asked = time.monotonic()
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                connection.drain_events(timeout=1.0)
            if time.monotonic() - asked >= ASK_SECONDS:
                asked = time.monotonic()
                _ask(connection, channel)

    def _message(self, message: Any) -> None:
        body = message.body
        self._sink(body.encode() if isinstance(body, str) else bytes(body), message.content_type)

    def _masked(self) -> str:
        return ";".join(Connection(url).as_uri() for url in self._url.split(";"))

    def _reason(self, error: BaseException) -> str:
        text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        for url in self._url.split(";"):
            password = Connection(url).password
            text = text.replace(password, "**") if password else text
        return text


def _ask(connection: Connection, channel: Any) -> None:
    """Raises when the broker does not answer."""
    if connection.supports_heartbeats:
        connection.heartbeat_check()
        return
    client = getattr(channel, "client", None)
    if client is not None and hasattr(client, "ping"):
        client.ping()
    # kombu checks the subscription's own connection only under its event loop, which we do not use.
    check = getattr(getattr(connection.transport, "cycle", None), "maybe_check_subclient_health", None)
    if check is not None:
        check()


def _backoff(attempt: int) -> float:
    """Seconds until the next attempt; jittered, so that many monitors do not come back at one moment."""
    first, longest = BACKOFF_SECONDS
    pause: float = min(longest, first * 2 ** min(attempt, 10))
    return pause * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
