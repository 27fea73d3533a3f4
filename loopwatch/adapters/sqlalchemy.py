"""SQLAlchemy: one global engine whose pool is per event loop. `create_async_engine`, and the names beside it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from loopwatch.adapters.loop_aware_pool import LoopAwarePool
from loopwatch.adapters.observed_pool import observe
from loopwatch.connection_budget import Budget
from loopwatch.errors import ConfigurationError

__all__ = ["LoopAwarePool", "create_async_engine", "observe"]

_ASYNCHRONOUS = {
    "postgresql": "postgresql+asyncpg",
    "mysql": "mysql+asyncmy",
    "mariadb": "mariadb+asyncmy",
    "sqlite": "sqlite+aiosqlite",
    "oracle": "oracle+oracledb_async",
    "mssql": "mssql+aioodbc",
}
"""What to write instead of a blocking driver."""


class _BlockingDriverError(ConfigurationError, InvalidRequestError):
    """A blocking driver for an asynchronous engine; SQLAlchemy's own error for that, too."""


class _MissingDriverError(ModuleNotFoundError, ConfigurationError):
    """The driver that a URL names, or means, is not installed; what Python raises for that, too."""


def create_async_engine(
    url: str | URL,
    *,
    name: str | None = None,
    leak_threshold: float | None = None,
    budget: Budget | None = None,
    **options: Any,
) -> AsyncEngine:
    """`sqlalchemy.ext.asyncio.create_async_engine`, right on every event loop, in every thread and after every fork.

    >>> engine = create_async_engine("postgresql+asyncpg://localhost/app", pool_size=5)
    >>> engine.pool.labels.pool
    'app'

    The result is a genuine `AsyncEngine`. A dialect that does not pool in a queue (SQLite in memory) and an explicit
    other ``poolclass`` keep their pool, which is then only measured.

    Args:
        url: as there; the driver must be an asynchronous one.
        name: the label ``pool`` of its metrics; by default the name of the database.
        leak_threshold: seconds; a connection that is held longer is logged once, with the stack of its checkout and
            the task, and counted in ``loopwatch_pool_leaks_total``. By default nobody looks.
        budget: the plan that the pool's sizes come from; `loopwatch.Budget.pool_options` hands it over. A pool that
            is not ours has no use for it.
        options: as there.

    Raises:
        ConfigurationError: an option of the pool cannot work; or the URL's driver is not asynchronous, which is an
            `sqlalchemy.exc.InvalidRequestError`, too; or that driver is not installed, which is a
            `ModuleNotFoundError`, too.
        sqlalchemy.exc.ArgumentError: the URL cannot be parsed.
    """
    parsed = make_url(url)
    # One name may stand for two dialects: that of `postgresql+psycopg` has an asynchronous sibling.
    dialect: Any = parsed.get_dialect().get_async_dialect_cls(parsed)
    if not dialect.is_async:
        raise _BlockingDriverError(_name_the_asynchronous_driver(parsed))
    poolclass = options.get("poolclass") or dialect.get_pool_class(parsed)
    if "pool" not in options and issubclass(poolclass, AsyncAdaptedQueuePool):
        if not issubclass(poolclass, LoopAwarePool):
            options["poolclass"] = LoopAwarePool
        options |= {"name": name, "leak_threshold": leak_threshold, "budget": budget}
    # Looked up at the call: OpenTelemetry's instrumentation replaces it there.
    try:
        engine = sqlalchemy_asyncio.create_async_engine(parsed, **options)
    except ModuleNotFoundError as error:
        if error.name != dialect.driver:  # something that an installed driver misses, say
            raise
        raise _MissingDriverError(_name_the_missing_driver(parsed, dialect.driver), name=error.name) from error
    if isinstance(engine.pool, LoopAwarePool):
        engine.pool.describe(parsed)
    else:
        observe(engine, name=name, leak_threshold=leak_threshold)
    return engine


def _name_the_asynchronous_driver(url: URL) -> str:
    backend = url.get_backend_name()
    instead = f"write {_ASYNCHRONOUS[backend]}://..." if backend in _ASYNCHRONOUS else "name an asynchronous one"
    return f"the asyncio extension requires an async driver, and that of {url.drivername}:// blocks: {instead}"


def _name_the_missing_driver(url: URL, driver: str) -> str:
    backend = url.get_backend_name()
    instead = ""
    if "+" not in url.drivername and backend in _ASYNCHRONOUS:  # nobody has chosen it
        instead = f", or name the one that you have, such as {_ASYNCHRONOUS[backend]}://..."
    return f"{url.drivername}:// means the driver {driver}, which is not installed: pip install {driver}{instead}"
