"""How a value ends on its loop: what a loop begins and finishes for `loopwatch.per_loop.PerLoop`, bounded in time."""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeVar

from loopwatch.redact import redact

__all__ = ["dispose_of", "is_ending", "lasting", "lastingly", "note_ending", "retrieve", "start"]

logger = logging.getLogger("loopwatch")

T = TypeVar("T")

DISPOSE_TIMEOUT = 5.0
"""Seconds that a disposal may take before its sockets are left to the sweep: it must not keep a loop from ending."""

UNHEEDED = 0.5
"""Seconds more for a disposal to end once it was cancelled; then it is left alone, pending."""

lasting: ContextVar[bool] = ContextVar("loopwatch_lasting", default=False)
"""True while a value is made: the tasks and async generators that this begins belong to the loop, and outlive the run
of `loopwatch.run_async` that asked first."""
_ending: weakref.WeakSet[AbstractEventLoop] = weakref.WeakSet()
"""Loops whose `shutdown_asyncgens` has begun: what is made on them from now on is left to the sweep."""


async def dispose_of(value: T, dispose: Callable[[T], object] | None, name: str) -> bool:
    """Ends a value; false when that failed, which is logged and nobody's error but ours."""
    if dispose is None:
        return True
    try:
        result = dispose(value)
        if inspect.isawaitable(result):
            await _within(DISPOSE_TIMEOUT, result)
    except Exception as error:  # noqa: BLE001  # the user's code; the loop has to end all the same
        logger.warning("the disposal of %s on its loop failed: %s: %s", name, type(error).__name__, redact(str(error)))
        return False
    return True


async def _within(seconds: float, result: Awaitable[object]) -> None:
    """Awaits ``result``, and leaves it alone when it heeds neither the time nor its cancellation."""
    task = asyncio.ensure_future(result)
    task.add_done_callback(retrieve)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            task.cancel()
            await asyncio.wait({task}, timeout=UNHEEDED)
            raise TimeoutError(f"not done after {seconds:g} s")
    except asyncio.CancelledError:
        task.cancel()
        raise
    task.result()


def lastingly(function: Callable[[], T]) -> T:
    """Calls it with `lasting` set."""
    token = lasting.set(True)
    try:
        return function()
    finally:
        lasting.reset(token)


def start(generator: AsyncGenerator[None, None]) -> None:
    """Runs it to its ``yield``, which makes it known to the running loop (PEP 525)."""
    try:
        generator.asend(None).send(None)
    except StopIteration:
        return


def retrieve(task: asyncio.Future[Any]) -> None:
    """Takes the error of a factory (or disposal) for which nobody waits any more: asyncio should not complain of it."""
    if not task.cancelled():
        task.exception()


def is_ending(loop: AbstractEventLoop) -> bool:
    """Whether ``loop`` is being shut down (`shutdown_asyncgens` has begun; uvloop does not let us see it)."""
    return loop in _ending or getattr(loop, "_asyncgens_shutdown_called", False) is True


def note_ending(loop: AbstractEventLoop) -> None:
    """``loop`` is being shut down."""
    _ending.add(loop)
