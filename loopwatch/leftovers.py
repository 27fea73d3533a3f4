"""What a finished run left on its loop: tasks and async generators, ended before the caller goes on.

On a loop that lives on, an orphan would resume inside the next Celery task, and its connection would stay
``idle in transaction`` until then. `asyncio.run` has the same duty, but it may close the whole loop; here the values
of `PerLoop` stay.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio import AbstractEventLoop
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from types import AsyncGeneratorType
from typing import Any, TypeAlias, TypeVar
from weakref import WeakSet

from loopwatch.per_loop import lasting

__all__ = ["GenerationHooks", "Leftovers", "current_run", "make_task"]

logger = logging.getLogger("loopwatch")

GRACE = 0.1
"""Seconds that leftovers have to end by themselves: a shielded close, a notification that was just started."""

DRAIN_TIMEOUT = 2.0
"""Seconds that leftovers have to end once they are cancelled."""

AsyncGen: TypeAlias = AsyncGeneratorType[Any, Any]
T = TypeVar("T")


class Leftovers:
    """The tasks and async generators that one run began."""

    __slots__ = ("_generators", "_tasks", "loop")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        # Made when they are needed: most runs begin neither.
        self._tasks: WeakSet[asyncio.Task[Any]] | None = None
        self._generators: WeakSet[AsyncGen] | None = None

    def add_task(self, task: asyncio.Task[Any]) -> None:
        if self._tasks is None:
            self._tasks = WeakSet()
        self._tasks.add(task)

    def add_generator(self, generator: AsyncGen) -> None:
        if self._generators is None:
            self._generators = WeakSet()
        self._generators.add(generator)

    def tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks that have not ended."""
        return [task for task in self._tasks if not task.done()] if self._tasks else []

    def generators(self) -> list[AsyncGen]:
        """The async generators that were begun and have not ended."""
        if not self._generators:
            return []
        return [one for one in self._generators if one.ag_frame is not None and not one.ag_running]

    def __bool__(self) -> bool:
        return bool(self.tasks() or self.generators())

    async def drain(self) -> None:
        """Ends them, on their loop; what resists is still there afterwards."""
        if tasks := self.tasks():
            await asyncio.wait(tasks, timeout=GRACE)
        deadline = self.loop.time() + DRAIN_TIMEOUT
        tried: WeakSet[AsyncGen] = WeakSet()
        while (left := deadline - self.loop.time()) > 0:
            tasks = self.tasks()
            for task in tasks:
                task.cancel()
            for generator in self.generators():
                if generator not in tried:
                    tried.add(generator)
                    tasks.append(self.loop.create_task(_close(generator)))
            if not tasks:
                return
            await asyncio.wait(tasks, timeout=left)


async def _close(generator: AsyncGen) -> None:
    try:
        await generator.aclose()
    except Exception:
        logger.warning("an async generator that a finished run had left open failed to close", exc_info=True)


current_run: ContextVar[Leftovers | None] = ContextVar("loopwatch_current_run", default=None)
"""The run that a task, and whatever it begins, belongs to."""


def make_task(
    loop: AbstractEventLoop, coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
) -> asyncio.Task[T]:
    """A task factory (``loop.set_task_factory``) that notes for which run a task was made."""
    task = asyncio.Task(coroutine, loop=loop, **options)
    run = _run_of_what_begins()
    if run is not None and run.loop is loop:
        run.add_task(task)
    return task


def _run_of_what_begins() -> Leftovers | None:
    return None if lasting.get() else current_run.get()


class GenerationHooks:
    """One loop's hooks for async generators (PEP 525): asyncio's own, and a note for which run one was begun."""

    def __init__(self) -> None:
        self._of_loop: tuple[Callable[[Any], None], Callable[[Any], None]] | None = None

    def install(self) -> None:
        """For the loop that is running in this thread; asyncio puts the thread's own back when it stops."""
        if self._of_loop is None:
            hooks = sys.get_asyncgen_hooks()
            assert hooks.firstiter is not None
            assert hooks.finalizer is not None
            self._of_loop = (hooks.firstiter, hooks.finalizer)
        sys.set_asyncgen_hooks(self._begun, self._dropped)

    def _begun(self, generator: Any) -> None:
        assert self._of_loop is not None
        self._of_loop[0](generator)
        run = _run_of_what_begins()
        if run is not None:
            run.add_generator(generator)

    def _dropped(self, generator: Any) -> None:
        """Nobody refers to it any more. asyncio would close it in a task made later: too late for the run's end."""
        assert self._of_loop is not None
        run = _run_of_what_begins()
        if run is not None and run.loop is asyncio._get_running_loop():
            run.loop.create_task(_close(generator))
        else:
            self._of_loop[1](generator)
