"""The worker's loop: `run_async` runs a coroutine from synchronous code, on a loop that lives as long as the process.

A loop that lives on keeps its engines and clients, so a task costs no new connections. Which loop it is:

- in the main thread (Celery's prefork and solo pools, scripts) a loop of this thread's own, run by
  ``run_until_complete``: context variables, ``self.request`` and signals are the task's own. A soft time limit cancels
  the coroutine (`soft_limit`), and so does the signal that ends the process (`termination`);
- in any other thread (the threads pool) one shared loop in a background thread: a loop per thread would multiply the
  pools by the threads;
- under gevent and eventlet always the shared loop, whose "thread" is a greenlet there (`green`).

Both are loops of asyncio's or, by a setting, of uvloop's (`event_loops`). A finished run leaves nothing behind on
either (`leftovers`). After a fork the child makes its own loops; the inherited ones are kept, untouched: closing one
would take the parent's self-pipe off the epoll that both share.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import logging
import os
import sys
import threading
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import nullcontext, suppress
from typing import Any, TypeVar, cast

from loopwatch import green
from loopwatch.errors import ConfigurationError, RunningLoopError
from loopwatch.event_loops import new_event_loop
from loopwatch.leftovers import GenerationHooks, Leftovers, current_run, make_task
from loopwatch.loop_lag import LoopLag
from loopwatch.soft_limit import SoftLimit, soft_limit_handler
from loopwatch.subjects import check_subject, made_by
from loopwatch.telemetry.stats import NO_TASK, current_task
from loopwatch.termination import Termination

__all__ = ["close_loops", "run_async"]

logger = logging.getLogger("loopwatch")

T = TypeVar("T")

CLOSE_TIMEOUT = 5.0
"""Seconds that the tasks and the disposals of a loop have when it is closed."""

CANCEL_TIMEOUT = 2.0
"""Seconds that a caller whose wait was interrupted gives its coroutine, on the shared loop, to end."""


def run_async(
    coro_or_factory: Coroutine[Any, Any, T] | Callable[[], Awaitable[T]],
    *,
    timeout: float | None = None,
    shared: bool = False,
) -> T:
    """Runs a coroutine to its end and returns its result.

    >>> import asyncio
    >>> async def double(number):
    ...     await asyncio.sleep(0.01)
    ...     return 2 * number
    >>> run_async(double(21))
    42
    >>> run_async(lambda: double(4), timeout=5)
    8

    Args:
        coro_or_factory: a coroutine, or a function without arguments that makes an awaitable; the function is called
            on the loop.
        timeout: seconds after which the coroutine is cancelled and `TimeoutError` is raised; ``None``: no limit. Celery
            itself has soft time limits on prefork only.
        shared: use the process's shared background loop from any thread; the caller waits.

    Raises:
        RunningLoopError: an event loop is running in this thread.
        ConfigurationError: ``timeout`` is not positive; or this is a native thread beside greenlets.
        TypeError: neither a coroutine nor a function that makes an awaitable.
        Exception: whatever the coroutine raises; and on Celery's prefork pool ``SoftTimeLimitExceeded`` when the task's
            soft limit has cancelled it.
    """
    try:
        if timeout is not None and timeout <= 0:
            raise ConfigurationError(f"run_async(timeout={timeout!r}): seconds above 0, or None for no limit")
        check_subject(coro_or_factory)
        home = _home(shared)
    except BaseException:
        if inspect.iscoroutine(coro_or_factory):
            coro_or_factory.close()  # or Python warns that it was never awaited, and hides the error
        raise
    return cast(T, home.run(coro_or_factory, timeout))


def close_loops() -> None:
    """Ends this process's loops: cancels their tasks, disposes of their resources. The next `run_async` makes new ones.

    Called when a worker process or a script ends; waits up to `CLOSE_TIMEOUT` for the tasks, and again for the
    disposals.
    """
    own, shared = _loops.own, _loops.shared
    if own is not None and _in_main_thread() and not own.loop.is_running():
        _loops.own = None
        own.close()
    if shared is not None and green.running_loop() is not shared.loop:
        _loops.shared = None
        shared.close()


class _Home:
    """A loop that runs live on."""

    def __init__(self) -> None:
        self.loop = new_event_loop()
        self.loop.set_task_factory(make_task)
        self._hooks = GenerationHooks()
        # Celery tells when a worker's process ends (a pool child never comes to its exit functions); a script does not.
        atexit.unregister(close_loops)  # once is enough, however many loops there are
        atexit.register(close_loops)

    def run(self, subject: object, timeout: float | None) -> object:
        raise NotImplementedError

    async def _body(self, run: Leftovers, subject: Any, timeout: float | None) -> object:
        current_run.set(run)
        self._hooks.install()
        if timeout is None:
            return await (subject if inspect.iscoroutine(subject) else made_by(subject))
        async with asyncio.timeout(timeout):
            return await (subject if inspect.iscoroutine(subject) else made_by(subject))

    async def _end(self) -> None:
        everything = asyncio.all_tasks() - {asyncio.current_task()}
        for task in everything:
            task.cancel()
        if everything:
            await asyncio.wait(everything, timeout=CLOSE_TIMEOUT)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.loop.shutdown_asyncgens()
        # The default executor's threads are not waited for: a blocked one would keep the worker from ending.


class _OwnLoop(_Home):
    """The main thread's loop."""

    def __init__(self) -> None:
        super().__init__()
        # Lone: a task that computes on its own loop hurts nobody but itself.
        self._lag = LoopLag(self.loop, "the main thread's event loop", lone=True)
        self._lag.start()
        self._termination = Termination(self.loop)
        self._termination.install()

    def run(self, subject: object, timeout: float | None) -> object:
        run = Leftovers(self.loop)
        task = self.loop.create_task(self._body(run, subject, timeout), name=_task_name())
        try:
            handler = soft_limit_handler()
            limit = nullcontext() if handler is None else SoftLimit(self.loop, task, handler, sys._getframe())
            with limit:
                self._lag.resume()
                try:
                    return self.loop.run_until_complete(task)
                finally:
                    self._lag.pause()
                    self._end_run(run, task)
        except BaseException:
            if not task.done():  # a signal's exception came before the loop ran: it must not begin in the next run
                self._end_run(run, task)
                if inspect.iscoroutine(subject):
                    subject.close()
            raise

    def _end_run(self, run: Leftovers, task: asyncio.Task[Any]) -> None:
        if not task.done():  # SystemExit or the like came out of the loop itself; SIGKILL may be close
            task.cancel()
            run.add_task(task)
        elif not task.cancelled():
            task.exception()  # retrieved, also when it was SystemExit that ended the loop's run
        if run:
            self._drain(run)

    def _drain(self, run: Leftovers) -> None:
        self.loop.run_until_complete(run.drain())
        if run:
            logger.warning(
                "a run left coroutines behind that do not end when cancelled; its loop is given up: %s",
                [task.get_name() for task in run.tasks()] + run.generators(),
            )
            _loops.own = None
            self.close()

    def close(self) -> None:
        self._lag.stop()
        self.loop.run_until_complete(self._end())
        self.loop.close()
        self._termination.remove()


class _SharedLoop(_Home):
    """A loop in a daemon thread, for every other thread of the process; in a greenlet, for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self._closing = False
        self._waited_for: set[Future[object]] = set()
        self._lag = LoopLag(self.loop, "loopwatch's shared event loop")
        self._thread = threading.Thread(target=self._serve, name="loopwatch-loop", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self._lag.start()
        self._lag.resume()
        self._run_until(lambda: self._closing)
        self._lag.stop()
        # Here, by the loop's own thread: whoever closes it may give up waiting.
        end = self.loop.create_task(self._end())
        end.add_done_callback(lambda _: self.loop.stop())
        self._run_until(end.done)
        self.loop.close()

    def _run_until(self, over: Callable[[], bool]) -> None:
        while not over():
            # A task that raises SystemExit ends the loop's run as well; its caller gets it, the loop goes on.
            with suppress(SystemExit, KeyboardInterrupt):
                self.loop.run_forever()

    def run(self, subject: object, timeout: float | None) -> object:
        done: Future[object] = Future()
        run = Leftovers(self.loop)
        tasks: list[asyncio.Task[Any]] = []

        def start() -> None:
            # In a copy of the caller's context, where a run of another loop may be current (asyncio.to_thread).
            current_run.set(None)
            tasks.append(self.loop.create_task(self._body(run, subject, timeout), name=_task_name()))
            tasks[0].add_done_callback(ended)

        def ended(task: asyncio.Task[Any]) -> None:
            if not run:
                _settle(done, task)
                return
            tasks.append(self.loop.create_task(run.drain()))
            tasks[1].add_done_callback(lambda _: _settle(done, task))

        def cancel() -> None:
            if tasks:
                tasks[0].cancel()
            else:  # interrupted before the loop was asked to start
                done.cancel()

        self._waited_for.add(done)
        try:
            # Inside: a signal may come as soon as the loop's thread has begun.
            self.loop.call_soon_threadsafe(start)
            return done.result()
        except BaseException:
            if not done.done():  # the wait was interrupted: a soft time limit, Ctrl-C, a greenlet that was killed
                self.loop.call_soon_threadsafe(cancel)
                wait([done], timeout=CANCEL_TIMEOUT)
            raise
        finally:
            self._waited_for.discard(done)

    def close(self) -> None:
        self._closing = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=2 * CLOSE_TIMEOUT + 1)
        for done in self._waited_for.copy():
            # What heeded no cancellation, came too late or blocks the loop: its caller must not wait for ever.
            with suppress(InvalidStateError):
                done.set_exception(asyncio.CancelledError())


def _task_name() -> str | None:
    """What a run's asyncio task is called, in the log of a stall, too: after the Celery task that it is for."""
    task = current_task.get()
    return None if task is NO_TASK else f"{task.name}[{task.id}]"


def _settle(done: Future[object], task: asyncio.Task[Any]) -> None:
    if done.done():  # given up, by an interrupted caller or the end of the loop
        return
    if task.cancelled():
        done.set_exception(asyncio.CancelledError())
    elif error := task.exception():
        done.set_exception(error)
    else:
        done.set_result(task.result())


class _Loops:
    """This process's loops."""

    def __init__(self) -> None:
        self.own: _OwnLoop | None = None
        self.shared: _SharedLoop | None = None
        self.lock = threading.Lock()


_loops = _Loops()
_inherited: list[_Loops] = []
"""A parent's loops, kept so that nothing closes them here."""


def _home(shared: bool) -> _Home:
    running = green.running_loop()
    if running is not None:
        _refuse(running, shared)
    if not shared and _in_main_thread():
        if _loops.own is not None:
            return _loops.own
        if green.patched_by() is None:
            _loops.own = _OwnLoop()
            return _loops.own
    green.check_thread()
    with _loops.lock:
        if _loops.shared is None:
            _loops.shared = _SharedLoop()
        return _loops.shared


def _refuse(running: AbstractEventLoop, shared: bool) -> None:
    if not shared:
        raise RunningLoopError(
            "run_async() was called where an event loop is already running: write `await f(...)` instead of "
            "`run_async(f(...))`; or, in a synchronous function that cannot await, `run_async(f(...), shared=True)`, "
            "which runs it on loopwatch's background loop and blocks this one meanwhile"
        )
    if _loops.shared is not None and running is _loops.shared.loop:
        raise RunningLoopError(
            "run_async(..., shared=True) was called on the shared loop itself, which would wait for itself for ever: "
            "write `await f(...)` instead of `run_async(f(...), shared=True)`"
        )


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


def _after_fork_in_child() -> None:
    global _loops
    _inherited.append(_loops)
    _loops = _Loops()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
