"""`observe`: the figures of a pool that somebody else made. It measures, and never changes what the pool does."""

from __future__ import annotations

import asyncio
import weakref
from asyncio import AbstractEventLoop
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Any, TypeVar

from sqlalchemy import Engine, event, exc
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, Pool, QueuePool

from loopwatch.adapters.leaks import checked_threshold, meter_for
from loopwatch.adapters.loop_aware_pool import LoopAwarePool
from loopwatch.adapters.pool_meter import PoolLabels, database_label, pool_gauges
from loopwatch.per_loop import add_holder
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, Gauge

__all__ = ["observe"]

E = TypeVar("E", AsyncEngine, Engine)


def observe(engine: E, *, name: str | None = None, leak_threshold: float | None = None) -> E:
    """Measures an engine, asynchronous or not, that somebody else made; returns it.

    Its connections are counted by the loop that opened them: an engine shared by several loops shows as several
    ``loopwatch_engines``, and connections whose loop is closed as ``loopwatch_engines_orphaned``. An engine of
    `loopwatch.create_async_engine` is measured already.

    >>> from sqlalchemy import create_engine
    >>> engine = observe(create_engine("postgresql+psycopg://localhost/app"), name="main")

    Args:
        engine: an `AsyncEngine` or `Engine`.
        name: the label ``pool`` of its metrics; by default the name of the database.
        leak_threshold: `LoopAwarePool`'s.

    Raises:
        ConfigurationError: ``leak_threshold`` is not above 0.
    """
    threshold = checked_threshold(leak_threshold)
    sync_engine = _sync(engine)
    if not isinstance(sync_engine.pool, LoopAwarePool) and not _is_wrapped(sync_engine.pool):
        _Observer(sync_engine, name, threshold)  # the engine's listeners keep it
    return engine


def _sync(engine: AsyncEngine | Engine) -> Engine:
    return engine.sync_engine if isinstance(engine, AsyncEngine) else engine


def _is_wrapped(pool: Pool) -> bool:
    return "_do_get" in vars(pool)


class _Observer:
    """Wraps the three methods through which every connection passes, on the pool object itself.

    Listeners would not do: no event marks the start of a wait.
    """

    def __init__(self, engine: Engine, name: str | None, leak_threshold: float | None) -> None:
        url = engine.url
        self._labels = PoolLabels(
            name or url.database or "sqlalchemy", "sqlalchemy", database_label(url.host, url.port, url.database)
        )
        self._meter = meter_for(self._labels, leak_threshold)
        self._owners: dict[int, tuple[weakref.ref[ConnectionPoolEntry], AbstractEventLoop | None]] = {}
        self._pool = engine.pool
        self._wrap(engine.pool)
        event.listen(engine, "engine_disposed", self._follow)
        event.listen(engine, "invalidate", self._count_invalidation)
        STATS.add_source(self._gauges)
        add_holder(self._engines)

    def _follow(self, engine: Engine) -> None:
        """``dispose`` puts a new pool in the place of the old one."""
        self._pool = engine.pool
        self._wrap(engine.pool)

    def _wrap(self, pool: Any) -> None:
        if _is_wrapped(pool):  # some pools survive a dispose
            return
        get, give, connect, meter = pool._do_get, pool._do_return_conn, pool._invoke_creator, self._meter

        def measured_get() -> ConnectionPoolEntry:
            start = perf_counter()
            meter.waiting += 1
            try:
                record: ConnectionPoolEntry = get()
            except exc.TimeoutError:
                meter.timed_out(start)
                raise
            finally:
                meter.waiting -= 1
            meter.taken(record, start)
            return record

        def measured_give(record: ConnectionPoolEntry) -> None:
            meter.given_back(record)
            give(record)

        def measured_connect(record: ConnectionPoolEntry) -> Any:
            start = perf_counter()
            connection = connect(record)
            meter.created(start)
            self._own(record)
            return connection

        pool._do_get, pool._do_return_conn, pool._invoke_creator = measured_get, measured_give, measured_connect

    def _own(self, record: ConnectionPoolEntry) -> None:
        key, owners = id(record), self._owners
        owners[key] = weakref.ref(record, lambda _: owners.pop(key, None)), asyncio._get_running_loop()

    def _open(self) -> Iterator[tuple[ConnectionPoolEntry, AbstractEventLoop | None]]:
        for reference, loop in list(self._owners.values()):
            record = reference()
            if record is not None and record.dbapi_connection is not None:
                yield record, loop

    def _engines(self) -> Iterable[tuple[str, AbstractEventLoop]]:
        return [(self._labels.pool, loop) for loop in {loop for _, loop in self._open() if loop is not None}]

    def _count_invalidation(self, *_: object) -> None:
        STATS.count(catalogue.POOL_INVALIDATED, (self._labels.pool,))

    def _gauges(self) -> Iterable[Gauge]:
        opened = sum(1 for _ in self._open())
        return pool_gauges(self._labels, [self._meter], idle=opened - len(self._meter.held), limit=_limit(self._pool))


def _limit(pool: Pool) -> int | None:
    if isinstance(pool, QueuePool) and pool._max_overflow >= 0:
        return pool._pool.maxsize + pool._max_overflow
    return None
