"""The options of a Redis pool: which are whose, and which cannot work, told when the pool is made."""

from __future__ import annotations

import inspect
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

from loopwatch.errors import ConfigurationError

__all__ = ["check_classes", "check_options", "options_of", "without_maintenance"]


def check_classes(connection_class: object, pool_class: object, max_connections: object) -> None:
    """Refuses classes that are not of ``redis.asyncio``, such as those of the synchronous client, and a useless limit.

    Raises:
        ConfigurationError: with what to give instead.
    """
    for option, given, base in (
        ("pool_class", pool_class, ConnectionPool),
        ("connection_class", connection_class, AbstractConnection),
    ):
        if not (isinstance(given, type) and issubclass(given, base)):
            raise ConfigurationError(f"{option} must be a class of redis.asyncio, not {given!r}, which is none of them")
    if max_connections is not None and not (isinstance(max_connections, int) and max_connections > 0):
        raise ConfigurationError(
            f"max_connections must be at least 1, for each loop, and not {max_connections!r}; leave it out for "
            "redis-py's default"
        )


def check_options(connection_class: Any, options: dict[str, Any]) -> None:
    """Makes a connection, which opens nothing: an option that is not known shows now and not in the first task."""
    if not connection_class.__module__.startswith("redis.asyncio.connection"):
        return  # one of the user's may need a running loop, and Sentinel's a pool
    try:
        connection_class(**options)
    except TypeError as error:
        raise ConfigurationError(f"redis-py's {connection_class.__name__} refuses an option: {error}") from None


def options_of(pool_class: type[ConnectionPool]) -> set[str]:
    """The options that are the pool's own; whatever else is given goes to its connections."""
    named = {
        name
        for cls in pool_class.__mro__
        if issubclass(cls, ConnectionPool)
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    return named - {"self", "connection_class", "max_connections"}


def without_maintenance() -> dict[str, Any]:
    """redis-py 7 and newer: notifications are handled by each loop's pool, not by the one that has no connections."""
    if "maint_notifications_config" not in options_of(ConnectionPool):
        return {}
    from redis.maint_notifications import MaintNotificationsConfig

    return {"maint_notifications_config": MaintNotificationsConfig(enabled=False)}
