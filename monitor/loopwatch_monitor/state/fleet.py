"""Everything the monitor knows, in one object that takes events in; `samples.py` reads the series out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from loopwatch.telemetry import catalogue
from loopwatch_monitor.intake import events
from loopwatch_monitor.intake.batch import LOST_REASONS
from loopwatch_monitor.intake.decode import REASONS
from loopwatch_monitor.state.conflicts import EventConflicts, shorten
from loopwatch_monitor.state.early import Early
from loopwatch_monitor.state.labels import MAX_LENGTH, Labels, cut
from loopwatch_monitor.state.ledger import Ledger, Now
from loopwatch_monitor.state.polls import QUEUES, WORKERS, Polls
from loopwatch_monitor.state.processes import Processes
from loopwatch_monitor.state.queues import Depth, Queues
from loopwatch_monitor.state.series import FAMILIES, TaskSeries
from loopwatch_monitor.state.tasks import MAX_TASKS, Tasks
from loopwatch_monitor.state.totals import Totals
from loopwatch_monitor.state.workers import Answer, Host, Workers

__all__ = ["Fleet"]

_BOUNDED = tuple(
    metric.name
    for metric in catalogue.METRICS
    if metric.origin == "process"
    or (metric in FAMILIES and metric.kind == "counter")
    or metric in (catalogue.WORKER_UP, catalogue.WORKER_INFO, catalogue.WORKER_QUEUE, catalogue.QUEUE_LENGTH)
)
"""The families under which facts that find no room are counted. Task histograms share the rows of the counters."""


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
        queues: queues that are known from the start.
        slots: whether the slots of a node are told apart.
        generic_sender, generic_worker: whether task series tell no senders, and no workers, apart.
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
        on_conflict: Callable[[events.ConflictReport], None] = lambda report: None,
        max_tasks: int = MAX_TASKS,
        queues: tuple[str, ...] = (),
        slots: bool = True,
        generic_sender: bool = False,
        generic_worker: bool = False,
    ) -> None:
        self.labels = labels
        self.ledger = ledger = Ledger()
        # From the start: `increase` of a series that is born at 1 is 0, and a first drop may be the only one.
        ledger.events.update(dict.fromkeys(events.KINDS, 0))
        ledger.dropped.update(dict.fromkeys(_BOUNDED, 0))
        ledger.malformed.update(dict.fromkeys(REASONS, 0))
        ledger.lost.update(dict.fromkeys(LOST_REASONS, 0))
        ledger.evictions.update({"tasks": 0})
        self.workers = Workers(timeout=worker_timeout, purge=purge)
        self.totals = Totals(labels=labels, ledger=ledger)
        self.processes = Processes(
            labels=labels, ledger=ledger, totals=self.totals, purge=purge, on_duplicate=on_duplicate, slots=slots
        )
        self.queues = Queues(queues, ledger=ledger)
        self.polls = Polls()
        self._only_queues: dict[str, str] = {}
        self.conflicts = EventConflicts(labels=labels, ledger=ledger, reports_itself=self.processes.reports_itself)
        self.series = TaskSeries(
            labels=labels, ledger=ledger, runtime_buckets=runtime_buckets, wait_buckets=wait_buckets
        )
        self.tasks = Tasks(
            series=self.series,
            ledger=ledger,
            queue_of_worker=self._only_queues.get,
            queues=self.queues,
            default_queue=default_queue,
            generic_sender=generic_sender,
            generic_worker=generic_worker,
            limit=max_tasks,
        )
        self.early = Early()
        self._on_conflict = on_conflict
        tasks = self.tasks
        self._folds: dict[type, Callable[[Any, Now], object]] = {
            events.Snapshot: self._fold_snapshot,
            events.WorkerOnline: self._fold_beat,
            events.WorkerHeartbeat: self._fold_beat,
            events.WorkerOffline: lambda event, now: self._known(self.workers.left(event.hostname, now)),
            events.TaskSent: self._fold_sent,
            events.ConflictReport: lambda event, now: self._on_conflict(event),
        }
        self._task_folds: dict[type, Callable[[Any], tuple[str, str] | None]] = {
            events.TaskReceived: tasks.received,
            events.TaskStarted: tasks.started,
            events.TaskSucceeded: tasks.succeeded,
            events.TaskFailed: tasks.failed,
            events.TaskRetried: tasks.retried,
            events.TaskRevoked: tasks.revoked,
            events.TaskRejected: tasks.rejected,
        }
        for kind in self._task_folds:
            self._folds[kind] = self._fold_worked

    def fold(self, event: events.AnyEvent | events.OtherEvent, now: Now) -> None:
        """Takes in one event."""
        ledger = self.ledger
        ledger.events[event.kind] += 1
        ledger.last_event = now.wall
        fold = self._folds.get(type(event))
        if fold is None or isinstance(event, events.OtherEvent):
            return
        ledger.lag = max(now.wall - event.timestamp, 0.0)
        if len(event.hostname) > MAX_LENGTH:
            event.hostname = cut(event.hostname)
        fold(event, now)

    def excuse(self, seconds: float, now: Now) -> None:
        """So long nobody could be heard: that time is no silence."""
        self.workers.excuse(seconds, now)
        self.processes.excuse(seconds, now)

    def tick(self, now: Now, *, purge: bool = True) -> None:
        """What time alone changes; to be called about once a second. ``purge``: whether who was silent for long is
        forgotten."""
        self._fold_due(now)
        purged = self.workers.tick(now, purge=purge)
        if purged:
            self.series.drop(purged)
            self.conflicts.drop(purged)
        for hostname in purged | self.processes.tick(now, purge=purge):
            self._note_queues(hostname)
        self.conflicts.tick(now)
        self.queues.tick()
        self.polls.tick(now)

    def measured(self, depths: Mapping[str, Depth], now: Now) -> None:
        """The broker said how long the queues are."""
        self.polls.answered(QUEUES, now)
        self.queues.measured(depths)
        idle = self._idle_queues()
        for name, depth in depths.items():
            queue = self.queues.known.get(name)
            if queue is not None and not depth.length and name in idle:
                queue.settle(now)

    def answered(self, answers: Mapping[str, Answer], now: Now) -> None:
        """Workers said what they consume."""
        self.polls.answered(WORKERS, now)
        for hostname, answer in answers.items():
            if self._known(self.workers.answered(hostname, answer, now)):
                self._note_queues(hostname)

    def consumption(self) -> Iterator[tuple[str, tuple[str, ...], int]]:
        """Every worker that is up: its name, its queues, its processes or threads. What it reports by itself is newer
        than what it answered."""
        hosts, nodes = self.workers.hosts, self.processes.nodes
        for hostname in hosts.keys() | nodes.keys():
            host, node = hosts.get(hostname), nodes.get(hostname)
            speaks = node is not None and bool(node.shown)
            if not (host.up if host is not None and host.worker else speaks):
                continue
            if node is not None and speaks:
                if node.info.kind == "celery":
                    yield hostname, tuple(node.info.queues), node.info.slots
            elif host is not None:
                yield hostname, host.queues, host.processes

    def _idle_queues(self) -> set[str]:
        """Queues that are consumed by workers that all have nothing to do."""
        idle, busy = set[str](), set[str]()
        for hostname, queues, _ in self.consumption():
            host = self.workers.hosts.get(hostname)
            rests = host is not None and host.processed is not None and not host.active
            (idle if rests else busy).update(queues)
        return idle - busy

    def _note_queues(self, hostname: str) -> None:
        """Learns a worker's queues, or forgets a worker that is gone. Asked of each event, so it stands ready."""
        node, host = self.processes.nodes.get(hostname), self.workers.hosts.get(hostname)
        told = host.queues if host is not None else ()
        queues = tuple(node.info.queues) if node is not None else told
        self.queues.learn(queues)
        if len(queues) == 1:
            self._only_queues[hostname] = queues[0]
        else:
            self._only_queues.pop(hostname, None)

    def _fold_snapshot(self, event: events.Snapshot, now: Now) -> None:
        self.processes.fold(event, now)
        self._note_queues(event.hostname)

    def _fold_due(self, now: Now) -> None:
        for event in self.early.due(now):
            self._fold_task(event, now)

    def _fold_beat(self, event: events.WorkerOnline | events.WorkerHeartbeat, now: Now) -> None:
        self._known(self.workers.beat(event.hostname, event.active, event.processed, now))

    def _fold_sent(self, event: events.TaskSent, now: Now) -> None:
        if self._known(self.workers.seen(event.hostname, now)):
            self.tasks.sent(event, now)
        for early in self.early.release(event.uuid):
            self._fold_task(early, now)

    def _fold_worked(self, event: events.TaskEvent, now: Now) -> None:
        if not self._known(self.workers.worked(event.hostname, now)):
            return
        if self.tasks.awaits_sent(event):
            _slim(event)
            self.early.hold(event, now)
            self._fold_due(now)
        else:
            self._fold_task(event, now)

    def _fold_task(self, event: events.TaskEvent, now: Now) -> None:
        about = self._task_folds[type(event)](event)
        if about is None:
            return
        host = self.workers.hosts.get(event.hostname)
        if host is not None and isinstance(event, (events.TaskFailed, events.TaskRetried)):
            self.conflicts.note(event, *about, host.first_seen, now)

    def _known(self, host: Host | None) -> bool:
        if host is None:
            self.ledger.dropped[catalogue.WORKER_UP.name] += 1
        return host is not None


def _slim(event: events.TaskEvent) -> None:
    """Leaves what will be used: an event may be of megabytes, and many may wait."""
    if isinstance(event, events.TaskReceived):
        event.name = cut(event.name or "") or None
    elif isinstance(event, (events.TaskFailed, events.TaskRetried)):
        shorten(event)
