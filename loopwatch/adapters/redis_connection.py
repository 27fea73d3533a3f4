"""The driver table of the Redis adapter: how a connection's socket is reached, and how a connection is guarded.

A connection outlives a call where an application keeps a ``pubsub()``, a ``client()`` or a single-connection client in
a global. Used on another loop it fails late and unclearly, and can crash the process where its own loop runs in another
thread. So the pool makes connections of a class that compares loops first, before anything is written or read.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Iterator
from functools import cache
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

from loopwatch.adapters.sockets import SocketHandle, transport_socket
from loopwatch.conflicts import Kind, count_once
from loopwatch.errors import LoopConflictError

__all__ = ["connections_of", "guarded", "redis_sockets", "refuse_elsewhere"]


class _LoopBound(AbstractConnection):
    """Mixed into the pool's connection class. Everything that reaches the socket passes one of these."""

    _loopwatch_loop: AbstractEventLoop

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._loopwatch_loop = asyncio.get_running_loop()

    async def connect(self) -> None:
        refuse_elsewhere(self)
        await super().connect()

    async def disconnect(self, *args: Any, **options: Any) -> None:
        refuse_elsewhere(self)
        await super().disconnect(*args, **options)

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        refuse_elsewhere(self)
        await super().send_packed_command(*args, **options)

    async def can_read(self) -> bool:
        refuse_elsewhere(self)
        return bool(await super().can_read())

    async def can_read_destructive(self) -> bool:  # redis-py before 8 asks this one
        refuse_elsewhere(self)
        return bool(await super().can_read_destructive())

    async def read_response(self, *args: Any, **options: Any) -> Any:
        refuse_elsewhere(self)
        return await super().read_response(*args, **options)


@cache
def guarded(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    """``connection_class``, whose instances belong to the loop on which they are made."""
    return type(connection_class.__name__, (_LoopBound, connection_class), {"__module__": connection_class.__module__})


def refuse_elsewhere(connection: AbstractConnection) -> None:
    """Raises `LoopConflictError` (and counts it) when ``connection`` belongs to another loop than the running one."""
    owner = getattr(connection, "_loopwatch_loop", None)
    user = asyncio.get_running_loop()
    if owner is None or owner is user:
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


def redis_sockets(pool: ConnectionPool) -> Iterator[SocketHandle]:
    """The sockets of all of the pool's connections, those in use too."""
    for connection in (one for group in connections_of(pool) for one in group):
        writer = getattr(connection, "_writer", None)
        handle = transport_socket(writer.transport) if writer is not None else None
        if handle is not None:
            yield handle
