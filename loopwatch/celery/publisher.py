"""Celery events of our own: published through a connection of their own, whether or not the worker sends events."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import celery
from celery import Celery

__all__ = ["EventPublisher", "celery_version"]

SOCKET_TIMEOUT = 2.0
"""Seconds that the broker has to take an event, or to accept a connection."""

_TIMEOUTS = {
    "redis": {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": SOCKET_TIMEOUT},
    "amqp": {"read_timeout": SOCKET_TIMEOUT, "write_timeout": SOCKET_TIMEOUT},
}
"""By the transport's driver type; the others have no such option."""


def celery_version() -> str:
    """The version of Celery that is installed."""
    return str(celery.__version__)


class EventPublisher:
    """Publishes events as the node ``hostname``. Connects when needed; after a failure it begins anew.

    The worker's own dispatcher drops custom events unless events are enabled (``-E``), so this one is ours.
    """

    def __init__(self, app: Celery[Any], hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        self._connection: Any = None
        self._transport: Any = None
        self._dispatcher: Any = None

    def publish(self, type: str, fields: dict[str, Any]) -> None:
        """Sends one event; raises what the broker's client raises, after a few seconds at most."""
        try:
            if self._dispatcher is None:
                self._connect()
            # The dispatcher's own buffer grows with every event while the broker is down: it must raise instead.
            self._dispatcher.send(type, **fields)
        except Exception:
            self.close()
            raise

    def _connect(self) -> None:
        self._connection = self._app.connection_for_write(connect_timeout=SOCKET_TIMEOUT)
        self._transport = self._connection.transport
        self._connection.transport_options.update(_TIMEOUTS.get(self._transport.driver_type, {}))
        # Connected here, and given a channel: by itself a dispatcher would try for ever, and sleep between.
        self._connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        self._dispatcher = self._app.events.Dispatcher(
            channel=self._connection.channel(), hostname=self._hostname, buffer_while_offline=False
        )

    def close(self) -> None:
        """Closes the connection's sockets; the next event opens another one."""
        # By `collect`, which waits for no answer but an AMQP broker's, and for that no longer than the timeout; what it
        # leaves to the garbage collector is closed here, the poller of a Redis transport.
        connection, transport = self._connection, self._transport
        self._connection = self._transport = self._dispatcher = None
        poller = getattr(getattr(transport, "cycle", None), "poller", None)
        if connection is not None:
            with suppress(Exception):
                connection.collect(socket.getdefaulttimeout())
        if poller is not None:
            with suppress(Exception):
                poller.close()
