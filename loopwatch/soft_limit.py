"""Celery's soft time limit inside asyncio: the limit cancels the coroutine instead of raising in the middle of asyncio.

On prefork, billiard sends ``SIGUSR1`` to a child whose task is over its soft limit, and its handler raises
``SoftTimeLimitExceeded`` wherever the main thread happens to be. Inside asyncio that is often a callback, whose errors
asyncio logs and forgets: in 235 of 300 trials a busy loop's task never saw it. So while a coroutine runs:

- our handler only asks the loop to cancel it; `SoftLimit` turns the ``CancelledError`` into billiard's exception once
  the coroutine has ended, its ``finally`` blocks included;
- code that blocks the loop (``time.sleep``) cannot be cancelled. While it does not yield, `GRACE` seconds on and
  again, a helper thread repeats the signal to the main thread, and the handler raises in place, but only where the
  exception reaches the coroutine.

The exception is made by calling billiard's own handler, so nothing here imports it.
"""

from __future__ import annotations

import _thread
import asyncio
import signal
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

__all__ = ["SoftLimit", "soft_limit_handler"]

GRACE = 0.2
"""Seconds that a coroutine has to take notice of its cancellation before it is interrupted where it blocks."""

SIGNAL = getattr(signal, "SIGUSR1", None)

Handler = Callable[[int, FrameType | None], Any]


def soft_limit_handler() -> Handler | None:
    """billiard's handler, where it is the one installed: in the main thread of a prefork child."""
    if SIGNAL is None:
        return None
    handler = signal.getsignal(SIGNAL)
    known = getattr(handler, "__module__", None) == "billiard.pool" and callable(handler)
    return handler if known else None  # type: ignore[return-value]  # an enum member of signal is not callable


class SoftLimit:
    """A context manager around one run of ``task`` on ``loop``, in the main thread.

    The signal handler takes no lock and starts no `threading.Thread` (whose locks the interrupted code may hold).
    """

    def __init__(self, loop: AbstractEventLoop, task: asyncio.Task[Any], handler: Handler, base: FrameType) -> None:
        self._loop = loop
        self._task = task
        self._handler = handler
        self._base = base.f_code
        self._hit = False
        self._cancelled = False
        self._consumed = False  # the cancellation reached the task, or the exception was raised in place
        self._over = False
        self._kicks = self._kicks_seen = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        assert SIGNAL is not None
        signal.signal(SIGNAL, self._on_signal)

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        assert SIGNAL is not None
        with self._lock:
            self._over = True
        # A repeated signal that is still under way must meet our handler: billiard's would raise in the next task.
        while self._kicks_seen < self._kicks:
            time.sleep(0)
        signal.signal(SIGNAL, self._handler)
        ended_by_us = self._cancelled and isinstance(error, asyncio.CancelledError)
        if ended_by_us or (self._hit and not self._consumed and error is None):
            self._exceeded(error)

    def _exceeded(self, cause: BaseException | None) -> None:
        try:
            self._handler(SIGNAL or 0, None)
        except Exception as exceeded:
            # The CancelledError's traceback tells where the coroutine was when its time was up.
            raise exceeded from cause

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._hit:
            self._hit = True
            # Neither may raise here, in the middle of whatever runs: the loop may just have been closed, and there may
            # be as many threads as the system allows.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._cancel)
            with suppress(RuntimeError):
                _thread.start_new_thread(self._insist, ())
            return
        self._kicks_seen = self._kicks
        if not self._consumed and self._reaches_task(frame):
            self._consumed = True
            self._handler(number, frame)

    def _cancel(self) -> None:
        if not self._consumed:
            self._consumed = self._cancelled = self._task.cancel()

    def _insist(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        while True:
            time.sleep(GRACE)
            with self._lock:
                if self._consumed or self._over:
                    return
                if self._kicks_seen == self._kicks:
                    self._kicks += 1
                    signal.pthread_kill(main, SIGNAL or 0)

    def _reaches_task(self, frame: FrameType | None) -> bool:
        """Whether what is raised in ``frame`` comes out of the task rather than out of a callback of asyncio's."""
        if asyncio.current_task(self._loop) is not self._task:
            return False
        coroutine = self._task.get_coro()
        top = getattr(coroutine, "cr_frame", None)
        while frame is not None:
            if frame is top:
                return True
            if frame.f_code is self._base:
                return False
            frame = frame.f_back
        return True  # the stack of a greenlet (SQLAlchemy's): it ends in the task that switched to it
