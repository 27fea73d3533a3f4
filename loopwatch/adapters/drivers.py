"""The driver table of the SQLAlchemy adapter: how the socket beneath a driver's connection is reached.

A driver that is not in the table (aiosqlite, which has a thread and a file) has no socket to protect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from loopwatch.sockets import SocketHandle, transport_socket

__all__ = ["driver_sockets"]


class _LibpqSocket:
    """psycopg's: libpq owns the descriptor, no event loop does, so it can be closed from anywhere."""

    __slots__ = ("_pgconn",)

    def __init__(self, pgconn: Any) -> None:
        self._pgconn = pgconn

    def fileno(self) -> int:
        return int(self._pgconn.socket) if self._pgconn.status == 0 else -1

    def close(self) -> None:
        self._pgconn.finish()


def _asyncpg(connection: Any) -> Iterator[SocketHandle | None]:
    yield transport_socket(connection._transport)


def _psycopg(connection: Any) -> Iterator[SocketHandle | None]:
    yield _LibpqSocket(connection.pgconn)


def _mysql(connection: Any) -> Iterator[SocketHandle | None]:
    writer = connection._writer
    yield transport_socket(writer.transport if writer is not None else None)


_TABLE: dict[str, Callable[[Any], Iterator[SocketHandle | None]]] = {
    "asyncpg": _asyncpg,
    "psycopg": _psycopg,
    "psycopg_async": _psycopg,
    "aiomysql": _mysql,
    "asyncmy": _mysql,
}


def driver_sockets(driver: str, connection: object) -> Iterator[SocketHandle]:
    """The sockets of a driver's own connection (``ConnectionPoolEntry.driver_connection``)."""
    reach = _TABLE.get(driver)
    if reach is not None and connection is not None:
        yield from (handle for handle in reach(connection) if handle is not None)
