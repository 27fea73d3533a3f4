"""Leaks: a connection that is held longer than a threshold is logged once, with the stack of its checkout and the task.

It costs a walk over the stack at every checkout, hence a meter of its own, which a pool has only when it was given a
``leak_threshold``. No thread looks: a leak is found when the gauges are read, or when the connection comes back.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from loopwatch.adapters.pool_meter import PoolLabels, PoolMeter
from loopwatch.errors import ConfigurationError
from loopwatch.stacks import Stack, calling_stack
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import NO_TASK, STATS, Cell, TaskContext, current_task

__all__ = ["LeakMeter", "checked_threshold", "meter_for"]

logger = logging.getLogger("loopwatch")


def checked_threshold(seconds: float | None) -> float | None:
    """A ``leak_threshold`` that can work.

    Raises:
        ConfigurationError: it is not above 0.
    """
    if seconds is not None and not seconds > 0:
        raise ConfigurationError(f"leak_threshold is in seconds and above 0, or None to look for no leaks: {seconds!r}")
    return seconds


def meter_for(labels: PoolLabels, leak_threshold: float | None) -> PoolMeter:
    """A meter that looks for leaks when there is a threshold."""
    return PoolMeter(labels) if leak_threshold is None else LeakMeter(labels, leak_threshold)


@dataclass(slots=True, eq=False)
class _Checkout:
    since: float
    task: TaskContext
    holder: str
    stack: Stack
    holder_lives: Callable[[], object] = lambda: None


class LeakMeter(PoolMeter):
    """A `PoolMeter` that remembers where each held connection was taken."""

    __slots__ = ("_checkouts", "_unreported", "threshold")

    def __init__(self, labels: PoolLabels, threshold: float) -> None:
        super().__init__(labels)
        self.threshold = threshold
        self._checkouts: dict[object, _Checkout] = {}
        # Two threads may find one leak: the loop's, on return, and the reporter's. Who takes it out of here reports.
        self._unreported: set[_Checkout] = set()

    def taken(self, item: object, start: float) -> None:
        super().taken(item, start)
        self._remember(item)

    def taken_at_once(self, item: object) -> None:
        super().taken_at_once(item)
        self._remember(item)

    def _remember(self, item: object) -> None:
        task = current_task.get()
        checkout = _Checkout(perf_counter(), task, _holder(task), calling_stack())
        self._checkouts[item] = checkout
        self._unreported.add(checkout)

    def given_back(self, item: object) -> None:
        checkout = self._checkouts.pop(item, None)
        if checkout is not None:
            self._report_if_leaked(checkout)
            self._unreported.discard(checkout)
        super().given_back(item)

    def held_by(self, item: object, holder: object) -> None:
        checkout = self._checkouts.get(item)
        if checkout is not None:
            checkout.holder_lives = weakref.ref(holder)

    def find_leaks(self) -> None:
        for checkout in list(self._checkouts.values()):
            self._report_if_leaked(checkout)

    def _report_if_leaked(self, checkout: _Checkout) -> None:
        seconds = perf_counter() - checkout.since
        if seconds < self.threshold or checkout.holder_lives() is not None:
            return
        try:
            self._unreported.remove(checkout)
        except KeyError:
            return
        STATS.count(catalogue.POOL_LEAKS, (checkout.task.queue_name, self.labels.pool))
        logger.warning(
            "a connection of the pool %s has been held for %.1f s (leak_threshold is %g s) by %s; it was taken here:"
            "\n%s",
            self.labels.pool,
            seconds,
            self.threshold,
            checkout.holder,
            checkout.stack.text(),
        )

    def _queue_cells(self, task: TaskContext) -> tuple[Cell, Cell]:
        STATS.count(catalogue.POOL_LEAKS, (task.queue_name, self.labels.pool), 0)
        return super()._queue_cells(task)


def _holder(task: TaskContext) -> str:
    if task is not NO_TASK:
        return f"the task {task.name}[{task.id}] of the queue {task.queue_name}"
    running = asyncio.current_task() if asyncio._get_running_loop() is not None else None
    return f"the asyncio task {running.get_name()}" if running is not None else "no task"
