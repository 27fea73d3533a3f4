"""`AsyncTask`: a Celery task whose ``run`` and hooks may be coroutine functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from celery import Task

from loopwatch.celery.wrappers import validated
from loopwatch.errors import RunningLoopError
from loopwatch.green import running_loop
from loopwatch.runner import run_async

__all__ = ["AsyncTask"]

_METHODS = ("run", "before_start", "on_success", "on_failure", "on_retry", "after_return")

_carried: ContextVar[tuple[Any, Any] | None] = ContextVar("loopwatch_task_request", default=None)
"""The stack of requests of the task that waits for a coroutine, and its request: another thread's stack is empty."""


class AsyncTask(Task):  # type: ignore[misc, type-arg, unused-ignore]  # untyped, or generic in its stubs only
    """A task class for ``async def`` tasks; synchronous ones stay what they are.

    >>> import asyncio, celery
    >>> app = celery.Celery("app", task_cls=AsyncTask, set_as_current=False)
    >>> @app.task(bind=True)
    ... async def generate(self, title: str) -> str:
    ...     await asyncio.sleep(0)
    ...     return f"{title}, attempt {self.request.retries + 1}"
    >>> generate.apply(["a roadmap"]).get()
    'a roadmap, attempt 1'

    As the application's ``task_cls``, as ``base=`` or as a mixin. ``run`` is wrapped rather than ``__call__``, which
    applications override. In the coroutine ``self.request`` is the task's own on every pool; `celery.current_task` is
    so on prefork and solo only, as the other pools run the coroutines of many tasks on one loop.
    """

    abstract = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in _METHODS:
            method = cls.__dict__.get(name)
            # Celery keeps the function of a task that is not bound as a static method.
            function, owner = (method.__func__, cls) if isinstance(method, staticmethod) else (method, None)
            if inspect.iscoroutinefunction(function):
                synchronous = _synchronous(function, owner)
                setattr(cls, name, synchronous if owner is None else staticmethod(synchronous))
            elif (cell := validated(function)) is not None and inspect.iscoroutinefunction(cell.cell_contents):
                cell.cell_contents = _synchronous(cell.cell_contents, owner)

    @property
    def request(self) -> Any:
        """The request that this task works on."""
        stack: Any = self.request_stack
        if stack.top is None:
            carried = _carried.get()
            if carried is not None and carried[0] is stack:
                return carried[1]
        return super().request


def _synchronous(function: Callable[..., Any], owner: type[AsyncTask] | None = None) -> Callable[..., Any]:
    """``function`` run to its end; ``owner``: the class of a static method, which gets no ``self``."""

    @functools.wraps(function)
    def method(*args: Any, **kwargs: Any) -> Any:
        task = owner or args[0]
        if running_loop() is not None:
            raise RunningLoopError(
                f"the task {task.name} was called where an event loop is running (by task_always_eager, apply() or as "
                "a function), and would block it to its end: call it in a thread, such as "
                "`await asyncio.to_thread(task.delay, ...)`"
            )
        stack = task.request_stack
        request = stack.top if stack is not None else None
        token = _carried.set((stack, request) if request is not None else None)
        try:
            return run_async(lambda: function(*args, **kwargs))
        finally:
            _carried.reset(token)

    return method
