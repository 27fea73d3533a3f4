"""Sockets to listen on, and what comes in by them: a bounded number of connections, none of which may dawdle.

We accept connections ourselves, so that each gets the TLS settings of its moment (they are re-read without a restart)
and so that a flood can be bounded: at `MAX_CONNECTIONS` the connection that has been idle longest makes room. Whoever
opens connections and sends headers drop by drop (slowloris) only ever displaces his own.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import structlog
from aiohttp import web

from loopwatch_monitor.tls import TLS

__all__ = ["Address", "AddressError", "Connections", "bind", "parse_address", "reset", "unlink"]

logger = structlog.get_logger("loopwatch_monitor")

MAX_CONNECTIONS = 256
"""Half of the files that the process may open, where that is less: an intake that reconnects needs one, too."""
HEADER_SECONDS = 10.0
"""From the connection to the end of its first request's headers; a TLS handshake has as long."""
IDLE_SECONDS = 120.0
"""Between two requests; longer than most scrape intervals, so that a TLS handshake is not paid for each scrape."""
_BACKLOG = 128
_UNIX = "unix://"


class AddressError(ValueError):
    """An address that cannot be listened on; the message names it."""


class Address(NamedTuple):
    """Where to listen: a path (a unix socket), or a host ("" = all interfaces) and a port (0 = a free one)."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{_UNIX}{self.path}" if self.path else f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """An address from its text; raises `AddressError`.

    >>> parse_address("[::1]:9808")
    Address(host='::1', port=9808, path='')
    >>> str(parse_address("unix:///run/loopwatch.sock"))
    'unix:///run/loopwatch.sock'
    """
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path.startswith("/"):
            raise AddressError(f"{text!r} needs an absolute path: unix:///run/loopwatch.sock")
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    good_port = port.isascii() and port.isdigit() and int(port) <= 65535
    if not colon or not good_port or ("[" in host or "]" in host or ":" in host) != bracketed:
        raise AddressError(f"{text!r} must be written like 127.0.0.1:9808, [::1]:9808, :9808 or unix:///path")
    return Address(host[1:-1] if bracketed else host, int(port))


def bind(address: Address) -> list[socket.socket]:
    """Listening sockets, one for each address that the host has; raises `OSError`."""
    return [_bind_unix(address.path)] if address.path else _bind_tcp(address)


def unlink(listener: socket.socket) -> None:
    """Removes the file of a unix socket."""
    if listener.family == socket.AF_UNIX:
        with suppress(FileNotFoundError):
            Path(listener.getsockname()).unlink()


def _bind_tcp(address: Address) -> list[socket.socket]:
    found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, place in dict.fromkeys(found):
            try:
                listener = socket.socket(family, kind, protocol)
            except OSError:
                continue  # a machine without IPv6 has the names for it all the same
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            port = address.port or listeners[0].getsockname()[1]
            listener.bind((place[0], port, *place[2:]))
            _listen(listener)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _bind_unix(path: str) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # For our user and group alone: what a reverse proxy's user is added to.
    umask = os.umask(0o117)
    try:
        listener.bind(path)
        _listen(listener)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return listener


def _remove_stale(path: str) -> None:
    """Removes the socket of a monitor that was killed; one that is listened on is left, for `bind` to complain of."""
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(path)
    except ConnectionRefusedError:
        Path(path).unlink(missing_ok=True)
    except OSError:
        return


def _max_connections() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, files // 2)


def _listen(listener: socket.socket) -> None:
    listener.listen(_BACKLOG)
    listener.setblocking(False)


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
