"""`observe`: the figures of a pool that somebody else made. It measures; what the pool does it changes only if told to.

The pool may be used by many threads, and its meter is made for one: here a lock stands around it.
"""

from __future__ import annotations

import threading
import weakref
from asyncio import AbstractEventLoop, _get_running_loop
from collections import deque
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, TypeVar, get_args

from sqlalchemy import Engine, ExceptionContext, event, exc
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, Pool, QueuePool

from loopwatch.adapters.guards import Owner, conflict_error
from loopwatch.adapters.leaks import checked_threshold, meter_for
from loopwatch.adapters.loop_aware_pool import LoopAwarePool
from loopwatch.adapters.pool_meter import PoolLabels, database_label, pool_gauges
from loopwatch.conflicts import count_once, mark_counted
from loopwatch.errors import ConfigurationError, LoopConflictError
from loopwatch.per_loop import add_holder
from loopwatch.stacks import caller, calling_stack
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import NO_TASK, STATS, Gauge, TaskContext, current_task

__all__ = ["observe"]

E = TypeVar("E", AsyncEngine, Engine)
Guard = Literal["count", "raise"]

_asked: ContextVar[Pool | None] = ContextVar("loopwatch_asked_pool", default=None)
"""The pool that is being asked for a connection in this thread or asyncio task."""

REMEMBERED_TASKS = 64
"""Running tasks whose conflict was counted: more do not run in one process at a time."""


def observe(engine: E, *, name: str | None = None, leak_threshold: float | None = None, guard: Guard = "count") -> E:
    """Measures an engine, asynchronous or not, that somebody else made; returns it.

    >>> import sqlalchemy
    >>> engine = observe(sqlalchemy.create_engine("sqlite://"), name="reports")
    >>> with engine.connect() as connection:
    ...     connection.execute(sqlalchemy.text("SELECT 1")).scalar_one()
    1

    Its connections are counted by the loop that opened them: an engine shared by several loops shows as several
    ``loopwatch_engines``, and connections whose loop is closed as ``loopwatch_engines_orphaned``. An engine of
    `loopwatch.create_async_engine` is measured and guarded already.

    Args:
        engine: an `AsyncEngine` or `Engine`.
        name: the label ``pool`` of its metrics; by default the name of the database.
        leak_threshold: `LoopAwarePool`'s.
        guard: what becomes of an asynchronous connection that the pool hands out on another loop than its own.
            ``"count"``: it is counted as a loop conflict (once a task, as a task that fails of it is one conflict; the
            error that follows is not counted again), and nothing else changes. ``"raise"``: `LoopConflictError` is
            raised before the connection is touched, which stays in the pool for its own loop.

    Raises:
        ConfigurationError: ``leak_threshold`` is not above 0; ``guard`` is neither.
        TypeError: ``engine`` is no engine.
    """
    if not isinstance(engine, (AsyncEngine, Engine)):
        raise TypeError(f"observe() takes an Engine or an AsyncEngine, not {type(engine).__name__!r}")
    if guard not in get_args(Guard):
        raise ConfigurationError(f'guard is "count" or "raise", not {guard!r}')
    threshold = checked_threshold(leak_threshold)
    sync_engine = _sync(engine)
    if not isinstance(sync_engine.pool, LoopAwarePool) and not _is_wrapped(sync_engine.pool):
        _Observer(sync_engine, name, threshold, guard)  # the engine's listeners keep it
    return engine


def _sync(engine: AsyncEngine | Engine) -> Engine:
    return engine.sync_engine if isinstance(engine, AsyncEngine) else engine


def _is_wrapped(pool: Pool) -> bool:
    return "_do_get" in vars(pool)


class _Observer:
    """Wraps the three methods through which every connection passes, on the pool object itself.

    Listeners would not do: no event marks the start of a wait.
    """

    def __init__(self, engine: Engine, name: str | None, leak_threshold: float | None, guard: Guard) -> None:
        url = engine.url
        self._labels = PoolLabels(
            name or url.database or "sqlalchemy", "sqlalchemy", database_label(url.host, url.port, url.database)
        )
        self._meter = meter_for(self._labels, leak_threshold)
        # Reentrant: the garbage collector may give a lost connection back while it is held.
        self._lock = threading.RLock()
        self._raises = guard == "raise"
        # A blocking driver's connection belongs to no loop, whichever ran when it was opened.
        self._is_async = engine.dialect.is_async
        self._made_at = caller()
        self._records: dict[int, _Opened] = {}
        self._counted: deque[TaskContext] = deque(maxlen=REMEMBERED_TASKS)
        self._pool = engine.pool
        self._wrap(engine.pool)
        event.listen(engine, "engine_disposed", self._follow)
        event.listen(engine, "invalidate", self._invalidated)
        if self._is_async:
            event.listen(engine, "handle_error", self._failed)
        STATS.add_source(self._gauges)
        add_holder(self._engines)

    def _follow(self, engine: Engine) -> None:
        """``dispose`` puts a new pool in the place of the old one."""
        self._pool = engine.pool
        self._wrap(engine.pool)

    def _wrap(self, pool: Any) -> None:
        if _is_wrapped(pool):  # some pools survive a dispose
            return
        get, give, connect, meter, lock = (
            pool._do_get,
            pool._do_return_conn,
            pool._invoke_creator,
            self._meter,
            self._lock,
        )

        def measured_get() -> ConnectionPoolEntry:
            if _asked.get() is pool:  # `QueuePool` calls itself where another thread was quicker: one wait
                return get()  # type: ignore[no-any-return]
            token = _asked.set(pool)
            start = perf_counter()
            with lock:
                meter.waiting += 1
            try:
                record: ConnectionPoolEntry = get()
            except exc.TimeoutError:
                with lock:
                    meter.timed_out(start)
                raise
            finally:
                _asked.reset(token)
                with lock:
                    meter.waiting -= 1
            try:
                self._compare_loops(record)
            except LoopConflictError:
                give(record)
                raise
            with lock:
                meter.taken(record, start)
            return record

        def measured_give(record: ConnectionPoolEntry) -> None:
            with lock:
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
        loop, key, records = _get_running_loop(), id(record), self._records
        owner = Owner(loop, "sqlalchemy", self._made_at, calling_stack()) if loop is not None else None
        records[key] = _Opened(weakref.ref(record, lambda _: records.pop(key, None)), owner)

    # ------------------------------------------------------------ conflicts

    def _compare_loops(self, record: ConnectionPoolEntry) -> None:
        """Counts, or raises, when the pool hands out what another loop has opened."""
        opened, running = self._records.get(id(record)), _get_running_loop()
        if opened is None or opened.owner is None or record.dbapi_connection is None or not self._is_async:
            return
        opened.handed_over = running is not None and running is not opened.owner.loop
        if not opened.handed_over:
            return
        if not self._raises and self._is_counted(current_task.get()):
            return  # before the error is made, which reads the source of a stack
        assert running is not None
        error = conflict_error(opened.owner, running)
        count_once(error, source="guard")
        if self._raises:
            raise error

    def _is_counted(self, task: TaskContext) -> bool:
        """Whether a conflict of this task was counted before; from now on it is. Outside tasks each one counts."""
        if task is NO_TASK:
            return False
        with self._lock:
            known = any(task is one for one in self._counted)
            if not known:
                self._counted.append(task)
        return known

    def _failed(self, context: ExceptionContext) -> None:
        """What a statement on such a connection raised is the conflict that was counted."""
        if context.connection is not None and not context.connection.closed:
            record = getattr(context.connection._dbapi_connection, "_connection_record", None)
            self._mark(record, context.original_exception)

    def _invalidated(self, _: object, record: object, error: BaseException | None) -> None:
        STATS.count(catalogue.POOL_INVALIDATED, (self._labels.pool,))
        self._mark(record, error)  # such as what a pre-ping raised, which no statement did

    def _mark(self, record: object, error: BaseException | None) -> None:
        opened = self._records.get(id(record))
        if opened is not None and opened.handed_over and error is not None:
            mark_counted(error)

    # ------------------------------------------------------------ gauges

    def _open(self) -> Iterator[tuple[ConnectionPoolEntry, AbstractEventLoop | None]]:
        for opened in list(self._records.values()):
            record = opened.record()
            if record is not None and record.dbapi_connection is not None:
                yield record, opened.owner.loop if opened.owner is not None else None

    def _engines(self) -> Iterable[tuple[str, AbstractEventLoop]]:
        return [(self._labels.pool, loop) for loop in {loop for _, loop in self._open() if loop is not None}]

    def _gauges(self) -> Iterable[Gauge]:
        opened = sum(1 for _ in self._open())
        return pool_gauges(self._labels, [self._meter], idle=opened - len(self._meter.held), limit=_limit(self._pool))


@dataclass(slots=True)
class _Opened:
    """Of one connection: whose it is (nobody's where no loop ran), and whether another loop was handed it last."""

    record: weakref.ref[ConnectionPoolEntry]
    owner: Owner | None
    handed_over: bool = False


def _limit(pool: Pool) -> int | None:
    if isinstance(pool, QueuePool) and pool._max_overflow >= 0:
        return pool._pool.maxsize + pool._max_overflow
    return None
