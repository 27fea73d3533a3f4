"""Which hosts there are, and which workers are up: by our own receive clock, under the full node name.

A host is whoever sends events: a worker, or a client that sends tasks (``gen<pid>@host``), whose series must end some
day as well. Two workers on one machine are two (`a@h`, `b@h`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loopwatch_monitor.state.ledger import Now

__all__ = ["Answer", "Host", "Workers"]

MAX_HOSTS = 5_000


SILENT_GROWTHS, SILENT_SECONDS = 3, 30.0
"""How often a worker must say that it has done more, and for how long, without a task event in between, until it is
sure that it sends none: an outage of the monitor's hides the events of one growth, not of three."""


@dataclass(slots=True)
class Answer:
    """What a worker said when it was asked: the queues that it consumes, its processes (or threads), and how many
    tasks it began since its start. None = it did not say."""

    queues: tuple[str, ...] | None = None
    processes: int | None = None
    processed: int | None = None


@dataclass(slots=True)
class Host:
    """One sender of events. Times are monotonic.

    Attributes:
        first_seen, last_seen: its first and its last sign of life.
        worker: it has sent what only workers send.
        up, left: whether it is believed to live; whether it said goodbye.
        active, processed: tasks that it works on and tasks that it began, by its heartbeats.
        task_events: it has sent events of tasks.
        growths, growing_since: how often ``processed`` has grown since the last of them, and when it first did.
        queues, processes: what it answered.
    """

    first_seen: float
    last_seen: float
    worker: bool = False
    up: bool = False
    left: bool = False
    active: int = 0
    processed: int | None = None
    task_events: bool = False
    growths: int = 0
    growing_since: float = 0.0
    queues: tuple[str, ...] = ()
    processes: int = 0

    @property
    def lost(self) -> bool:
        """Whether it vanished without a goodbye."""
        return self.worker and not self.up and not self.left

    def events_enabled(self, now: Now) -> bool | None:
        """Whether it sends events of its tasks; None while it has done nothing that would tell."""
        if self.growths >= SILENT_GROWTHS and now.monotonic - self.growing_since >= SILENT_SECONDS:
            return False
        return True if self.task_events else None

    def done(self, processed: int | None, now: Now) -> None:
        """It says how many tasks it began since its start."""
        if processed is None:
            return
        if self.processed is not None and processed > self.processed:
            if not self.growths:
                self.growing_since = now.monotonic
            self.growths += 1
        self.processed = processed


class Workers:
    """Every sender of events.

    Args:
        timeout: seconds of silence after which a worker is down; 0 = never.
        purge: seconds of silence after which a host is forgotten; 0 = never.
        limit: the most hosts. Further ones are refused rather than old ones evicted, so that a counter that is
            exposed does not begin anew.
    """

    def __init__(self, *, timeout: float, purge: float, limit: int = MAX_HOSTS) -> None:
        self._timeout = timeout
        self._purge = purge
        self.limit = limit
        self.hosts: dict[str, Host] = {}

    def seen(self, hostname: str, now: Now) -> Host | None:
        """Notes a sign of life and gives the host, or ``None`` when the table is full."""
        host = self.hosts.get(hostname)
        if host is None:
            if len(self.hosts) >= self.limit:
                return None
            host = self.hosts[hostname] = Host(now.monotonic, now.monotonic)
        host.last_seen = now.monotonic
        return host

    def worked(self, hostname: str, now: Now) -> Host | None:
        """A sign of life that only a worker gives. One that has said goodbye may still have batched events under way:
        only a heartbeat (`beat`) brings it back."""
        host = self.hosts.get(hostname)
        if host is None:
            host = self.seen(hostname, now)
            if host is None:
                return None
        if not host.up:
            host.worker, host.up = True, not host.left
        if host.growths or not host.task_events:
            host.task_events, host.growths = True, 0
        host.last_seen = now.monotonic
        return host

    def beat(self, hostname: str, active: int | None, processed: int | None, now: Now) -> Host | None:
        """A worker came online or sent a heartbeat."""
        host = self.seen(hostname, now)
        if host is not None:
            host.worker = host.up = True
            host.left = False
            host.active = max(active or 0, 0)
            host.done(processed, now)
        return host

    def answered(self, hostname: str, answer: Answer, now: Now) -> Host | None:
        """A worker answered a question: a sign of life."""
        host = self.seen(hostname, now)
        if host is not None:
            host.worker, host.up = True, not host.left
            host.queues = host.queues if answer.queues is None else answer.queues
            host.processes = host.processes if answer.processes is None else answer.processes
            host.done(answer.processed, now)
        return host

    def left(self, hostname: str, now: Now) -> Host | None:
        """A worker said goodbye."""
        host = self.seen(hostname, now)
        if host is not None:
            host.worker, host.left, host.up, host.active = True, True, False, 0
        return host

    def excuse(self, seconds: float, now: Now) -> None:
        """So long nobody could be heard."""
        for host in self.hosts.values():
            host.last_seen = min(host.last_seen + seconds, now.monotonic)

    def tick(self, now: Now, *, purge: bool = True) -> set[str]:
        """Marks silent workers as down; returns the hosts that were purged."""
        purged = set()
        for hostname, host in self.hosts.items():
            silent = now.monotonic - host.last_seen
            if purge and self._purge and silent >= self._purge:
                purged.add(hostname)
            elif self._timeout and silent >= self._timeout and host.up:
                host.up, host.active = False, 0
        for hostname in purged:
            del self.hosts[hostname]
        return purged

    def workers(self) -> Iterator[tuple[str, Host]]:
        """All workers, up or down."""
        return ((hostname, host) for hostname, host in self.hosts.items() if host.worker)
