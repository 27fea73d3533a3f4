"""The queues: which there are, how long they are by the broker's word, and which tasks wait in them by the events'.

A queue is known from the settings, from `task-sent`, from snapshots and from what workers answer, and stays known: its
figures must fall to 0, not vanish, when its last worker is gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from loopwatch.telemetry import catalogue
from loopwatch_monitor.state.labels import MAX_LENGTH
from loopwatch_monitor.state.ledger import Ledger, Now

__all__ = ["Depth", "Queue", "Queues", "Waiting"]

MAX_QUEUES = 1_000
SETTLE_SECONDS = 600.0
_SOME = 1_000


class Waiting(Protocol):
    """A task in a line. ``queued``: when it came, by the monitor's monotonic clock; None once it waits no longer."""

    queued: float | None


@dataclass(frozen=True, slots=True)
class Depth:
    """What the broker says of a queue. ``consumers``: None where it does not know."""

    length: int
    consumers: int | None = None


@dataclass(slots=True)
class Queue:
    """One queue. ``waiting``: tasks in the order in which they came; those that wait no longer are taken out late."""

    depth: Depth | None = None
    waiting: deque[Waiting] = field(default_factory=deque)
    _tidied: int = field(default=0, init=False)

    def tidy(self) -> None:
        """Takes out tasks that wait no longer: those in front, and all once they may be more than the rest."""
        waiting = self.waiting
        while waiting and waiting[0].queued is None:
            waiting.popleft()
        if len(waiting) > 2 * self._tidied + _SOME:
            self.waiting = deque(task for task in waiting if task.queued is not None)
            self._tidied = len(self.waiting)
        self._tidied = min(self._tidied, len(self.waiting))

    def oldest(self, now: Now) -> float:
        """Seconds that the first task has waited; 0 when there is none."""
        for task in self.waiting:
            if task.queued is not None:
                return max(now.monotonic - task.queued, 0.0)
        return 0.0

    def settle(self, now: Now) -> None:
        """There is nothing in the queue, and nobody works: what came long ago was purged, or lost with its worker."""
        for task in self.waiting:
            if task.queued is not None and now.monotonic - task.queued >= SETTLE_SECONDS:
                task.queued = None


class Queues:
    """All known queues.

    Args:
        names: queues to be known from the start.
        ledger: where queues that found no room are counted.
        limit: the most queues. Further ones are refused.
    """

    def __init__(self, names: Iterable[str] = (), *, ledger: Ledger, limit: int = MAX_QUEUES) -> None:
        self._ledger = ledger
        self.limit = limit
        self.known: dict[str, Queue] = {}
        self.learn(names)

    def __len__(self) -> int:
        return len(self.known)

    def get(self, name: str) -> Queue | None:
        """The queue, known from now on; None when it has no name, one that is too long to be shown, or no room."""
        queue = self.known.get(name)
        if queue is None and 0 < len(name) < MAX_LENGTH:
            if len(self.known) >= self.limit:
                self._ledger.dropped[catalogue.QUEUE_LENGTH.name] += 1
                return None
            queue = self.known[name] = Queue()
        return queue

    def learn(self, names: Iterable[str]) -> None:
        """Notes that these queues exist."""
        for name in names:
            self.get(name)

    def measured(self, depths: Mapping[str, Depth]) -> None:
        """The broker answered."""
        for name, depth in depths.items():
            queue = self.get(name)
            if queue is not None:
                queue.depth = depth

    def tick(self) -> None:
        """Keeps the lines short."""
        for queue in self.known.values():
            queue.tidy()
