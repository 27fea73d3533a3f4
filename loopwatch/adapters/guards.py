"""The guard: a held connection may be used on its own loop only; another loop is refused before a byte is sent.

By the time asyncio raises of its own accord it is too late: an asyncpg connection that is used while its loop runs in
another thread crashed the process in 15 of 150 trials.

On asyncpg two places cover every way in. asyncpg's public ``connection_class`` takes a subclass that compares loops
where a statement is prepared, a transaction begins or ends, and where the connection is closed; and SQLAlchemy's
per-connection mutex is replaced by one that compares loops first, as executing a cached statement skips the former.
The names with an underscore are private: `tests/integration/test_guard.py` holds them, version by version.

psycopg's connections work on another loop and need no guard; the drivers for MySQL and SQLite have none yet.
"""

from __future__ import annotations

import asyncio
import functools
from asyncio import AbstractEventLoop, _get_running_loop
from typing import Any, Literal

from loopwatch.conflicts import count_once
from loopwatch.errors import LoopConflictError

__all__ = ["guard_connect_arguments", "guard_connection"]


def _refuse_foreign_loop(owner: AbstractEventLoop, made_at: str) -> None:
    """Raises `LoopConflictError`, counted, when another loop than ``owner`` is running. ``made_at``: the engine."""
    running = _get_running_loop()
    if running is None or running is owner:
        return
    error = LoopConflictError(
        f"a connection that was opened on {_describe(owner)} was used on {_describe(running)}"
        f"{f' (its engine was made at {made_at})' if made_at else ''}. A connection, and a session"
        " that holds one, stays on the event loop on which it was first used: open another one where you need "
        "it (`async with engine.connect()`, or a session of its own); the engine may be shared, its connections not",
        resource="asyncpg",
        kind="closed_loop" if owner.is_closed() else "cross_loop",
        owner=_describe(owner),
        user=_describe(running),
    )
    count_once(error, source="guard")
    raise error


def _describe(loop: AbstractEventLoop) -> str:
    state = "closed" if loop.is_closed() else "running" if loop.is_running() else "idle"
    return f"loop {id(loop):#x} ({type(loop).__module__.partition('.')[0]}, {state})"


class _GuardedMutex(asyncio.Lock):
    """SQLAlchemy's `_execute_mutex` of one connection."""

    def __init__(self, owner: AbstractEventLoop, made_at: str) -> None:
        super().__init__()
        self._owner = owner
        self._made_at = made_at

    async def acquire(self) -> Literal[True]:
        _refuse_foreign_loop(self._owner, self._made_at)
        return await super().acquire()


@functools.cache
def _guarded_class(base: type[Any], made_at: str) -> type[Any]:
    class GuardedConnection(base):  # type: ignore[misc]  # asyncpg ships no types
        """An asyncpg connection of one event loop."""

        __slots__ = ()

        def _check_open(self) -> None:
            _refuse_foreign_loop(self._loop, made_at)
            super()._check_open()

        async def close(self, *, timeout: float | None = None) -> None:
            _refuse_foreign_loop(self._loop, made_at)
            await super().close(timeout=timeout)

        def terminate(self) -> None:
            _refuse_foreign_loop(self._loop, made_at)
            super().terminate()

        def __del__(self) -> None:
            # The collector runs on any thread, and asyncpg's own finaliser terminates: only on its own loop may it.
            running = _get_running_loop()
            if running is None or running is self._loop:
                super().__del__()

    GuardedConnection.__name__ = GuardedConnection.__qualname__ = f"Guarded{base.__name__}"
    return GuardedConnection


def guard_connect_arguments(driver: str, parameters: dict[str, Any], made_at: str) -> None:
    """Adds the guard to what the driver's ``connect`` is called with; a ``connection_class`` of the user's is kept as
    the base."""
    if driver == "asyncpg":
        import asyncpg

        parameters["connection_class"] = _guarded_class(parameters.get("connection_class", asyncpg.Connection), made_at)


def guard_connection(driver: str, connection: Any, owner: AbstractEventLoop, made_at: str) -> None:
    """Guards SQLAlchemy's adapter of a connection."""
    if driver == "asyncpg" and hasattr(connection, "_execute_mutex"):
        connection._execute_mutex = _GuardedMutex(owner, made_at)
