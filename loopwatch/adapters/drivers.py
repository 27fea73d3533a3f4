"""The driver table of the SQLAlchemy adapter: how the socket beneath a driver's connection is reached.

aiosqlite has a thread and a file in its place. A driver that is not in the table keeps what it has when its loop is
just closed, and after a fork.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from loopwatch.sockets import SocketHandle, transport_socket

__all__ = ["driver_resource", "driver_sockets"]


class _LibpqSocket:
    """psycopg's: libpq owns the descriptor, no event loop does, so it can be closed from anywhere."""

    __slots__ = ("_pgconn",)

    def __init__(self, pgconn: Any) -> None:
        self._pgconn = pgconn

    def fileno(self) -> int:
        return int(self._pgconn.socket) if self._pgconn.status == 0 else -1

    def close(self) -> None:
        self._pgconn.finish()


class _SQLiteThread:
    """aiosqlite's thread, which owns the connection to the file: it ends without a loop. A fork does not copy it."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self._connection.stop()


def _asyncpg(connection: Any) -> Iterator[SocketHandle | None]:
    yield transport_socket(connection._transport)


def _psycopg(connection: Any) -> Iterator[SocketHandle | None]:
    yield _LibpqSocket(connection.pgconn)


def _aiomysql(connection: Any) -> Iterator[SocketHandle | None]:
    writer = connection._writer
    yield transport_socket(writer.transport if writer is not None else None)


def _asyncmy(connection: Any) -> Iterator[SocketHandle | None]:
    # Its newer versions have a transport, its older ones a stream around it.
    writer = getattr(connection, "_writer", None)
    yield transport_socket(writer.transport if writer is not None else getattr(connection, "_transport", None))


def _aiosqlite(connection: Any) -> Iterator[SocketHandle | None]:
    yield _SQLiteThread(connection)


_TABLE: dict[str, Callable[[Any], Iterator[SocketHandle | None]]] = {
    "asyncpg": _asyncpg,
    "psycopg": _psycopg,
    "psycopg_async": _psycopg,
    "aiomysql": _aiomysql,
    "asyncmy": _asyncmy,
    "aiosqlite": _aiosqlite,
}


def driver_sockets(driver: str, connection: object) -> Iterator[SocketHandle]:
    """The sockets of a driver's own connection (``ConnectionPoolEntry.driver_connection``)."""
    reach = _TABLE.get(driver)
    if reach is not None and connection is not None:
        yield from (handle for handle in reach(connection) if handle is not None)


def driver_resource(driver: str) -> str:
    """What a conflict over a driver's connection is reported as; a driver that is not in the table as SQLAlchemy."""
    return driver.removesuffix("_async") if driver in _TABLE else "sqlalchemy"
