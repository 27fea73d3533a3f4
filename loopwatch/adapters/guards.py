"""The guard: a held connection may be used on its own loop only; another loop is refused before a byte is sent.

By the time asyncio raises of its own accord it is too late. asyncpg: a connection that is used while its loop runs in
another thread crashed the process in 15 of 150 trials. psycopg, aiomysql, asyncmy: with a statement of the owner's
under way the other loop hung in 12 of 12 trials, and the owner then got the "bound to a different event loop", as their
lock is an `asyncio.Lock`; aiosqlite: 5 of 12, and in the others the owner timed out. At rest psycopg and aiosqlite
would work on another loop, but nobody can know that.

What is guarded, whatever the driver, is SQLAlchemy's adapter of the connection with its cursors: whoever comes through
SQLAlchemy is refused before the adapter's own state changes, let alone a byte is sent (a refused ``commit`` must leave
the owner its transaction). Beneath it asyncpg's and psycopg's own connections (``driver_connection``) are guarded, too;
aiomysql's, asyncmy's and aiosqlite's are not, nor is a dialect whose adapter is not built on SQLAlchemy's, nor what
an ``async_creator`` has borrowed from an `asyncpg.Pool`.

The names with an underscore are private: `tests/integration/test_guard.py` holds them, driver by driver.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from asyncio import AbstractEventLoop, _get_running_loop
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.engine import AdaptedConnection

from loopwatch.adapters.foreign_loop import describe_loop, kind_of
from loopwatch.conflicts import count_once
from loopwatch.errors import LoopConflictError
from loopwatch.stacks import Stack

__all__ = ["Owner", "conflict_error", "guard_connect_arguments", "guard_connection"]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a connection is.

    Attributes:
        loop: the one that opened it.
        resource: what a conflict over it is reported as.
        engine_made_at: ``file:line``.
        opened: the stack that opened it.
    """

    loop: AbstractEventLoop
    resource: str
    engine_made_at: str
    opened: Stack

    def refuse_others(self) -> None:
        """Raises `LoopConflictError`, counted, when another loop than the owner's is running."""
        running = _get_running_loop()
        if running is None or running is self.loop:
            return
        error = conflict_error(self, running)
        count_once(error, source="guard")
        raise error


def conflict_error(owner: Owner, running: AbstractEventLoop) -> LoopConflictError:
    """The error of a connection that ``running`` was about to use; not counted yet."""
    places = f"at {owner.opened.innermost or 'an unknown place'}"
    if owner.engine_made_at:
        places += f"; its engine was made at {owner.engine_made_at}"
    return LoopConflictError(
        f"a connection that was opened on {describe_loop(owner.loop)} ({places}) was used on {describe_loop(running)}."
        " A connection, and a session that holds one, stays on the event loop on which it was first used: open another"
        " one where you need it (`async with engine.connect()`, or a session of its own); the engine may be shared, its"
        " connections not",
        resource=owner.resource,
        kind=kind_of(owner.loop),
        owner=describe_loop(owner.loop),
        user=describe_loop(running),
        made_at=owner.opened.text(),
    )


_owners: weakref.WeakKeyDictionary[Any, Owner] = weakref.WeakKeyDictionary()
"""By the driver's connection: neither that nor SQLAlchemy's adapter has room for it in all drivers and versions.

A connection of an engine that nobody refers to any more has no owner here: the collector takes weak references away
first, and only then is the engine disposed of, on its own loop (`loopwatch.per_loop`)."""


# ---------------------------------------------------------------- SQLAlchemy's adapter, for every driver


def _owner_of_adapter(adapter: Any) -> Owner | None:
    return _owners.get(adapter._connection)


def _owner_of_cursor(cursor: Any) -> Owner | None:
    adapter = getattr(cursor, "_adapt_connection", None)
    # psycopg's cursor knows no adapter before SQLAlchemy 2.1.
    return _owners.get(adapter._connection if adapter is not None else cursor._cursor.connection)


@functools.cache
def _guarded_adapter(base: Any) -> type[Any]:
    def cursor(self: Any, *args: Any, **options: Any) -> Any:
        made = base.cursor(self, *args, **options)
        kind: Any = type(made)
        made.__class__ = _guarded_cursor(kind)
        return made

    adapter = _guarded(base, ("commit", "rollback", "ping", "close", "terminate"), _owner_of_adapter)
    adapter.cursor = cursor
    return adapter


@functools.cache
def _guarded_cursor(base: Any) -> type[Any]:
    executing = ("execute", "executemany")
    if not getattr(base, "server_side", "_ss_" in base.__name__):  # it holds all its rows
        return _guarded(base, executing, _owner_of_cursor)

    def close(self: Any) -> None:
        # SQLAlchemy closes a cursor whose use was refused, on the loop that was refused; the server ends it with the
        # owner's transaction.
        owner = _owner_of_cursor(self)
        if owner is None or _get_running_loop() in (None, owner.loop):
            base.close(self)

    cursor = _guarded(base, (*executing, "fetchone", "fetchmany", "fetchall", "__iter__"), _owner_of_cursor)
    cursor.close = close
    return cursor


def _guarded(base: type[Any], names: Iterable[str], owner_of: Callable[[Any], Owner | None]) -> type[Any]:
    """A subclass, of the same layout, whose methods ``names`` (as far as there are such) refuse other loops."""

    def guard(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def guarded(self: Any, *args: Any, **options: Any) -> Any:
            owner = owner_of(self)
            if owner is not None:
                owner.refuse_others()
            return method(self, *args, **options)

        return guarded

    methods = {name: guard(getattr(base, name)) for name in names if hasattr(base, name)}
    return type(f"Guarded{base.__name__}", (base,), {"__slots__": (), "__module__": __name__, **methods})


# ---------------------------------------------------------------- a driver's own connection


@functools.cache
def _guarded_asyncpg(base: type[Any]) -> type[Any]:
    class GuardedConnection(base):  # type: ignore[misc]  # any subclass of asyncpg's
        """An asyncpg connection of one event loop."""

        __slots__ = ()

        def _refuse_others(self) -> None:
            owner = _owners.get(self)  # none yet while it connects
            if owner is not None:
                owner.refuse_others()

        def _check_open(self) -> None:
            self._refuse_others()
            super()._check_open()

        async def close(self, *, timeout: float | None = None) -> None:
            self._refuse_others()
            await super().close(timeout=timeout)

        def terminate(self) -> None:
            self._refuse_others()
            super().terminate()

        def __del__(self) -> None:
            # The collector runs on any thread, and asyncpg's own finaliser terminates: only on its own loop may it.
            running = _get_running_loop()
            if running is None or running is self._loop:
                super().__del__()

    GuardedConnection.__name__ = GuardedConnection.__qualname__ = f"Guarded{base.__name__}"
    return GuardedConnection


class _GuardedLock(asyncio.Lock):
    """psycopg's lock, which whatever uses the connection takes first."""

    def __init__(self, owner: Owner) -> None:
        super().__init__()
        self._owner = owner

    async def acquire(self) -> Literal[True]:
        self._owner.refuse_others()
        return await super().acquire()


def guard_connect_arguments(driver: str, parameters: dict[str, Any]) -> None:
    """Adds the guard to what the driver's ``connect`` is called with; a ``connection_class`` of the user's is kept as
    the base."""
    if driver == "asyncpg":
        import asyncpg

        parameters["connection_class"] = _guarded_asyncpg(parameters.get("connection_class", asyncpg.Connection))


def guard_connection(driver: str, connection: Any, owner: Owner) -> None:
    """Guards SQLAlchemy's adapter of a connection, and psycopg's own beneath it."""
    if isinstance(connection, AdaptedConnection):
        try:
            _owners[connection._connection] = owner
        except TypeError:  # one that takes no weak reference, as that of an `asyncpg.Pool`: it works, unguarded
            return
        kind: Any = type(connection)
        connection.__class__ = _guarded_adapter(kind)
        if driver.startswith("psycopg"):
            connection._connection.lock = _GuardedLock(owner)
