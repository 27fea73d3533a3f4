"""What a connection pool must tell: who waits, who holds, for how long, and how full it was.

One `PoolMeter` measures one pool on one loop (so it needs no lock); `PoolLabels` name the pool for all of them.
The vocabulary is OpenTelemetry's ``db.client.connection.*`` and HikariCP's.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import NO_TASK, STATS, Cell, Gauge, TaskContext, current_task

__all__ = ["PoolLabels", "PoolMeter", "database_label", "pool_gauges"]

PEAK_WINDOW = 60.0
"""Seconds that a peak stays visible: a burst of 5 s must not hide between two scrapes."""
_PEAK_STEP = 10.0
_WAIT_BUCKETS = catalogue.POOL_WAIT.buckets
_USE_BUCKETS = catalogue.POOL_USE.buckets


@dataclass(slots=True)
class PoolLabels:
    """What a pool is called (``pool``), what it holds (``resource``) and where it goes (``database``)."""

    pool: str
    resource: str
    database: str = ""


class PoolMeter:
    """The numbers of one pool on one loop. ``held`` maps a checked-out item to since when, for whom, and the histogram
    that its use will be counted in."""

    __slots__ = (
        "__weakref__",
        "_cells",
        "_high",
        "_peaks",
        "_per_queue",
        "_per_task",
        "_step_end",
        "held",
        "labels",
        "waiting",
    )

    def __init__(self, labels: PoolLabels) -> None:
        self.labels = labels
        self.held: dict[object, tuple[float, TaskContext, Cell]] = {}
        self.waiting = 0
        self._peaks: dict[int, int] = {}
        self._high = 0
        self._step_end = 0.0
        # Only this loop's thread adds to them, so they need no lock; they are looked up once a queue and task.
        self._cells: list[Cell] = []
        self._per_queue: dict[str, tuple[Cell, Cell]] = {}
        self._per_task: dict[tuple[str, str], tuple[Cell, Cell]] = {}
        weakref.finalize(self, STATS.fold, self._cells).atexit = False

    def taken(self, item: object, start: float) -> None:
        """``item`` was handed out to a task that had asked at ``start`` (`perf_counter`)."""
        now = perf_counter()
        task = current_task.get()
        self._hold(item, now, task, self._waited(task, now - start))

    def taken_at_once(self, item: object) -> None:
        """``item`` was idle and was handed out: nobody waited."""
        # Each call and each reading of the clock that is spared here is spared at every checkout.
        now = perf_counter()
        task = current_task.get()
        held = self.held
        waits, uses = self._per_queue.get(task.queue_name) or self._queue_cells(task)
        waits[0] += 1
        STATS.changes += 1
        held[item] = (now, task, uses)
        if len(held) > self._high or now >= self._step_end:
            self._raise_peak(now)
        if task is not NO_TASK:
            self._task_cells(task)[0][0] += 1

    def _hold(self, item: object, now: float, task: TaskContext, uses: Cell) -> None:
        self.held[item] = (now, task, uses)
        if len(self.held) > self._high or now >= self._step_end:
            self._raise_peak(now)
        if task is not NO_TASK:
            self._task_cells(task)[0][0] += 1

    def timed_out(self, start: float) -> None:
        """A task gave up, or was told to, after asking at ``start``."""
        task = current_task.get()
        self._waited(task, perf_counter() - start)
        STATS.count(catalogue.POOL_TIMEOUTS, (task.queue_name, self.labels.pool))

    def _waited(self, task: TaskContext, seconds: float) -> Cell:
        waits, uses = self._per_queue.get(task.queue_name) or self._queue_cells(task)
        waits[bisect_left(_WAIT_BUCKETS, seconds)] += 1
        waits[-1] += seconds
        STATS.changes += 1
        if task is not NO_TASK:
            self._task_cells(task)[1][0] += seconds
        return uses

    def given_back(self, item: object) -> None:
        """``item`` is no longer in use."""
        taken = self.held.pop(item, None)
        if taken is not None:
            since, _, uses = taken
            seconds = perf_counter() - since
            uses[bisect_left(_USE_BUCKETS, seconds)] += 1
            uses[-1] += seconds

    def forget(self) -> None:
        """What is held now will not come back: its pool was told to forget it."""
        for item in list(self.held):
            self.given_back(item)

    def held_by(self, item: object, holder: object) -> None:
        """``item`` is held on purpose for as long as ``holder`` lives, so it is no leak until then."""

    def find_leaks(self) -> None:
        """Reports what is held too long: nothing here; `loopwatch.adapters.leaks.LeakMeter` does."""

    def _queue_cells(self, task: TaskContext) -> tuple[Cell, Cell]:
        queue, pool = task.queue_name, self.labels.pool
        cells = STATS.cell(catalogue.POOL_WAIT, (queue, pool)), STATS.cell(catalogue.POOL_USE, (queue, pool))
        self._cells.extend(cells)
        # An alert on timeouts needs to see the first one: `increase` of a series that is born at 1 is 0.
        STATS.count(catalogue.POOL_TIMEOUTS, (queue, pool), 0)
        self._per_queue[queue] = cells
        return cells

    def _task_cells(self, task: TaskContext) -> tuple[Cell, Cell]:
        key = task.queue_name, task.name
        known = self._per_task.get(key)
        if known is None:
            labels = (*key, self.labels.pool)
            known = STATS.cell(catalogue.TASK_POOL_USES, labels), STATS.cell(catalogue.TASK_POOL_WAIT, labels)
            self._cells.extend(known)
            self._per_task[key] = known
        return known

    def created(self, start: float) -> None:
        """A connection was opened, which began at ``start``."""
        STATS.observe(catalogue.POOL_CREATE, (self.labels.pool,), perf_counter() - start)

    def _raise_peak(self, now: float) -> None:
        """Notes the most of this step of `_PEAK_STEP` seconds; steps beyond the window go."""
        step = int(now // _PEAK_STEP)
        self._high, self._step_end = len(self.held), (step + 1) * _PEAK_STEP
        self._peaks[step] = self._high
        for old in [known for known in self._peaks if known < step - PEAK_WINDOW / _PEAK_STEP]:
            del self._peaks[old]

    def peak(self) -> int:
        """The most items held at once in the last `PEAK_WINDOW` seconds."""
        oldest = int((perf_counter() - PEAK_WINDOW) // _PEAK_STEP)
        recent = [used for step, used in list(self._peaks.items()) if step >= oldest]
        return max([len(self.held), *recent])


def pool_gauges(labels: PoolLabels, meters: Iterable[PoolMeter], *, idle: int, limit: int | None) -> Iterator[Gauge]:
    """The gauges of one pool over all its loops; ``limit`` is ``None`` where there is none."""
    pool = labels.pool
    meters = list(meters)
    for meter in meters:
        meter.find_leaks()
    held = [entry for meter in meters for entry in list(meter.held.values())]
    yield catalogue.POOL_INFO, (pool, labels.resource, labels.database), 1
    yield catalogue.POOL_CONNECTIONS, (pool, "idle"), max(idle, 0)
    yield catalogue.POOL_CONNECTIONS, (pool, "used"), len(held)
    if limit is not None:
        yield catalogue.POOL_CONNECTIONS_MAX, (pool,), limit
    yield catalogue.POOL_CONNECTIONS_PEAK, (pool,), sum(meter.peak() for meter in meters)
    yield catalogue.POOL_PENDING_REQUESTS, (pool,), sum(meter.waiting for meter in meters)
    now = perf_counter()
    yield catalogue.POOL_OLDEST_CHECKOUT, (pool,), max((now - since for since, _, _ in held), default=0.0)
    for _, task, _ in held:
        yield catalogue.POOL_CHECKED_OUT, (task.queue_name, pool), 1


def database_label(host: object, port: object, database: object) -> str:
    """``host:port/database`` as far as it is known; never a user's name, let alone a password."""
    server = f"{host or 'local'}:{port}" if port else str(host or "local")
    return f"{server}/{database}" if database else server
