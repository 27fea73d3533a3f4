"""redis-py's Sentinel: a client of a master or its replicas whose connection pool is per event loop.

Two things of a Sentinel client are bound to a loop: its connections to the master, and those to the sentinels, which
are asked for the master's address. `RedisSentinelPool` makes both per loop.
"""

from __future__ import annotations

import copy
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from loopwatch.adapters.redis import RedisConnectionPool
from loopwatch.errors import ConfigurationError

__all__ = ["RedisSentinelPool"]


class RedisSentinelPool(RedisConnectionPool, SentinelConnectionPool):
    """The ``connection_pool_class=`` of `redis.asyncio.sentinel.Sentinel`, right on every event loop.

    >>> sentinel = Sentinel([("localhost", 26379)], socket_timeout=0.5)
    >>> master = sentinel.master_for("mymaster", connection_pool_class=RedisSentinelPool, db=3)
    >>> replica = sentinel.slave_for("mymaster", connection_pool_class=RedisSentinelPool)
    >>> master.connection_pool
    <RedisSentinelPool 'mymaster' mymaster/3 loops=0>
    >>> replica.connection_pool.name
    'mymaster/replica'

    The clients are genuine ones and stay in a global. The ``Sentinel`` itself is left as it was: what is asked of it
    directly (``sentinel.discover_master(...)``) goes over connections of its own, which belong to one loop.

    Args:
        service_name, sentinel_manager: given by ``master_for`` and ``slave_for``.
        is_master, check_connection, ssl: as in `redis.asyncio.sentinel.SentinelConnectionPool`.
        connection_class: as there.
        name: the label ``pool`` of its metrics; by default the service's name, with ``/replica`` for ``slave_for``. The
            connections to the sentinels are the pool ``sentinel``.
        options: `RedisConnectionPool`'s.

    Raises:
        ConfigurationError: as there.
    """

    def __init__(
        self,
        service_name: str,
        sentinel_manager: Sentinel,
        *,
        is_master: bool = True,
        check_connection: bool = False,
        ssl: bool = False,
        connection_class: type[AbstractConnection] | None = None,
        pool_class: type[ConnectionPool] = SentinelConnectionPool,
        **options: Any,
    ) -> None:
        if not issubclass(pool_class, SentinelConnectionPool):
            raise ConfigurationError(
                f"pool_class must be a SentinelConnectionPool of redis.asyncio, not {pool_class!r}"
            )
        # What the base class's own methods read, such as `get_master_address`.
        self.service_name = service_name
        self.is_master = is_master
        self.check_connection = check_connection
        self.sentinel_manager = _on_every_loop(sentinel_manager)
        self.master_address = None
        self.slave_rr_counter = None
        super().__init__(
            connection_class or (SentinelManagedSSLConnection if ssl else SentinelManagedConnection),
            pool_class=pool_class,
            **options,
        )

    def _options_of_a_pool(self) -> dict[str, Any]:
        # A copy a loop: it moves the sentinel that answered to the front of its list.
        return super()._options_of_a_pool() | {
            "service_name": self.service_name,
            "sentinel_manager": _copy(self.sentinel_manager),
            "is_master": self.is_master,
            "check_connection": self.check_connection,
        }

    def _default_name(self) -> str:
        return self.service_name if self.is_master else f"{self.service_name}/replica"

    def _database(self) -> str:
        return f"{self.service_name}/{self.connection_kwargs.get('db') or 0}"

    def reset(self) -> None:
        super().reset()
        self.master_address = self.slave_rr_counter = None


def _copy(manager: Sentinel) -> Sentinel:
    copied = copy.copy(manager)
    copied.sentinels = list(manager.sentinels)
    return copied


def _on_every_loop(manager: Sentinel) -> Sentinel:
    """A manager like this one, whose clients of the sentinels are right on every loop."""
    copied = _copy(manager)
    copied.sentinels = [_client_on_every_loop(client) for client in manager.sentinels]
    return copied


def _client_on_every_loop(client: Redis) -> Redis:
    pool = client.connection_pool
    if isinstance(pool, RedisConnectionPool):
        return client
    options = dict(pool.connection_kwargs)
    options.pop("maint_notifications_pool_handler", None)  # that pool's own
    return Redis(
        connection_pool=RedisConnectionPool(pool.connection_class, pool.max_connections, name="sentinel", **options)
    )
