"""Events that overtook their task's `task-sent`: a client publishes the task first and the event after it, so that an
idle worker's events may be here sooner. They wait a moment, as only `task-sent` names the queue and starts the wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from loopwatch_monitor.intake.events import TaskEvent
from loopwatch_monitor.state.ledger import Now

__all__ = ["PATIENCE_SECONDS", "Early"]

PATIENCE_SECONDS = 2.0
MAX_EVENTS = 50_000


@dataclass(slots=True)
class _Waiting:
    deadline: float
    events: list[TaskEvent] = field(default_factory=list)


class Early:
    """Events by task id, in order. ``limit``: the most events; beyond it the oldest need not wait any longer."""

    def __init__(self, *, limit: int = MAX_EVENTS) -> None:
        self.limit = limit
        self._events = 0
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()

    def __len__(self) -> int:
        return self._events

    def hold(self, event: TaskEvent, now: Now) -> None:
        """Keeps an event."""
        waiting = self._waiting.get(event.uuid)
        if waiting is None:
            waiting = self._waiting[event.uuid] = _Waiting(now.monotonic + PATIENCE_SECONDS)
        waiting.events.append(event)
        self._events += 1

    def release(self, uuid: str) -> list[TaskEvent]:
        """The events of a task whose `task-sent` has come."""
        waiting = self._waiting.pop(uuid, None)
        if waiting is None:
            return []
        self._events -= len(waiting.events)
        return waiting.events

    def due(self, now: Now) -> Iterator[TaskEvent]:
        """The events that have waited long enough, or for which there is no room."""
        while self._waiting:
            uuid, waiting = next(iter(self._waiting.items()))
            if now.monotonic < waiting.deadline and self._events <= self.limit:
                return
            yield from self.release(uuid)
