"""The driver table of the Redis adapter: how a connection's socket is reached, and how a connection is guarded.

A connection outlives a call where an application keeps a ``pubsub()``, a ``client()`` or a single-connection client in
a global. Used on another loop it fails late and unclearly, and can crash the process where its own loop runs in another
thread. So the pool makes connections of a class that compares loops first, before anything is written or read.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, _get_running_loop
from collections.abc import Iterator
from functools import cache
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

from loopwatch.conflicts import Kind, count_once
from loopwatch.errors import LoopConflictError
from loopwatch.sockets import SocketHandle, transport_socket

__all__ = [
    "connections_of",
    "follow",
    "guarded",
    "lender_of",
    "lent_by",
    "redis_sockets",
    "refuse_elsewhere",
    "take_idle",
]


class _LoopBound(AbstractConnection):
    """Mixed into the pool's connection class. Everything that reaches the socket passes one of these."""

    _loopwatch_loop: AbstractEventLoop | None = None
    _loopwatch_pool: ConnectionPool | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._loopwatch_loop = asyncio.get_running_loop()

    # Plain functions that return the coroutine: a command passes four of them.
    def connect(self) -> Any:
        refuse_elsewhere(self)
        return super().connect()  # type: ignore[no-untyped-call]

    def disconnect(self, *args: Any, **options: Any) -> Any:
        refuse_elsewhere(self)
        return super().disconnect(*args, **options)

    def send_packed_command(self, *args: Any, **options: Any) -> Any:
        refuse_elsewhere(self)
        return super().send_packed_command(*args, **options)

    def can_read(self) -> Any:
        refuse_elsewhere(self)
        return super().can_read()

    def can_read_destructive(self) -> Any:  # redis-py before 8 asks this one
        refuse_elsewhere(self)
        return super().can_read_destructive()

    def read_response(self, *args: Any, **options: Any) -> Any:
        refuse_elsewhere(self)
        return super().read_response(*args, **options)

    def __del__(self, *arguments: Any) -> None:
        # redis-py closes the transport on whatever loop the garbage collector happens to run.
        finalise = getattr(super(), "__del__", None)  # redis-py 5.0 has none
        if finalise is not None and _get_running_loop() in (None, self._loopwatch_loop):
            finalise(*arguments)


@cache
def guarded(connection_class: Any) -> type[AbstractConnection]:
    """``connection_class``, whose instances belong to the loop on which they are made."""
    return type(connection_class.__name__, (_LoopBound, connection_class), {"__module__": connection_class.__module__})


def refuse_elsewhere(connection: AbstractConnection) -> None:
    """Raises `LoopConflictError` (and counts it) when ``connection`` belongs to another loop than the running one."""
    owner: AbstractEventLoop | None = getattr(connection, "_loopwatch_loop", None)
    user = _get_running_loop()
    if owner is user or owner is None or user is None:
        return
    kind: Kind = "closed_loop" if owner.is_closed() else "cross_loop"
    state = "is closed" if owner.is_closed() else "is another one"
    error = LoopConflictError(
        f"a Redis connection (a pubsub, a client() or a single-connection client) was used on an event loop that is "
        f"not its own, which {state}: make it anew on the loop that uses it",
        resource="redis",
        kind=kind,
        owner=f"{owner!r} at {id(owner):#x}",
        user=f"{user!r} at {id(user):#x}",
    )
    count_once(error, source="guard")
    raise error


def connections_of(pool: ConnectionPool) -> tuple[list[AbstractConnection], list[AbstractConnection]]:
    """The pool's connections: idle, in use. The names are private and the same from redis-py 5.0 to 8.1."""
    return list(pool._available_connections), list(pool._in_use_connections)


def follow(pool: ConnectionPool, options: dict[str, Any]) -> None:
    """Makes the pool's new connections with what is changed in ``options`` later, such as a password.

    Only what is changed there: the pool changes its own, while the server tells it to move to another host.
    """
    make, known = pool.make_connection, dict(options)

    def make_connection() -> AbstractConnection:
        for key, value in options.items():
            if known.get(key) is not value:
                known[key] = pool.connection_kwargs[key] = value
        connection: AbstractConnection = make()  # type: ignore[no-untyped-call]
        return connection

    pool.make_connection = make_connection  # type: ignore[method-assign]


def take_idle(pool: ConnectionPool) -> list[AbstractConnection]:
    """Takes the idle connections out of the pool."""
    idle = list(pool._available_connections)
    pool._available_connections.clear()
    return idle


def lent_by(pool: ConnectionPool, connection: AbstractConnection) -> AbstractConnection:
    """Notes whose it is: it goes back there even when its loop has another pool by then."""
    connection._loopwatch_pool = pool  # type: ignore[attr-defined]
    return connection


def lender_of(connection: AbstractConnection) -> ConnectionPool | None:
    """The pool that `lent_by` noted."""
    return getattr(connection, "_loopwatch_pool", None)


def redis_sockets(pool: ConnectionPool) -> Iterator[SocketHandle]:
    """The sockets of all of the pool's connections, those in use too."""
    for connection in (one for group in connections_of(pool) for one in group):
        writer = getattr(connection, "_writer", None)
        handle = transport_socket(writer.transport) if writer is not None else None
        if handle is not None:
            yield handle
