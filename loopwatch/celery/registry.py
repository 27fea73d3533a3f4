"""An ``async def`` task that nobody awaits is an error when it is registered.

Celery would call its function, get a coroutine, and store that coroutine's repr as the result of a successful task.
The check sits in the application's registry of tasks, through which every task comes: decorated, lazy, shared or a
class. Celery's signals would swallow the error.
"""

from __future__ import annotations

import inspect
import os
import sys
from types import FrameType
from typing import Any

from celery import Celery, Task, concurrency
from celery.app import trace
from celery.app.registry import TaskRegistry

from loopwatch.celery.wrappers import beneath
from loopwatch.errors import ConfigurationError

__all__ = ["check_async_tasks"]


def check_async_tasks(app: Celery[Any]) -> None:
    """Checks the tasks that ``app`` has, and from now on each one that it gets.

    Raises:
        ConfigurationError: a task is a coroutine function that nobody awaits.
    """
    registry: Any = app._tasks  # type: ignore[attr-defined]  # `app.tasks` would finalize the application
    unawaited = [name for name, task in registry.items() if _is_unawaited(task)]
    if unawaited:
        raise _refusal(unawaited)
    kind = type(registry)
    if not issubclass(kind, _Checked):
        # The object stays the same: others may hold it. Its class may be the application's own.
        registry.__class__ = type(kind.__name__, (_Checked, kind), {})


class _Checked(TaskRegistry):  # type: ignore[misc, unused-ignore]  # untyped, or typed in its stubs only
    def __setitem__(self, name: str, task: Any) -> None:
        if not _is_unawaited(task):
            super().__setitem__(name, task)
        elif not _offered():
            raise _refusal([name])


def _is_unawaited(task: Any) -> bool:
    return inspect.iscoroutinefunction(beneath(task.run)) and not _awaited_by_others(task)


def _refusal(names: list[str]) -> ConfigurationError:
    return ConfigurationError(
        f"`async def` tasks that nobody awaits: {', '.join(map(repr, names))}. Their results would be a coroutine's "
        "repr. Write `@app.task(base=loopwatch.AsyncTask)` or, for all tasks, `Celery(..., "
        "task_cls=loopwatch.AsyncTask)`; or a plain `def` that calls `loopwatch.run_async(...)`. If something else "
        "awaits them (celery-aio-pool, a worker pool of your own): `instrument(app, check_async_tasks=False)`"
    )


def _offered() -> bool:
    """Whether ``@other_app.task`` offers its task to every application of the process, as Celery does.

    There it may be awaited; here it is not taken. An application that is offered a task of its own registers it right
    after in its own name, and is refused then.
    """
    frame: FrameType | None = sys._getframe(2)
    for _ in range(4):
        if frame is None:
            return False
        if frame.f_code.co_name == "cons" and frame.f_globals.get("__name__") == "celery.app.base":
            return True
        frame = frame.f_back
    return False


def _awaited_by_others(task: Any) -> bool:
    """A ``__call__`` of the application's own, a replaced tracer, or a pool: Celery's, to come, or a custom one."""
    return (
        type(task).__call__ is not Task.__call__
        or trace.build_tracer.__module__ != trace.__name__
        or "asyncio" in getattr(concurrency, "ALIASES", {})
        or bool(os.environ.get("CELERY_CUSTOM_WORKER_POOL"))
    )
