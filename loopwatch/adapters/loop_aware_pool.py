"""`LoopAwarePool`: what ``engine.pool`` is. It holds the options, the listeners and one `LoopPool` for each live loop;
dialect and compiled-statement cache are the engine's and so shared by all loops."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection
from sqlalchemy.util import await_only

from loopwatch.adapters.budgeted import limit_gauge, note_loops
from loopwatch.adapters.guards import guard_connect_arguments
from loopwatch.adapters.leaks import checked_threshold
from loopwatch.adapters.loop_pool import LoopPool, dispose_with_loop
from loopwatch.adapters.pool_meter import PoolLabels, database_label, pool_gauges
from loopwatch.connection_budget import Budget
from loopwatch.errors import ConfigurationError
from loopwatch.per_loop import PerLoop, sweep
from loopwatch.sockets import neutralise
from loopwatch.stacks import caller
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, Gauge

__all__ = ["LoopAwarePool"]

_retired: weakref.WeakSet[LoopPool] = weakref.WeakSet()
"""Disposed of, and perhaps with connections in use."""
_graveyard: list[LoopPool] = []


class LoopAwarePool(AsyncAdaptedQueuePool):
    """An `AsyncAdaptedQueuePool` that keeps one pool for each event loop; every option means what it means there,
    for each loop.

    >>> from sqlalchemy.ext.asyncio import create_async_engine
    >>> engine = create_async_engine("postgresql+asyncpg://localhost/app", poolclass=LoopAwarePool)
    >>> engine.pool.size(), len(engine.pool.loops)
    (5, 0)

    Args:
        creator, pool_size, max_overflow, timeout, use_lifo, options: `QueuePool`'s.
        name: the label ``pool`` of its metrics; by default the name of the database.
        leak_threshold: seconds; a connection that is held longer is logged once, with the stack of its checkout and
            the task, and counted in ``loopwatch_pool_leaks_total``. ``None``: nobody looks, and no stack is taken.
        budget: the plan that the sizes come from (`loopwatch.Budget.pool_options` hands it over): more loops than it
            plans are warned of and counted in ``loopwatch_loops_unplanned_total``.

    Raises:
        ConfigurationError: ``leak_threshold`` is not above 0; ``pool_size`` is below 1 or ``max_overflow`` below -1.
    """

    _sqla_logger_namespace = "sqlalchemy.pool.impl.AsyncAdaptedQueuePool"

    # Not keyword-only: SQLAlchemy hands over only those of `create_engine`'s options that it finds in the signature,
    # and it does not look at keyword-only ones. The order of the first five is `QueuePool`'s.
    def __init__(
        self,
        creator: Callable[..., Any],
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float = 30.0,
        use_lifo: bool = False,
        name: str | None = None,
        leak_threshold: float | None = None,
        budget: Budget | None = None,
        **options: Any,
    ) -> None:
        _check_sizes(pool_size, max_overflow)
        super().__init__(creator, pool_size, max_overflow, timeout, use_lifo, **options)
        self._name = name
        self.made_at = caller()
        """``file:line`` of the user's code that made the engine, for the error that a conflict is."""
        self.budget = budget
        self.leak_threshold = checked_threshold(leak_threshold)
        self.labels = PoolLabels(name or "sqlalchemy", "sqlalchemy")
        self.loops: PerLoop[LoopPool] = PerLoop(
            self._make_pool, dispose=dispose_with_loop, name=self.labels.pool, sockets=LoopPool.sockets
        )
        # SQLAlchemy guards the dialect's first connect with a lock of the loop that came first.
        for listeners in (self.dispatch.connect, self.dispatch.first_connect):
            listeners.for_modify(self.dispatch)._exec_once_mutex = _FirstConnectMutex()  # type: ignore[attr-defined]
        event.listen(self, "invalidate", self._count_invalidation)
        if isinstance(self._dialect, Dialect):
            event.listen(self._dialect, "do_connect", self._before_connect)
        STATS.add_source(self._gauges)

    def describe(self, url: URL) -> None:
        """Tells the pool which database it goes to (no credentials are kept)."""
        self._set_database(url.host, url.port, url.database)

    def _before_connect(self, dialect: Dialect, _record: object, _args: object, parameters: dict[str, Any]) -> None:
        guard_connect_arguments(dialect.driver, parameters)
        if not self.labels.database:  # the pool is not told the URL; the parameters say the same
            database = parameters.get("database") or parameters.get("dbname") or parameters.get("db")
            self._set_database(parameters.get("host"), parameters.get("port"), database)

    def _set_database(self, host: object, port: object, database: object) -> None:
        self.labels.database = database_label(host, port, database)
        if self._name is None and database:
            self.labels.pool = self.loops.name = str(database)

    def _count_invalidation(self, *_: object) -> None:
        STATS.count(catalogue.POOL_INVALIDATED, (self.labels.pool,))

    def _make_pool(self) -> LoopPool:
        note_loops(self.budget, self.labels.pool, len(self.loops) + 1)
        return LoopPool(self, asyncio.get_running_loop(), closing=self.loops.ending())

    def connect(self) -> PoolProxiedConnection:
        """A connection of the running loop."""
        return self.loops.get().connect()

    def recreate(self) -> LoopAwarePool:
        """This pool itself, with nothing of before handed out again.

        ``Engine.dispose`` calls it, after `dispose` or (``close=False``) instead of it. The listeners, the registry
        of loops and the dialect's first connect must outlive it, so there is nothing to copy.
        """
        self._retire()
        self._invalidate_time = time.time()
        return self

    def dispose(self) -> None:
        """Closes this loop's idle connections now, and the other loops' when they are next asked for.

        Closing a connection from another loop would race with its owner. Works without a running loop too.
        """
        retired = self._retire()
        if retired is not None:
            retired.dispose()
        self._invalidate_time = time.time()
        sweep()

    def _retire(self) -> LoopPool | None:
        """Takes this loop's pool out: what is in use is closed on its return."""
        retired = self.loops.forget()
        if retired is not None:
            retired.closing = True
            _retired.add(retired)
        return retired

    def size(self) -> int:
        """``pool_size``, times the number of loops that have a pool."""
        return self._pool.maxsize * max(1, len(self.loops))

    def checkedin(self) -> int:
        """Idle connections, over all loops."""
        return sum(pool.checkedin() for pool in self.loops)

    def checkedout(self) -> int:
        """Connections in use, over all loops."""
        return sum(pool.checkedout() for pool in self.loops)

    def overflow(self) -> int:
        """Connections beyond ``pool_size`` (negative below it), over all loops."""
        pools = list(self.loops)
        return sum(pool.overflow() for pool in pools) if pools else -self._pool.maxsize

    def _gauges(self) -> Iterable[Gauge]:
        yield from limit_gauge(self.budget, self.labels.database)
        pools = list(self.loops)
        limit = None
        if self._max_overflow >= 0:
            limit = (self._pool.maxsize + self._max_overflow) * max(1, len(pools))
        yield from pool_gauges(
            self.labels, [pool.meter for pool in pools], idle=sum(pool.checkedin() for pool in pools), limit=limit
        )


def _check_sizes(pool_size: int, max_overflow: int) -> None:
    if pool_size < 1:
        raise ConfigurationError(
            f"pool_size is the number of connections that each loop keeps, at least 1, not {pool_size}: to keep none "
            "write `poolclass=NullPool`, to have no limit `max_overflow=-1`"
        )
    if max_overflow < -1:
        raise ConfigurationError(f"max_overflow is 0 or more, or -1 for no limit, not {max_overflow}")


class _FirstConnectMutex:
    """A lock for coroutines of many loops: a thread's lock, polled, so that waiting for it blocks no loop.

    SQLAlchemy's own is an `asyncio.Lock` of the first loop; the others would meet the very conflict that this package
    is about (4 threads x 15 engines: 36 of 60 first connects failed or hung).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __enter__(self) -> None:
        if self._pid != os.getpid():
            self.__init__()  # type: ignore[misc]  # held by a thread that the fork did not copy
        while not self._lock.acquire(blocking=False):
            await_only(asyncio.sleep(0.005))

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _after_fork_in_child() -> None:
    # As `PerLoop` does with those that it still knows.
    for pool in list(_retired):
        _graveyard.append(pool)
        neutralise(pool.sockets())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
