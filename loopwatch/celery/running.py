"""The tasks that this process is running: for whom facts are counted, and how long the oldest has been running."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loopwatch.celery.identity import Queues
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import Gauge, TaskContext, current_task

__all__ = ["RunningTasks"]


@dataclass(slots=True)
class _Run:
    queue: str
    started: float
    outside: TaskContext


class RunningTasks:
    """Told when a task begins and ends, in its own thread. Thread-safe: each entry is its own thread's."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        # By the request object, which lives from prerun to postrun; a task that is retried eagerly nests in itself.
        self._runs: dict[int, _Run] = {}
        self._seen: set[str] = set()

    def begin(self, task: Any, task_id: str) -> None:
        """Makes it the current task of this thread's context."""
        request = task.request_stack.top
        outside = current_task.get()
        delivery = getattr(request, "delivery_info", None) or {}
        # A task that another one calls eagerly has no message of its own.
        queue = outside.queue_name if delivery.get("is_eager") else self._queues.of(delivery)
        self._runs[id(request)] = _Run(queue, time.monotonic(), outside)
        self._seen.add(queue)
        current_task.set(TaskContext(queue, task.name, task_id))

    def end(self, task: Any) -> None:
        """Makes the task that was current before current again."""
        run = self._runs.pop(id(task.request_stack.top), None)
        if run is not None:
            current_task.set(run.outside)

    def gauges(self) -> Iterator[Gauge]:
        """How long each queue's oldest task has been running; 0 for a queue whose tasks have all ended."""
        now = time.monotonic()
        oldest = dict.fromkeys(tuple(self._seen), 0.0)
        for run in tuple(self._runs.values()):
            oldest[run.queue] = max(oldest.get(run.queue, 0.0), now - run.started)
        for queue, seconds in oldest.items():
            yield catalogue.TASK_OLDEST_RUNNING, (queue,), seconds
