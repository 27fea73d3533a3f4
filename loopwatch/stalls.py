"""Stalls: a loop that has run nothing for longer than a threshold is logged once, with the stack that blocks it.

The loop cannot tell, as it is blocked; a thread of the interpreter's own looks, one a process, which sleeps until the
first moment at which a loop might be over the threshold. It exists only while a loop is watched and a threshold is set.
Where gevent or eventlet has patched threads, a native thread must not wait for a lock (logging has one): there it only
notes the stack, and the loop logs it once it goes on.

A loop that *lone* tasks run on (the main thread's, in a prefork child) is often blocked on purpose: a task that
computes hurts nobody but itself. There a stall is one only while another asyncio task of that loop waits.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import math
import os
import sys
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from time import monotonic
from traceback import StackSummary, walk_stack
from typing import Any, Protocol

from loopwatch.errors import ConfigurationError
from loopwatch.green import patched_by
from loopwatch.redact import redact
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import NO_TASK, STATS, current_task

__all__ = ["STALLS", "Pulse", "Stalls", "check_stall_threshold", "forget", "native"]

logger = logging.getLogger("loopwatch")

MAX_FRAMES = 60
"""Frames of a logged stack, from the innermost."""


class Pulse(Protocol):
    """What is watched: a loop that beats while it runs.

    ``thread`` is its thread's identifier, ``greenlet`` the one that runs the loop there (or ``None``); the last three
    are kept for us: whether the stall that is going on has been looked at, was logged, and what is to be logged.
    """

    loop: AbstractEventLoop
    name: str
    lone: bool
    thread: int
    greenlet: Any
    seen: bool
    logged: bool
    told: str

    def overdue(self, now: float) -> float:
        """Seconds since the next beat should have come; below 0 while it need not."""


def check_stall_threshold(seconds: float | None) -> None:
    """Raises `ConfigurationError` unless it is a possible threshold, or ``None``."""
    if seconds is not None and not 0.05 <= seconds < math.inf:
        raise ConfigurationError(
            f"stall_threshold={seconds!r}: seconds that a loop may be blocked before the stack that blocks it is "
            "logged, from 0.05 (default 1.0), or None to log none"
        )


def native(module: Any, name: str) -> Callable[..., Any]:
    """A function of the interpreter's own: a greenlet, which the patched one would make, is blocked by a stall too."""
    patched = patched_by()
    if patched == "gevent":
        return sys.modules["gevent.monkey"].get_original(module.__name__, name)  # type: ignore[no-any-return]
    if patched:
        module = sys.modules["eventlet.patcher"].original(module.__name__)
    return getattr(module, name)  # type: ignore[no-any-return]


class Stalls:
    """Watches pulses from a thread of its own. ``threshold``: seconds, ``None`` = off."""

    def __init__(self) -> None:
        self.threshold: float | None = None
        self.reset()

    def reset(self) -> None:
        """Begins anew, as in a forked child, where neither the parent's thread nor its loops are."""
        self._pulses: list[Pulse] = []
        # A permit rather than a lock: whoever takes it starts the thread, which puts it back when it ends.
        self._permit = [True]

    def configure(self, threshold: float | None) -> None:
        """Sets the process's threshold."""
        self.threshold = threshold
        self._ensure_thread()

    def add(self, pulse: Pulse) -> None:
        """Watches a loop until `remove`."""
        self._pulses.append(pulse)
        self._ensure_thread()

    def remove(self, pulse: Pulse) -> None:
        """Watches it no longer."""
        if pulse in self._pulses:
            self._pulses.remove(pulse)

    def _ensure_thread(self) -> None:
        if self.threshold is None or not self._pulses:
            return
        STATS.count(catalogue.LOOP_STALLS, (), 0)  # an alert must see the first one
        try:
            self._permit.pop()
        except IndexError:
            return
        try:
            native(_thread, "start_new_thread")(self._run, ())
        except RuntimeError:  # as many threads as the system allows, or the interpreter ends: no task's error
            self._permit.append(True)
            STATS.count(catalogue.TELEMETRY_DROPPED, ("error",))
            logger.debug("stalls are not looked for: no thread could be started", exc_info=True)

    def _run(self) -> None:
        sleep = native(time, "sleep")
        while (threshold := self.threshold) is not None and self._pulses:
            try:
                seconds = self.look(threshold)
            except Exception:
                seconds = threshold
                if not patched_by():  # nor may it count there
                    # Layer 3 is silent and counts.
                    STATS.count(catalogue.TELEMETRY_DROPPED, ("error",))
                    logger.debug("stalls could not be looked for", exc_info=True)
            sleep(max(seconds, 0.01))
        self._permit.append(True)
        self._ensure_thread()  # a loop may have come since the last look

    def look(self, threshold: float) -> float:
        """Looks at every loop; how long until there may be something to see."""
        now = monotonic()
        wait = threshold
        for pulse in tuple(self._pulses):
            late = pulse.overdue(now)
            if late < threshold:
                wait = min(wait, threshold - late)
            elif not pulse.seen:
                pulse.seen = True
                self._report(pulse, threshold)
        return wait

    def _report(self, pulse: Pulse, threshold: float) -> None:
        if pulse.lone and not _others_wait(pulse.loop):
            return
        told = _told(pulse)
        seconds = pulse.overdue(monotonic())
        if seconds < threshold:  # it went on meanwhile: what was read is not what blocked it
            pulse.seen = False  # what blocks it from now on has not been looked at
            return
        pulse.told = told
        if not patched_by():
            self._warn(pulse, seconds)

    def over(self, pulse: Pulse, seconds: float) -> None:
        """Told by a loop's own thread that it goes on after so long; ``seconds`` are above the threshold."""
        if pulse.logged:
            logger.info("%s goes on after %.1f s", pulse.name, seconds)
        elif pulse.told or not (pulse.seen or pulse.lone):
            self._warn(pulse, seconds)
        forget(pulse)

    def _warn(self, pulse: Pulse, seconds: float) -> None:
        pulse.logged = True
        STATS.count(catalogue.LOOP_STALLS)
        logger.warning(
            "%s has run nothing else for %.1f s (stall_threshold is %g s): %s",
            pulse.name,
            seconds,
            self.threshold,
            # Nobody could look in time: C code that keeps the interpreter to itself, or a machine that stood still.
            pulse.told or "no other thread could see why",
        )


def forget(pulse: Pulse) -> None:
    """The loop beats: whatever was the matter is over."""
    pulse.seen = pulse.logged = False
    pulse.told = ""


def _others_wait(loop: AbstractEventLoop) -> bool:
    return len(asyncio.all_tasks(loop)) > 1


def _told(pulse: Pulse) -> str:
    task = asyncio.current_task(pulse.loop)
    frames = list(walk_stack(sys._current_frames().get(pulse.thread)))
    # SQLAlchemy's synchronous part has a stack of its own, in a greenlet; the loop's greenlet waits for it.
    waiting = getattr(pulse.greenlet, "gr_frame", None)
    if waiting is not None and task is not None:
        frames += walk_stack(waiting)
    stack = "".join(StackSummary.extract(reversed(frames[:MAX_FRAMES])).format()).rstrip()
    return f"{_name(task)} blocks it, here:\n{redact(stack)}"


def _name(task: asyncio.Task[Any] | None) -> str:
    if task is None:
        return "what is no task of its own"
    name = task.get_name()
    get_context = getattr(task, "get_context", None)  # Python 3.12
    celery = get_context().get(current_task, NO_TASK) if get_context is not None else NO_TASK
    # A run's own task is called after its Celery task already; those that it began are not.
    return f"the task {name}" if celery is NO_TASK or celery.id in name else f"the task {name} of {celery.name}"


STALLS = Stalls()
"""The process's watcher."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=STALLS.reset)
