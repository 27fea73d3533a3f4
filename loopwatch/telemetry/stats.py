"""This process's numbers: pushed counts in plain dictionaries, and gauges that are read when a snapshot is taken.

No prometheus_client here: a counted fact costs one lock and one dictionary entry (`make bench`), and the numbers
leave as a snapshot. `current_task` tells for whom a fact is counted; `loopwatch.celery` sets it around each task.

Nothing here raises into its caller: a table that is full drops the fact and counts the drop.
"""

from __future__ import annotations

import inspect
import logging
import os
import secrets
import threading
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.wire import Labels, Table, Value, add_value

__all__ = ["NO_TASK", "STATS", "Gauge", "Stats", "TaskContext", "current_task"]

logger = logging.getLogger("loopwatch")

MAX_SERIES = 1000
"""Label sets a process keeps in all; one more is counted in ``loopwatch_telemetry_dropped_total``."""


MAX_LABEL = 500
"""Characters of a label: a longer one could make a datagram that no reader takes. It counts as a series too many."""


@dataclass(frozen=True, slots=True)
class TaskContext:
    """For whom a fact is counted. Outside any task both are empty, which Prometheus reads as "no such label"."""

    queue_name: str = ""
    name: str = ""
    id: str = ""


NO_TASK = TaskContext()
current_task: ContextVar[TaskContext] = ContextVar("loopwatch_current_task", default=NO_TASK)

Gauge = tuple[Metric, Labels, float]
"""A gauge's family, the values of its `Metric.own_labels`, and its value."""


Cell = list[float]
Source = Callable[[], Iterable[Gauge]]

F = TypeVar("F", bound=Callable[..., object])


def hold_weakly(function: F) -> Callable[[], F | None]:
    """A reference to ``function``: weak (``None`` once its object is gone) for a bound method, else strong."""
    if inspect.ismethod(function):
        return weakref.WeakMethod(function)
    return lambda: function


class Stats:
    """Counters and histograms of one process, and the sources of its gauges. Thread-safe; empty after a fork."""

    def __init__(self) -> None:
        self._sources: list[Callable[[], Source | None]] = []
        self._cells: list[tuple[Metric, Labels, Cell]] = []
        self.reset()

    def reset(self) -> None:
        """Begins anew, as in a forked child: what the parent counted is the parent's to report."""
        # Reentrant: a connection that the garbage collector finds while we count is counted as well.
        self._lock = threading.RLock()
        self._counters: dict[Metric, dict[Labels, Value]] = {}
        self._series = 0
        self.changes = 0
        self.nonce = secrets.token_hex(4)
        for metric, labels, cell in self._cells:
            cell[:] = [0] * len(cell)
            self._row(metric, labels)

    def count(self, metric: Metric, labels: Labels = (), amount: float = 1) -> None:
        """Adds ``amount`` to a counter; 0 makes its series exist ("born at 0")."""
        # Of the ways to take a lock this is the one that a soft time limit's signal cannot leave locked: its handler,
        # which raises, runs after a call such as `acquire()` but not within the entry of a `with`.
        with self._lock:
            try:
                self._counters[metric][labels] += amount  # type: ignore[operator]  # a counter's value is no list
            except KeyError:
                rows = self._row(metric, labels)
                if rows is None:
                    return
                rows[labels] += amount  # type: ignore[operator]
            self.changes += 1

    def observe(self, metric: Metric, labels: Labels, seconds: float) -> None:
        """Adds one observation to a histogram."""
        with self._lock:
            try:
                value: list[float] = self._counters[metric][labels]  # type: ignore[assignment]  # always a list here
            except KeyError:
                rows = self._row(metric, labels)
                if rows is None:
                    return
                value = rows[labels]  # type: ignore[assignment]
            value[bisect_left(metric.buckets, seconds)] += 1
            value[-1] += seconds
            self.changes += 1

    def cell(self, metric: Metric, labels: Labels) -> Cell:
        """Numbers that one thread adds to by itself, without our lock: a counter as ``[sum]``, a histogram as on the
        wire. They are part of `counters` until `fold`; `changes` is their owner's to move.
        """
        cell: Cell = [0] * (len(metric.buckets) + 2 if metric.buckets else 1)
        with self._lock:
            if self._row(metric, labels) is not None:
                self._cells.append((metric, labels, cell))
        return cell

    def fold(self, cells: list[Cell]) -> None:
        """The owner of these cells is gone: what they hold is kept, they are not."""
        with self._lock:
            gone = {id(cell) for cell in cells}
            for metric, labels, cell in self._cells:
                if id(cell) in gone:
                    rows = self._counters[metric]
                    rows[labels] = add_value(rows[labels], cell if metric.buckets else cell[0])
            self._cells = [kept for kept in self._cells if id(kept[2]) not in gone]

    def _row(self, metric: Metric, labels: Labels) -> dict[Labels, Value] | None:
        """The family's rows, which hold these labels; ``None`` when the process has all the series that it may have."""
        rows = self._counters.get(metric)
        if rows is None:
            rows = self._counters[metric] = {}
        if labels not in rows:
            full = self._series >= MAX_SERIES or any(len(label) > MAX_LABEL for label in labels)
            if full and metric is not catalogue.TELEMETRY_DROPPED:
                self.count(catalogue.TELEMETRY_DROPPED, ("series_limit",))
                return None
            self._series += 1
            rows[labels] = [0] * (len(metric.buckets) + 2) if metric.buckets else 0
        return rows

    def value(self, metric: Metric, labels: Labels = ()) -> float:
        """A counter's value now, or a histogram's number of observations; 0 when it was never counted."""
        value = self.counters().get(metric.wire_name, {}).get(labels, 0)
        return value if not isinstance(value, list) else sum(value[:-1])

    def add_source(self, source: Source) -> None:
        """Registers a function that is asked for gauges whenever a snapshot is taken, in the reporter's thread.

        A bound method is held weakly: a pool that its owner drops must not live on because it was measured.
        """
        self._sources.append(hold_weakly(source))

    def counters(self) -> Table:
        """A copy of all counters and histograms."""
        with self._lock:
            table: Table = {
                metric.wire_name: {
                    labels: list(value) if isinstance(value, list) else value for labels, value in rows.items()
                }
                for metric, rows in self._counters.items()
            }
            for metric, labels, cell in self._cells:
                rows = table[metric.wire_name]
                rows[labels] = add_value(rows[labels], cell if metric.buckets else cell[0])
        return table

    def gauges(self) -> Table:
        """All gauges, read now. Values that two sources give for one label set are merged as the family says."""
        table: Table = {}
        for reference in tuple(self._sources):
            source = reference()
            if source is None:
                with suppress(ValueError):  # another thread has just done it
                    self._sources.remove(reference)
                continue
            try:
                for metric, labels, value in source():
                    rows = table.setdefault(metric.wire_name, {})
                    known = rows.get(labels, 0)
                    rows[labels] = max(known, value) if metric.merge == "max" else known + value  # type: ignore[operator]
            except Exception:
                # Layer 3 is silent towards the task and counts; a faulty source must not cost the other numbers.
                self.count(catalogue.TELEMETRY_DROPPED, ("error",))
                logger.debug("a source of gauges failed", exc_info=True)
        return table


STATS = Stats()
"""The process's numbers."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=STATS.reset)
