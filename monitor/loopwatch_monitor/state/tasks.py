"""A bounded table by task id that joins the events of a task, and counts them.

Only `task-sent` names the queue, and only `task-sent` and `task-received` the task; the later events carry nothing but
the id. A task that was never seen before counts under ``unknown``: never a guess. When the table is full its oldest
entry goes, and is counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch_monitor.intake.events import (
    TaskEvent,
    TaskFailed,
    TaskReceived,
    TaskRejected,
    TaskRetried,
    TaskRevoked,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
)
from loopwatch_monitor.state.labels import MAX_LENGTH, cut
from loopwatch_monitor.state.ledger import Ledger, Now
from loopwatch_monitor.state.queues import Queues
from loopwatch_monitor.state.series import UNKNOWN, Row, TaskSeries, exception_class

__all__ = ["MAX_TASKS", "Tasks"]

MAX_TASKS = 500_000
MAX_TEXTS = 10_000
"""Names of tasks and queues that are kept once, not once a task."""
GENERIC = "generic"
"""What celery-exporter calls a host that is not told apart."""


class Task(msgspec.Struct, gc=False):
    """What is remembered of a task. ``sent``: its `task-sent` came; ``waits_since``: Unix time by the sender's clock,
    0 once its wait is known; ``queued``: when it came, by the monitor's monotonic clock, while it is not started. The
    garbage collector, which stops everything, need not look at half a million of them."""

    name: str = ""
    queue: str = ""
    sent: bool = False
    waits_since: float = 0.0
    queued: float | None = None


_NEVER_SEEN = Task()


class Tasks:
    """The table.

    Args:
        series: where the events are counted.
        ledger: where evictions are counted.
        queue_of_worker: the one queue that a worker is known to consume, if it is one.
        queues: where tasks wait.
        default_queue: for a task that was sent without queue, exchange and routing key: Celery's default queue.
        generic_sender, generic_worker: whether the series tell no senders, and no workers, apart.
        limit: the most tasks that are remembered at once.
    """

    def __init__(
        self,
        *,
        series: TaskSeries,
        ledger: Ledger,
        queue_of_worker: Callable[[str], str | None],
        queues: Queues,
        default_queue: str = "celery",
        generic_sender: bool = False,
        generic_worker: bool = False,
        limit: int = MAX_TASKS,
    ) -> None:
        self._series = series
        self._ledger = ledger
        self._queue_of_worker = queue_of_worker
        self._queues = queues
        self._sender = GENERIC if generic_sender else ""
        self._worker = GENERIC if generic_worker else ""
        self._default_queue = default_queue
        self.limit = limit
        # Ordered by a linked list: taking the oldest entry out of a plain dict scans all that were taken before it.
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._texts: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def awaits_sent(self, event: TaskEvent) -> bool:
        """Whether an event should wait for its task's `task-sent`: not where nobody sends these events and the queue
        is known without them."""
        task = self._tasks.get(event.uuid)
        if task is not None and task.sent:
            return False
        return bool(self._ledger.events[TaskSent.kind]) or not self._queue_of_worker(event.hostname)

    def sent(self, event: TaskSent, now: Now) -> None:
        """Remembers name, queue and time. A retry is sent again, and waits again."""
        task = self._remember(event.uuid, event.name)
        if task.sent:
            # Its old self may still stand in a queue's line.
            task.queued = None
            task = self._tasks[event.uuid] = Task(task.name)
        queue = cut(self._queue_sent_to(event))
        task.queue = queue = self._texts.get(queue) or self._keep(queue)
        task.sent, task.waits_since = True, event.timestamp
        self._series.count(catalogue.TASK_SENT, task.name or UNKNOWN, self._sender or event.hostname, queue or UNKNOWN)
        line = self._queues.get(queue)
        if line is not None and event.eta is None:
            task.queued = now.monotonic
            line.waiting.append(task)

    def received(self, event: TaskReceived) -> None:
        """Remembers the name."""
        self._count(catalogue.TASK_RECEIVED, self._remember(event.uuid, event.name), event.hostname)

    def started(self, event: TaskStarted) -> None:
        """Observes the wait (told by two hosts' clocks, so less than nothing reads as nothing)."""
        task = self._tasks.get(event.uuid, _NEVER_SEEN)
        row = self._count(catalogue.TASK_STARTED, task, event.hostname)
        task.queued = None
        if task.waits_since:
            if row is not None:
                self._series.waited(row, max(event.timestamp - task.waits_since, 0.0))
            task.waits_since = 0.0

    def succeeded(self, event: TaskSucceeded) -> None:
        """The task is over."""
        row = self._count(catalogue.TASK_SUCCEEDED, self._forget(event.uuid), event.hostname)
        if row is not None and event.runtime is not None:
            self._series.ran(row, max(event.runtime, 0.0))

    def failed(self, event: TaskFailed) -> tuple[str, str]:
        """The task is over; returns its name and queue."""
        name, queue = self._about(self._forget(event.uuid), event.hostname)
        self._series.fail(name, self._worker or event.hostname, queue, exception_class(event.exception))
        return name, queue

    def retried(self, event: TaskRetried) -> tuple[str, str]:
        """The task will be sent again; returns its name and queue."""
        task = self._tasks.get(event.uuid, _NEVER_SEEN)
        self._count(catalogue.TASK_RETRIED, task, event.hostname)
        return self._about(task, event.hostname)

    def revoked(self, event: TaskRevoked) -> None:
        """The task is over."""
        self._count(catalogue.TASK_REVOKED, self._forget(event.uuid), event.hostname)

    def rejected(self, event: TaskRejected) -> None:
        """The task is over, unless it goes back into its queue."""
        task = self._tasks.get(event.uuid, _NEVER_SEEN) if event.requeue else self._forget(event.uuid)
        self._count(catalogue.TASK_REJECTED, task, event.hostname)

    def _remember(self, uuid: str, name: str | None) -> Task:
        task = self._tasks.get(uuid)
        if task is None:
            if len(self._tasks) >= self.limit:
                self._tasks.popitem(last=False)[1].queued = None
                self._ledger.evictions["tasks"] += 1
            task = self._tasks[uuid] = Task()
        if name:
            # Half a million tasks have a few hundred names.
            name = name if len(name) <= MAX_LENGTH else cut(name)
            task.name = self._texts.get(name) or self._keep(name)
        return task

    def _keep(self, text: str) -> str:
        """Not `sys.intern`, which on Python 3.12 keeps for ever whatever names anybody makes up."""
        if len(self._texts) >= MAX_TEXTS:
            self._texts.clear()
        self._texts[text] = text
        return text

    def _forget(self, uuid: str) -> Task:
        task = self._tasks.pop(uuid, _NEVER_SEEN)
        task.queued = None
        return task

    def _count(self, metric: Metric, task: Task, hostname: str) -> Row | None:
        # `_about`, without the call: this is done for every event.
        queue = self._queue_of_worker(hostname) or task.queue or UNKNOWN
        return self._series.count(metric, task.name or UNKNOWN, self._worker or hostname, queue)

    def _about(self, task: Task, hostname: str) -> tuple[str, str]:
        """Name and queue. What a worker says of its only queue is surer than where the task was sent to."""
        return task.name or UNKNOWN, self._queue_of_worker(hostname) or task.queue or UNKNOWN

    def _queue_sent_to(self, event: TaskSent) -> str:
        if event.queue:
            return event.queue
        if event.exchange:
            return ""
        # AMQP's default exchange routes by the queue's name.
        return event.routing_key or self._default_queue
