"""Loop lag: how late a loop runs what is due, measured by a timer each `HEARTBEAT` seconds.

Lag is counted from when the beat was due or from when the loop's run began, whichever is later: the main thread's loop
runs only during tasks, and the pause between two of them is no lag. The timer keeps no loop from ending, is no task
that a run could leave behind, and holds no context of whoever started it.
"""

from __future__ import annotations

import _thread
import os
import sys
from asyncio import AbstractEventLoop, TimerHandle
from bisect import bisect_left
from collections.abc import Iterator
from contextvars import Context
from math import inf
from time import monotonic
from typing import Any

from loopwatch.stalls import STALLS, forget, native
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, Cell, Gauge

__all__ = ["HEARTBEAT", "LoopLag"]

HEARTBEAT = 0.1
"""Seconds between two beats."""

WINDOW = 60.0
"""Seconds that the longest lag stays visible."""
_STEP = 5.0
_BUCKETS = catalogue.LOOP_LAG.buckets
_lags: list[LoopLag] = []


class LoopLag:
    """The lag of one loop, from `start` to `stop`. Its thread calls everything but `overdue` and `highest`.

    Args:
        loop: the loop.
        name: what the log calls it.
        lone: whether blocking it is nobody's business unless another of its tasks waits (`loopwatch.stalls`).
    """

    def __init__(self, loop: AbstractEventLoop, name: str, *, lone: bool = False) -> None:
        self.loop = loop
        self.name = name
        self.lone = lone
        self.thread = 0
        self.greenlet: Any = None
        self.seen = self.logged = False
        self.told = ""
        self._due = inf
        self._since = inf
        self._context = Context()
        self._cell: Cell = []
        self._timer: TimerHandle | None = None
        self._highest: dict[int, float] = {}

    def start(self) -> None:
        """Begins to beat, in the loop's thread; it counts as running from `resume` on."""
        self.thread = native(_thread, "get_ident")()
        self._cell = STATS.cell(catalogue.LOOP_LAG, ())
        self._schedule()
        _lags.append(self)
        STALLS.add(self)

    def resume(self) -> None:
        """The loop runs."""
        self._since = monotonic()

    def pause(self) -> None:
        """The loop's run has ended."""
        self._since = inf

    def stop(self) -> None:
        """Forgets the loop."""
        self._since = inf
        if self in _lags:
            _lags.remove(self)
            STALLS.remove(self)
            STATS.fold([self._cell])
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def overdue(self, now: float) -> float:
        """Seconds since the next beat should have come; below 0 while it need not."""
        # Infinite while the loop does not run.
        return now - max(self._due, self._since)

    def highest(self, now: float) -> float:
        """The longest lag of the last `WINDOW` seconds, one that goes on included."""
        oldest = (now - WINDOW) // _STEP
        recent = [late for step, late in list(self._highest.items()) if step >= oldest]
        return max(0.0, self.overdue(now), *recent)

    def _schedule(self) -> None:
        self._timer = self.loop.call_later(HEARTBEAT, self._beat, context=self._context)
        self._due = monotonic() + HEARTBEAT

    def _beat(self) -> None:
        if self._timer is None:
            return
        late = self.overdue(monotonic())
        if late > -inf:
            # uvloop's timers may come a millisecond early.
            self._observe(max(late, 0.0))
        greenlets = sys.modules.get("greenlet")
        self.greenlet = greenlets.getcurrent() if greenlets is not None else None
        self._schedule()

    def _observe(self, late: float) -> None:
        self._cell[bisect_left(_BUCKETS, late)] += 1
        self._cell[-1] += late
        step = int(monotonic() // _STEP)
        if late > self._highest.get(step, -1.0):
            self._highest[step] = late
            for old in [known for known in self._highest if known < step - WINDOW / _STEP]:
                del self._highest[old]
        if STALLS.threshold is not None and late >= STALLS.threshold:
            STALLS.over(self, late)
        elif self.seen:
            forget(self)


def _gauges() -> Iterator[Gauge]:
    now = monotonic()
    for lag in tuple(_lags):
        yield catalogue.LOOP_LAG_MAX, (), lag.highest(now)


STATS.add_source(_gauges)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lags.clear)
