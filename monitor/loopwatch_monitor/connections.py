"""What comes in by the sockets that are listened on: a bounded number of connections, none of which may dawdle.

We accept connections ourselves, so that each gets the TLS settings of its moment (they are re-read without a restart)
and so that a flood can be bounded: at `MAX_CONNECTIONS` the connection that has been idle longest makes room. Whoever
opens connections and sends headers drop by drop (slowloris) only ever displaces his own.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import struct
from collections.abc import Callable
from http import HTTPStatus

import structlog
from aiohttp import web

from loopwatch_monitor.tls import TLS

__all__ = ["Connections", "reset"]

logger = structlog.get_logger("loopwatch_monitor")

MAX_CONNECTIONS = 256
"""Half of the files that the process may open, where that is less: an intake that reconnects needs one, too."""
HEADER_SECONDS = 10.0
"""From the connection to the end of its first request's headers; a TLS handshake has as long."""
IDLE_SECONDS = 120.0
"""Between two requests; longer than most scrape intervals, so that a TLS handshake is not paid for each scrape."""


def _max_connections() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, files // 2)


def reset(transport: asyncio.BaseTransport) -> None:
    """Ends a connection at once, with what it had still to send: the kernel would go on for minutes."""
    assert isinstance(transport, asyncio.Transport)
    connection = transport.get_extra_info("socket")
    if connection is not None and not transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Connection(web.RequestHandler):
    """One connection. What is wrong with a request is never repeated to the client, nor logged: it is his text."""

    __slots__ = ("_admits", "_clock", "_connections", "_deadline")

    def __init__(
        self, connections: Connections, server: web.Server, loop: asyncio.AbstractEventLoop, tls: TLS | None
    ) -> None:
        super().__init__(server, loop=loop, access_log=None, keepalive_timeout=IDLE_SECONDS, lingering_time=1.0)  # type: ignore[arg-type]
        self._connections = connections
        self._admits = tls
        self._deadline: asyncio.TimerHandle | None = None
        self._clock = loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Turns away a client whose certificate has none of the names that are allowed."""
        assert isinstance(transport, asyncio.Transport)
        if self._admits is not None and not self._admits.admits(transport.get_extra_info("ssl_object")):
            logger.warning("client_certificate_refused", reason="none of its names is in client_allowed_sans")
            transport.abort()
            return
        super().connection_made(transport)
        self._connections.idle[self] = self._connections.open[self] = transport
        self._deadline = self._clock.call_later(HEADER_SECONDS, transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forgets it."""
        self._connections.idle.pop(self, None)
        self._connections.open.pop(self, None)
        self.heard()
        super().connection_lost(exc)

    def heard(self) -> None:
        """The first request's headers are complete."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The status alone."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response was begun already") from exc
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(exc, ConnectionError):  # he is gone
            logger.error("request_failed", exc_info=exc)
        response = web.Response(status=status, text=f"{status} {HTTPStatus(status).phrase}\n")
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.force_close()
        return response


class Connections:
    """Accepts connections for a server.

    Args:
        server: handles their requests.
        tls: the TLS settings of the moment, ``None`` for plain HTTP.
    """

    def __init__(self, server: web.Server, tls: Callable[[], TLS | None]) -> None:
        self._server = server
        self._tls, self._limit = tls, _max_connections()
        self._handshakes: dict[asyncio.Task[None], None] = {}
        self._accepting: list[asyncio.Task[None]] = []
        self.open: dict[Connection, asyncio.Transport] = {}
        self.idle: dict[Connection, asyncio.Transport] = {}
        """Those without a request in progress; the one that has been idle longest is the first."""

    def accept(self, listener: socket.socket) -> None:
        """Begins to accept from this socket."""
        self._accepting.append(asyncio.create_task(self._accept(listener)))

    async def close(self) -> None:
        """Stops to accept; connections that are open stay so."""
        tasks = [*self._accepting, *self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def began(self, connection: object) -> None:
        """A request's headers are complete."""
        assert isinstance(connection, Connection)
        connection.heard()
        self.idle.pop(connection, None)

    def ended(self, connection: object) -> None:
        """Its response is ready to be sent, or was."""
        assert isinstance(connection, Connection)
        if connection in self.open:
            self.idle[connection] = self.open[connection]

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connected, _ = await loop.sock_accept(listener)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                # No file descriptor is free: those that are idle give theirs.
                logger.warning("accept_failed", error=str(error))
                self._displace()
                await asyncio.sleep(0.5)
                continue
            connected.setblocking(False)
            if len(self.open) + len(self._handshakes) >= self._limit and not self._displace():
                connected.close()  # all are being answered
                continue
            task = asyncio.create_task(self._connect(connected))
            self._handshakes[task] = None
            task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    def _displace(self) -> bool:
        """Ends the connection that has been idle longest, or the oldest handshake; says whether there was one."""
        for connection in self.idle:
            del self.idle[connection]
            self.open.pop(connection).abort()
            return True
        for task in self._handshakes:
            del self._handshakes[task]
            task.cancel()
            return True
        return False

    async def _connect(self, connected: socket.socket) -> None:
        loop, tls = asyncio.get_running_loop(), self._tls()
        context = tls.context if tls is not None else None
        try:
            await loop.connect_accepted_socket(
                lambda: Connection(self, self._server, loop, tls),
                connected,
                ssl=context,
                ssl_handshake_timeout=HEADER_SECONDS if context is not None else None,
            )
        except (OSError, ssl.SSLError) as error:
            # A scanner, a client with the wrong certificate, an old protocol: nothing that we could mend.
            logger.debug("handshake_failed", error=str(error))
