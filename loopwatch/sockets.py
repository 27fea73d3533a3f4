"""How the operating system's socket beneath an asyncio transport is reached, neutralised and closed.

Needed twice: after a fork, where the child must not speak (or say goodbye) on the parent's connections, and where a
loop was closed without its clients having been closed, which leaves sessions on the server that nobody can end.
"""

from __future__ import annotations

import os
import socket
from asyncio import BaseTransport
from collections.abc import Iterable
from typing import Protocol

__all__ = ["SocketHandle", "TransportSocket", "close_all", "neutralise", "transport_socket"]


class SocketHandle(Protocol):
    """What `PerLoop` needs to know of a socket."""

    def fileno(self) -> int:
        """The descriptor, -1 when closed."""
        ...

    def close(self) -> None:
        """Closes the descriptor without any goodbye and without an event loop."""
        ...


class TransportSocket:
    """The socket of an asyncio or uvloop transport, with or without TLS."""

    __slots__ = ("_socket",)

    def __init__(self, sock: object) -> None:
        self._socket = sock

    def fileno(self) -> int:
        return int(self._socket.fileno())  # type: ignore[attr-defined]  # both kinds have it

    def close(self) -> None:
        # asyncio hands out a TransportSocket around the real one. uvloop's has none beneath: uvloop closes its
        # sockets with the loop, and touching them afterwards can crash the process.
        raw = getattr(self._socket, "_sock", None)
        if isinstance(raw, socket.socket):
            raw.close()


def transport_socket(transport: BaseTransport | None) -> TransportSocket | None:
    """The socket beneath ``transport``, or ``None`` when it has none (any more).

    ``get_extra_info`` rather than ``transport._sock``: the transport of a TLS connection has no ``_sock``.
    """
    sock = transport.get_extra_info("socket") if transport is not None else None
    return None if sock is None else TransportSocket(sock)


def neutralise(handles: Iterable[SocketHandle]) -> None:
    """Puts ``/dev/null`` in the place of each socket, in this process only.

    Whatever the client's own code does with the socket afterwards (a goodbye, ``__del__``, ``loop.close()``) no
    longer reaches the server, and the parent's connection, which is the same open file, stays as it is.
    """
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for handle in handles:
            descriptor = handle.fileno()
            if descriptor >= 0:
                os.dup2(null, descriptor)
    finally:
        os.close(null)


def close_all(handles: Iterable[SocketHandle]) -> None:
    """Closes each socket."""
    for handle in handles:
        handle.close()
