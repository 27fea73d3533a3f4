"""Everything the monitor knows, in one object that takes events in; `samples.py` reads the series out of it."""

from __future__ import annotations

from collections.abc import Callable

from loopwatch.telemetry import catalogue
from loopwatch_monitor.intake import decode
from loopwatch_monitor.state.conflicts import EventConflicts
from loopwatch_monitor.state.early import Early
from loopwatch_monitor.state.labels import Labels, cut
from loopwatch_monitor.state.ledger import Ledger, Now
from loopwatch_monitor.state.processes import Processes
from loopwatch_monitor.state.series import TaskSeries
from loopwatch_monitor.state.tasks import MAX_TASKS, Tasks
from loopwatch_monitor.state.totals import Totals
from loopwatch_monitor.state.workers import Host, Workers

__all__ = ["Fleet"]


class Fleet:
    """The monitor's state. Not thread-safe: `loopwatch_monitor.hub` holds the lock.

    Args:
        labels: renders label sets.
        worker_timeout, purge: seconds of silence until a worker is down, and until it is forgotten; 0 = never.
        runtime_buckets, wait_buckets: upper bounds in seconds.
        default_queue: Celery's default queue.
        on_duplicate: told a node name under which two nodes live.
        on_conflict: told a loop conflict that was reported whole.
        max_tasks: the most tasks that are remembered at once.
    """

    def __init__(
        self,
        *,
        labels: Labels,
        worker_timeout: float = 300.0,
        purge: float = 600.0,
        runtime_buckets: tuple[float, ...] = catalogue.TASK_RUNTIME.buckets,
        wait_buckets: tuple[float, ...] = catalogue.TASK_QUEUE_WAIT.buckets,
        default_queue: str = "celery",
        on_duplicate: Callable[[str], None] = lambda hostname: None,
        on_conflict: Callable[[decode.ConflictReport], None] = lambda report: None,
        max_tasks: int = MAX_TASKS,
    ) -> None:
        self.labels = labels
        self.ledger = ledger = Ledger()
        ledger.malformed.update(dict.fromkeys(decode.REASONS, 0))
        ledger.evictions.update({"tasks": 0})
        self.workers = Workers(timeout=worker_timeout, purge=purge)
        self.totals = Totals(labels=labels, ledger=ledger)
        self.processes = Processes(
            labels=labels, ledger=ledger, totals=self.totals, purge=purge, on_duplicate=on_duplicate
        )
        self.conflicts = EventConflicts(labels=labels, ledger=ledger, reports_itself=self.processes.reports_itself)
        self.series = TaskSeries(
            labels=labels, ledger=ledger, runtime_buckets=runtime_buckets, wait_buckets=wait_buckets
        )
        self.tasks = Tasks(
            series=self.series,
            ledger=ledger,
            queue_of_worker=self.processes.only_queue,
            default_queue=default_queue,
            limit=max_tasks,
        )
        self.early = Early()
        self._on_conflict = on_conflict
        tasks = self.tasks
        self._task_folds: dict[type[decode.Event], Callable[..., tuple[str, str] | None]] = {
            decode.TaskReceived: tasks.received,
            decode.TaskStarted: tasks.started,
            decode.TaskSucceeded: tasks.succeeded,
            decode.TaskFailed: tasks.failed,
            decode.TaskRetried: tasks.retried,
            decode.TaskRevoked: tasks.revoked,
            decode.TaskRejected: tasks.rejected,
        }

    def fold(self, event: decode.AnyEvent | decode.OtherEvent, now: Now) -> None:
        """Takes in one event."""
        self.ledger.events[event.kind] += 1
        self.ledger.last_event = now.wall
        if isinstance(event, decode.OtherEvent):
            return
        self.ledger.lag = max(now.wall - event.timestamp, 0.0)
        event.hostname = cut(event.hostname)
        if isinstance(event, decode.Snapshot):
            self.processes.fold(event, now)
        elif isinstance(event, decode.ConflictReport):
            self._on_conflict(event)
        elif isinstance(event, decode.TaskSent):
            self._fold_sent(event, now)
        elif not isinstance(event, decode.TaskEvent):
            self._fold_worker(event, now)
        elif self._known(self.workers.worked(event.hostname, now)):
            if self.tasks.awaits_sent(event):
                self.early.hold(event, now)
                self._fold_due(now)
            else:
                self._fold_task(event, now)

    def tick(self, now: Now) -> None:
        """What time alone changes; to be called about once a second."""
        self._fold_due(now)
        purged = self.workers.tick(now)
        if purged:
            self.series.drop(purged)
            self.conflicts.drop(purged)
        self.processes.tick(now)
        self.conflicts.tick(now)

    def _fold_due(self, now: Now) -> None:
        for event in self.early.due(now):
            self._fold_task(event, now)

    def _fold_worker(self, event: decode.AnyEvent, now: Now) -> None:
        if isinstance(event, decode.WorkerOffline):
            self._known(self.workers.left(event.hostname, now))
        elif isinstance(event, (decode.WorkerOnline, decode.WorkerHeartbeat)):
            self._known(self.workers.beat(event.hostname, event.active, now))

    def _fold_sent(self, event: decode.TaskSent, now: Now) -> None:
        if self._known(self.workers.seen(event.hostname, now)):
            self.tasks.sent(event)
        for early in self.early.release(event.uuid):
            self._fold_task(early, now)

    def _fold_task(self, event: decode.TaskEvent, now: Now) -> None:
        about = self._task_folds[type(event)](event)
        host = self.workers.hosts.get(event.hostname)
        if about is not None and host is not None and isinstance(event, (decode.TaskFailed, decode.TaskRetried)):
            self.conflicts.note(event, *about, host.first_seen, now)

    def _known(self, host: Host | None) -> bool:
        if host is None:
            self.ledger.dropped[catalogue.WORKER_UP.name] += 1
        return host is not None
