"""`LoopPool`: the SQLAlchemy pool of one event loop, which `LoopAwarePool` makes.

A connection, its record and its fairy belong to this pool from the first to the last: so whatever SQLAlchemy does
with them (return, detach, invalidation, garbage collection) happens in the pool of their own loop. What is left to
do here is to measure, to end with the loop, and never to touch a connection from elsewhere: an asyncpg connection
that is used while its loop runs in another thread can crash the process.
"""

from __future__ import annotations

import asyncio
import weakref
from asyncio import AbstractEventLoop, _get_running_loop
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import exc
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import greenlet_spawn
from sqlalchemy.util.queue import Empty, Full

from loopwatch.adapters.drivers import driver_resource, driver_sockets
from loopwatch.adapters.guards import Owner, guard_connection
from loopwatch.adapters.leaks import meter_for
from loopwatch.sockets import SocketHandle, close_all
from loopwatch.stacks import calling_stack

if TYPE_CHECKING:
    from loopwatch.adapters.loop_aware_pool import LoopAwarePool

__all__ = ["LoopPool", "dispose_with_loop"]

DRAIN = 2.0
"""Seconds that the end of a loop waits for connections in use: an async generator of the user's may hold one."""


class LoopPool(AsyncAdaptedQueuePool):
    """The connections of one loop. Events, options and the time of the last invalidation are its owner's."""

    _sqla_logger_namespace = "sqlalchemy.pool.impl.AsyncAdaptedQueuePool"
    """Where ``echo_pool`` and ``logging.getLogger("sqlalchemy.pool")`` look for it."""

    def __init__(self, owner: LoopAwarePool, loop: AbstractEventLoop, *, closing: bool) -> None:
        self._owner = owner
        self.loop = loop
        self.closing = closing
        """From the moment the loop ends: connections are closed on return, or nobody would ever close them."""
        self.meter = meter_for(owner.labels, owner.leak_threshold)
        self._records: weakref.WeakSet[ConnectionPoolEntry] = weakref.WeakSet()
        super().__init__(
            owner._creator,
            pool_size=owner._pool.maxsize,
            max_overflow=owner._max_overflow,
            timeout=owner._timeout,
            use_lifo=owner._pool.use_lifo,
            recycle=owner._recycle,
            pre_ping=owner._pre_ping,
            echo=owner.echo,
            logging_name=owner._orig_logging_name,
            reset_on_return=owner._reset_on_return,  # the parsed form is accepted too
            dialect=owner._dialect,
        )
        # Shared, not copied: a copy would miss listeners that are added later, and would run the dialect's first
        # connect once a loop, each time for a dialect that others already use.
        self.__dict__["dispatch"] = owner.dispatch
        self._driver = str(getattr(self._dialect, "driver", ""))
        self._resource = driver_resource(self._driver)
        self._pool.qsize()  # makes the asyncio.Queue here, on its loop, before the reporter's thread asks for its size
        self._connect = self._invoke_creator
        self._invoke_creator = self._measured_connect  # type: ignore[assignment]  # its protocol is private

    @property
    def _invalidate_time(self) -> float:
        """One for all loops: when the server ended its sessions, those of every loop are stale."""
        return self._owner._invalidate_time

    @_invalidate_time.setter
    def _invalidate_time(self, value: float) -> None:
        if value:  # Pool.__init__ sets 0, which is not an invalidation.
            self._owner._invalidate_time = value

    def _measured_connect(self, record: ConnectionPoolEntry) -> Any:
        start = perf_counter()
        connection = self._connect(record)
        guard_connection(
            self._driver, connection, Owner(self.loop, self._resource, self._owner.made_at, calling_stack())
        )
        self.meter.created(start)
        self._records.add(record)
        return connection

    def _do_get(self) -> ConnectionPoolEntry:
        # What `QueuePool` does first, with fewer calls between: most checkouts find an idle connection.
        try:
            record = self._pool.get_nowait()
        except Empty:
            return self._connect_or_wait()
        self.meter.taken_at_once(record)
        return record

    def _connect_or_wait(self) -> ConnectionPoolEntry:
        start = perf_counter()
        meter = self.meter
        meter.waiting += 1
        try:
            record = super()._do_get()
        except exc.TimeoutError:
            meter.timed_out(start)
            raise
        finally:
            meter.waiting -= 1
        if record not in meter.held:  # else `QueuePool` has called itself, and that was counted
            meter.taken(record, start)
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        self.meter.given_back(record)
        if _get_running_loop() is not self.loop:
            # The garbage collector found a lost connection on another thread, or between two runs of the loop.
            self._on_own_loop(partial(self._return_later, record))
            return
        if not self.closing:
            try:
                self._pool.put_nowait(record)
            except Full:
                pass
            else:
                return
        try:
            record.close()
        finally:
            self._dec_overflow()

    def _return_later(self, record: ConnectionPoolEntry) -> None:
        _background(self.loop, greenlet_spawn(self._do_return_conn, record))

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        if _get_running_loop() is self.loop:
            super()._close_connection(connection, terminate=terminate)
        elif self.loop.is_closed():
            close_all(self._sockets_of(self._dialect.get_driver_connection(connection)))
        else:
            self._on_own_loop(partial(super()._close_connection, connection, terminate=True))

    def _on_own_loop(self, call: Callable[[], object]) -> None:
        # A loop that is closed, maybe just now by its own thread, has no queue to come back to; its sockets are the
        # sweep's.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call)

    def sockets(self) -> Iterator[SocketHandle]:
        """The sockets of all connections, idle or in use."""
        for record in list(self._records):
            yield from self._sockets_of(record.driver_connection)

    def _sockets_of(self, connection: object) -> Iterator[SocketHandle]:
        return driver_sockets(self._driver, connection)


_tasks: set[asyncio.Task[Any]] = set()


def _background(loop: AbstractEventLoop, coroutine: Any) -> None:
    """A task that is kept until it is done: the loop itself only refers to tasks weakly."""
    task = loop.create_task(coroutine)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def dispose_with_loop(pool: LoopPool) -> None:
    """Closes the pool's connections while its loop still runs.

    Raises:
        TimeoutError: some are still in use; their sockets are closed after the loop.
    """
    pool.closing = True
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DRAIN
    while pool.meter.held and loop.time() < deadline:  # noqa: ASYNC110  # any thread may give back the last one
        await asyncio.sleep(0.01)
    await greenlet_spawn(pool.dispose)
    if pool.meter.held:
        raise TimeoutError(f"{len(pool.meter.held)} connection(s) still in use {DRAIN:g} s after the loop began to end")
