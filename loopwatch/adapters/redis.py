"""redis-py: one global client whose connection pool is per event loop.

`RedisConnectionPool` is redis-py's pool in every respect but one: it has no connections. It passes each call that
needs some to the running loop's own pool, which is made on first use and closed with its loop.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable
from typing import Any

from redis.asyncio import Connection, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry

from loopwatch.adapters.redis_connection import (
    connections_of,
    follow,
    guarded,
    lender_of,
    lent_by,
    redis_sockets,
    refuse_elsewhere,
    take_idle,
)
from loopwatch.errors import ConfigurationError
from loopwatch.per_loop import PerLoop, is_ending
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, Gauge

__all__ = ["RedisConnectionPool", "redis_from_url"]

DRAIN = 0.5
"""Seconds that the end of a loop waits for connections in use: another async generator may be finishing with one."""
_UNBOUNDED = 2**31  # redis-py's default before 8


def redis_from_url(url: str, *, name: str | None = None, **options: Any) -> Redis:
    """`redis.asyncio.Redis.from_url`, right on every event loop, in every thread and after every fork.

    >>> redis_from_url("redis://localhost/3").connection_pool.name
    'redis/3'

    The result is a genuine `redis.asyncio.Redis`; its ``aclose()`` closes the running loop's connections.

    Args:
        url: as there (``redis://``, ``rediss://``, ``unix://``).
        name: the label ``pool`` of its metrics; by default ``redis/`` and the number of the database.
        options: as there; ``pool_class=`` chooses the kind of pool that a loop has.

    Raises:
        ValueError: the URL cannot be parsed.
        ConfigurationError: an option that ties the client to one loop.
    """
    if options.pop("single_connection_client", False):
        raise ConfigurationError(
            "single_connection_client=True ties a client to one event loop: leave it out, or call .client() on the "
            "loop that needs one connection of its own"
        )
    client = Redis(connection_pool=RedisConnectionPool.from_url(url, name=name, **options))
    # As Redis.from_url does: the pool is this client's own.
    client.auto_close_connection_pool = True
    return client


class RedisConnectionPool(ConnectionPool):
    """A `redis.asyncio.ConnectionPool` for any client class, with one pool of connections for each event loop.

    >>> client = Redis(connection_pool=RedisConnectionPool.from_url("redis://localhost", max_connections=10))

    Args:
        connection_class: as there.
        max_connections: as there, for each loop.
        name: the label ``pool`` of its metrics; by default ``redis/`` and the number of the database.
        pool_class: the kind of pool that a loop has, such as `redis.asyncio.BlockingConnectionPool`.
        options: the options of ``pool_class``, and as there those of the connections.
    """

    def __init__(
        self,
        connection_class: type[AbstractConnection] = Connection,
        max_connections: int | None = None,
        *,
        name: str | None = None,
        pool_class: type[ConnectionPool] = ConnectionPool,
        **options: Any,
    ) -> None:
        if issubclass(pool_class, RedisConnectionPool) or not issubclass(pool_class, ConnectionPool):
            raise ConfigurationError(f"pool_class must be a pool of redis.asyncio's, not {pool_class!r}")
        names = _options_of(pool_class)
        self._pool_class = pool_class
        self._pool_options = {key: options.pop(key) for key in names & options.keys()}
        if max_connections is not None:
            self._pool_options["max_connections"] = max_connections
        super().__init__(connection_class, max_connections, **_without_maintenance(), **options)
        self.name = name or f"redis/{self.connection_kwargs.get('db') or 0}"
        self._pools: PerLoop[Any] = PerLoop(self._make_pool, dispose=_close, name=self.name, sockets=redis_sockets)
        STATS.add_source(self._gauges)

    def _make_pool(self) -> ConnectionPool:
        options = self.connection_kwargs
        bound = guarded(self.connection_class)  # type: ignore[arg-type]  # a class is hashable
        pool = self._pool_class(connection_class=bound, **self._pool_options, **options)
        follow(pool, options)
        return pool

    def _peek(self) -> Any:
        return self._pools.peek() if asyncio._get_running_loop() is not None else None

    # ------------------------------------------------------------ passed on to the running loop's pool
    async def get_connection(self, *args: Any, **options: Any) -> AbstractConnection:
        pool = self._pools.get()
        return lent_by(pool, await pool.get_connection(*args, **options))

    def get_available_connection(self) -> AbstractConnection:
        pool = self._pools.get()
        return lent_by(pool, pool.get_available_connection())

    def can_get_connection(self) -> bool:
        return bool(self._pools.get().can_get_connection())

    def make_connection(self) -> AbstractConnection:
        connection: AbstractConnection = self._pools.get().make_connection()
        return connection

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        await self._pools.get().ensure_connection(connection)

    async def release(self, connection: AbstractConnection) -> None:
        refuse_elsewhere(connection)
        pool = lender_of(connection) or self._pools.get()
        if self._pools.ending() or self._pools.peek() is not pool:
            # The pool is being closed, or was: nobody would close what is put back into it.
            await connection.disconnect()
        await pool.release(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Disconnects this loop's connections; those of other loops are theirs to close."""
        pool = self._peek()
        if pool is not None:
            await pool.disconnect(inuse_connections)

    async def aclose(self) -> None:
        """Closes this loop's pool; the next command makes a new one."""
        await self._pools.aclose()

    def reset(self) -> None:
        pool = self._peek()
        if pool is not None:
            pool.reset()

    async def update_active_connections_for_reconnect(self) -> None:
        pool = self._peek()
        if pool is not None:
            await pool.update_active_connections_for_reconnect()

    # ------------------------------------------------------------ for the pools of all loops
    def set_retry(self, retry: Retry) -> None:
        for pool in self._pools:
            pool.set_retry(retry)

    async def re_auth_callback(self, token: Any) -> None:
        here = asyncio.get_running_loop()
        for loop, pool in self._pools.live():
            if loop is here:
                await pool.re_auth_callback(token)
            elif not loop.is_closed():
                # Its connections are that loop's to speak on; one that is paused does so when it runs again.
                asyncio.run_coroutine_threadsafe(pool.re_auth_callback(token), loop)

    def get_connection_count(self) -> list[tuple[int, dict[str, Any]]]:
        return [row for pool in self._pools for row in pool.get_connection_count()]

    # ------------------------------------------------------------ measured
    def _gauges(self) -> Iterable[Gauge]:
        yield catalogue.POOL_INFO, (self.name, "redis", self._database()), 1
        for pool in self._pools:
            idle, used = connections_of(pool)
            open_idle = sum(connection.is_connected for connection in idle)
            yield catalogue.POOL_CONNECTIONS, (self.name, "idle"), open_idle
            yield catalogue.POOL_CONNECTIONS, (self.name, "used"), len(used)
            if pool.max_connections < _UNBOUNDED:
                yield catalogue.POOL_CONNECTIONS_MAX, (self.name,), pool.max_connections

    def _database(self) -> str:
        """Where the connections go, without credentials."""
        options = self.connection_kwargs
        place = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        return f"{place}/{options.get('db') or 0}"


def _options_of(pool_class: type[ConnectionPool]) -> set[str]:
    """The options that are the pool's own; whatever else is given goes to its connections."""
    named = {
        name
        for cls in pool_class.__mro__
        if issubclass(cls, ConnectionPool)
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    return named - {"self", "connection_class", "max_connections"}


def _without_maintenance() -> dict[str, Any]:
    """redis-py 7 and newer: notifications are handled by each loop's pool, not by the one that has no connections."""
    if "maint_notifications_config" not in _options_of(ConnectionPool):
        return {}
    from redis.maint_notifications import MaintNotificationsConfig

    return {"maint_notifications_config": MaintNotificationsConfig(enabled=False)}


async def _close(pool: ConnectionPool) -> None:
    loop = asyncio.get_running_loop()
    if is_ending(loop):
        # Other async generators are finishing at the same time: they must not be given what is being closed.
        idle = take_idle(pool)
        await asyncio.gather(*(connection.disconnect() for connection in idle))
        deadline = loop.time() + DRAIN
        while connections_of(pool)[1] and loop.time() < deadline:  # noqa: ASYNC110  # redis-py has no event for it
            await asyncio.sleep(0.01)
    await pool.aclose()
