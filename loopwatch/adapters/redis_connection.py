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
from time import perf_counter
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

from loopwatch.adapters.foreign_loop import refuse_foreign_loop
from loopwatch.adapters.pool_meter import PoolMeter
from loopwatch.sockets import SocketHandle, transport_socket

__all__ = [
    "connections_of",
    "guarded",
    "lender_of",
    "lent_by",
    "meter_of",
    "redis_sockets",
    "refuse_elsewhere",
    "set_up",
    "take_idle",
]


_CONNECTS_ELSEWHERE = hasattr(AbstractConnection, "connect_check_health")
"""A command that finds its connection closed calls this where redis-py has it, and ``connect`` in older versions."""


class _LoopBound(AbstractConnection):
    """Mixed into the pool's connection class. Everything that reaches the socket passes one of these."""

    _loopwatch_loop: AbstractEventLoop | None = None
    _loopwatch_pool: ConnectionPool | None = None
    _loopwatch_meter: PoolMeter | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._loopwatch_loop = asyncio.get_running_loop()

    # Plain functions that return the coroutine: a command passes four of them.
    def connect(self) -> Any:
        refuse_elsewhere(self)
        connecting = super().connect()  # type: ignore[no-untyped-call]
        return connecting if _CONNECTS_ELSEWHERE else self._opened_by(connecting)

    def connect_check_health(self, *args: Any, **options: Any) -> Any:
        refuse_elsewhere(self)
        return self._opened_by(super().connect_check_health(*args, **options))

    def _opened_by(self, connecting: Any) -> Any:
        meter = self._loopwatch_meter
        return connecting if meter is None or self.is_connected else _measured(connecting, meter)

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

    def register_connect_callback(self, callback: Any) -> None:
        """A pubsub does this, as soon as it has a connection, which it then holds on purpose."""
        if self._loopwatch_meter is not None:
            self._loopwatch_meter.held_by(self, callback.__self__)
        super().register_connect_callback(callback)  # type: ignore[no-untyped-call]

    def _register_connect_callback(self, callback: Any) -> None:  # redis-py 5.0's name for it
        if self._loopwatch_meter is not None:
            self._loopwatch_meter.held_by(self, callback.__self__)
        super()._register_connect_callback(callback)  # type: ignore[misc]

    def __del__(self, *arguments: Any) -> None:
        # redis-py closes the transport on whatever loop the garbage collector happens to run.
        finalise = getattr(super(), "__del__", None)  # redis-py 5.0 has none
        if finalise is not None and _get_running_loop() in (None, self._loopwatch_loop):
            finalise(*arguments)


async def _measured(connecting: Any, meter: PoolMeter) -> Any:
    start = perf_counter()
    result = await connecting
    meter.created(start)
    return result


@cache
def guarded(connection_class: Any) -> type[AbstractConnection]:
    """``connection_class``, whose instances belong to the loop on which they are made."""
    return type(connection_class.__name__, (_LoopBound, connection_class), {"__module__": connection_class.__module__})


def refuse_elsewhere(connection: AbstractConnection) -> None:
    """Raises `LoopConflictError` (and counts it) when ``connection`` belongs to another loop than the running one."""
    owner: AbstractEventLoop | None = getattr(connection, "_loopwatch_loop", None)
    if owner is not _get_running_loop():
        refuse_foreign_loop(
            owner,
            what="a Redis connection (a pubsub, a client() or a single-connection client)",
            fix="make it anew on the loop that uses it",
            resource="redis",
        )


def connections_of(pool: ConnectionPool) -> tuple[list[AbstractConnection], list[AbstractConnection]]:
    """The pool's connections: idle, in use. The names are private and the same from redis-py 5.0 to 8.1."""
    return list(pool._available_connections), list(pool._in_use_connections)


def set_up(pool: ConnectionPool, options: dict[str, Any], meter: PoolMeter) -> None:
    """Makes the pool's new connections with what is changed in ``options`` later, such as a password, and measures it.

    Only what is changed there: the pool changes its own, while the server tells it to move to another host.
    """
    make, known = pool.make_connection, dict(options)

    def make_connection() -> AbstractConnection:
        for key, value in options.items():
            if known.get(key) is not value:
                known[key] = pool.connection_kwargs[key] = value
        connection: AbstractConnection = make()  # type: ignore[no-untyped-call]
        connection._loopwatch_meter = meter  # type: ignore[attr-defined]
        return connection

    pool.make_connection = make_connection  # type: ignore[method-assign]
    pool._loopwatch_meter = meter  # type: ignore[attr-defined]


def meter_of(pool: ConnectionPool) -> PoolMeter:
    """The meter that `set_up` gave it."""
    meter: PoolMeter = pool._loopwatch_meter  # type: ignore[attr-defined]
    return meter


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
