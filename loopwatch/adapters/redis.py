"""redis-py: one global client whose connection pool is per event loop.

`RedisConnectionPool` is redis-py's pool in every respect but one: it has no connections. It passes each call that
needs some to the running loop's own pool, which is made on first use and closed with its loop.

A cluster's client has no pool that could be exchanged; there each loop has a client of its own, in a `PerLoop`:

>>> from loopwatch import PerLoop
>>> from redis.asyncio import RedisCluster
>>> cluster = PerLoop(lambda: RedisCluster.from_url("redis://localhost"), dispose=RedisCluster.aclose, name="cluster")
>>> async def remember(key, value):
...     await (await cluster.aget()).set(key, value)  # `aget`: such a client is awaitable
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import perf_counter
from typing import Any

from redis.asyncio import Connection, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.exceptions import ConnectionError as RedisConnectionError

from loopwatch.adapters.leaks import checked_threshold, meter_for
from loopwatch.adapters.pool_meter import PoolLabels, database_label, pool_gauges
from loopwatch.adapters.redis_connection import (
    connections_of,
    guarded,
    lender_of,
    lent_by,
    meter_of,
    redis_sockets,
    refuse_elsewhere,
    set_up,
    take_idle,
)
from loopwatch.adapters.redis_options import check_classes, check_options, options_of, without_maintenance
from loopwatch.errors import ConfigurationError
from loopwatch.per_loop import PerLoop, is_ending
from loopwatch.telemetry.stats import STATS, Gauge

__all__ = ["RedisConnectionPool", "redis_from_url"]

DRAIN = 0.5
"""Seconds that the end of a loop waits for connections in use: another async generator may be finishing with one."""
_UNBOUNDED = 2**31  # redis-py's default before 8
_REFUSALS = ("Too many connections", "No connection available.")
"""How redis-py's two kinds of pool say, from 5.0 to 8.1, that there is no connection to be had."""


def redis_from_url(url: str, *, name: str | None = None, leak_threshold: float | None = None, **options: Any) -> Redis:
    """`redis.asyncio.Redis.from_url`, right on every event loop, in every thread and after every fork.

    >>> client = redis_from_url("redis://localhost/3", decode_responses=True, max_connections=20)
    >>> type(client).__name__, client.connection_pool.name
    ('Redis', 'redis/3')

    The result is a genuine `redis.asyncio.Redis`; its ``aclose()`` closes the running loop's connections.

    Args:
        url: as there (``redis://``, ``rediss://``, ``unix://``).
        name: the label ``pool`` of its metrics; by default ``redis/`` and the number of the database.
        leak_threshold: `RedisConnectionPool`'s.
        options: as there; ``pool_class=`` chooses the kind of pool that a loop has.

    Raises:
        ValueError: the URL cannot be parsed.
        ConfigurationError: an option that redis-py does not know, or that ties the client to one loop.
    """
    if options.pop("single_connection_client", False):
        raise ConfigurationError(
            "single_connection_client=True ties a client to one event loop: leave it out, or call .client() on the "
            "loop that needs one connection of its own"
        )
    pool = RedisConnectionPool.from_url(url, name=name, leak_threshold=leak_threshold, **options)
    client = Redis(connection_pool=pool)
    # As Redis.from_url does: the pool is this client's own.
    client.auto_close_connection_pool = True
    return client


class RedisConnectionPool(ConnectionPool):
    """A `redis.asyncio.ConnectionPool` for any client class, with one pool of connections for each event loop.

    >>> pool = RedisConnectionPool.from_url("redis://localhost/1", max_connections=10, name="cache")
    >>> Redis(connection_pool=pool).connection_pool
    <RedisConnectionPool 'cache' localhost:6379/1 loops=0>

    Args:
        connection_class: as there.
        max_connections: as there, for each loop.
        name: the label ``pool`` of its metrics; by default ``redis/`` and the number of the database.
        leak_threshold: seconds; a connection that is held longer is logged once, with the stack of where it was taken
            and the task, and counted in ``loopwatch_pool_leaks_total``. A ``pubsub()`` holds its connection on
            purpose and is a leak only when it is lost without ``aclose()``; a ``client()`` and a blocking command
            count like any other. ``None``: nobody looks.
        pool_class: the kind of pool that a loop has, such as `redis.asyncio.BlockingConnectionPool`.
        options: the options of ``pool_class``, and as there those of the connections.

    Raises:
        ConfigurationError: a class that is not of ``redis.asyncio``, or an option that cannot work.
    """

    def __init__(
        self,
        connection_class: type[AbstractConnection] = Connection,
        max_connections: int | None = None,
        *,
        name: str | None = None,
        leak_threshold: float | None = None,
        pool_class: type[ConnectionPool] = ConnectionPool,
        **options: Any,
    ) -> None:
        check_classes(connection_class, pool_class, max_connections)
        if issubclass(pool_class, RedisConnectionPool):
            raise ConfigurationError("pool_class is the kind of pool that each loop has: one of redis.asyncio's")
        names = options_of(pool_class)
        self._pool_class = pool_class
        self._pool_options = {key: options.pop(key) for key in names & options.keys()}
        if max_connections is not None:
            self._pool_options["max_connections"] = max_connections
        # By its name: between the two there may be another base class, whose arguments are others.
        ConnectionPool.__init__(self, connection_class, max_connections, **without_maintenance(), **options)
        check_options(connection_class, self.connection_kwargs)
        self.leak_threshold = checked_threshold(leak_threshold)
        self.labels = PoolLabels(name or self._default_name(), "redis", self._database())
        self._pools: PerLoop[Any] = PerLoop(self._make_pool, dispose=_close, name=self.name, sockets=redis_sockets)
        STATS.add_source(self._gauges)

    @property
    def name(self) -> str:
        """The label ``pool`` of its metrics."""
        return self.labels.pool

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.labels.database} loops={len(self._pools)}>"

    def _make_pool(self) -> ConnectionPool:
        options = self.connection_kwargs
        bound = guarded(self.connection_class)  # type: ignore[arg-type]  # a class is hashable
        pool = self._pool_class(connection_class=bound, **self._options_of_a_pool(), **options)
        set_up(pool, options, meter_for(self.labels, self.leak_threshold))
        return pool

    def _options_of_a_pool(self) -> dict[str, Any]:
        return self._pool_options

    def _peek(self) -> Any:
        return self._pools.peek() if asyncio._get_running_loop() is not None else None

    # ------------------------------------------------------------ passed on to the running loop's pool
    async def get_connection(self, *args: Any, **options: Any) -> AbstractConnection:
        start = perf_counter()
        pool = self._pools.get()
        meter = meter_of(pool)
        meter.waiting += 1
        try:
            connection = await pool.get_connection(*args, **options)
        except RedisConnectionError as error:
            if str(error) in _REFUSALS:
                meter.timed_out(start)
            raise
        finally:
            meter.waiting -= 1
        meter.taken(connection, start)
        return lent_by(pool, connection)

    def get_available_connection(self) -> AbstractConnection:
        start = perf_counter()
        pool = self._pools.get()
        connection = pool.get_available_connection()
        meter_of(pool).taken(connection, start)
        return lent_by(pool, connection)

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
        meter_of(pool).given_back(connection)
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
            meter_of(pool).forget()

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
        pools = list(self._pools)
        idle = sum(connection.is_connected for pool in pools for connection in connections_of(pool)[0])
        limit = sum(pool.max_connections for pool in pools) if pools else self.max_connections
        return pool_gauges(
            self.labels,
            [meter_of(pool) for pool in pools],
            idle=idle,
            limit=limit if limit < _UNBOUNDED else None,
        )

    def _default_name(self) -> str:
        return f"redis/{self.connection_kwargs.get('db') or 0}"

    def _database(self) -> str:
        """Where the connections go, without credentials."""
        options = self.connection_kwargs
        database = str(options.get("db") or 0)
        if options.get("path"):
            return database_label(options["path"], None, database)
        return database_label(options.get("host", "localhost"), options.get("port", 6379), database)


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
