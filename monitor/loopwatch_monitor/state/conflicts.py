"""Loop conflicts found in the errors of `task-failed` and `task-retried` events: for applications without the library.

A node that sends snapshots counts its conflicts itself, so its events are not asked. A node that has only just been
seen may still send its first snapshot: its conflicts are held until it has had the time to, and are then counted or,
the snapshot having come, forgotten. So one conflict is counted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from loopwatch.conflicts import Conflict, classify
from loopwatch.telemetry import catalogue
from loopwatch_monitor.intake.events import TaskFailed, TaskRetried
from loopwatch_monitor.state.labels import Labels
from loopwatch_monitor.state.ledger import Ledger, Now

__all__ = ["HOLD_SECONDS", "EventConflicts", "shorten"]

HOLD_SECONDS = 15.0
"""Three intervals of a reporter's default of 5 seconds."""
MAX_ROWS = 10_000
MAX_TEXT = 50_000
"""Characters of an error that are searched, at its beginning and at its end (a traceback ends with its cause)."""

_Key = tuple[str, str, str, str, str, str]
"""The values of `catalogue.LOOP_CONFLICTS`' labels."""


@dataclass(slots=True)
class _Held:
    """Conflicts of a node that may still send a snapshot, until ``deadline`` (monotonic)."""

    deadline: float
    last: float = 0.0
    counts: Counter[_Key] = field(default_factory=Counter)


@dataclass(slots=True)
class _Row:
    text: str
    created: float
    count: int = 0


class EventConflicts:
    """Conflicts by label set, and when the last one of each host was.

    Args:
        labels: renders label sets.
        ledger: where facts that found no room are counted.
        reports_itself: whether a node sends snapshots.
        limit: the most label sets, counted and held.
    """

    def __init__(
        self, *, labels: Labels, ledger: Ledger, reports_itself: Callable[[str], bool], limit: int = MAX_ROWS
    ) -> None:
        self._labels = labels
        self._ledger = ledger
        self._reports_itself = reports_itself
        self.limit = limit
        self._rows: dict[_Key, _Row] = {}
        self._held: dict[str, _Held] = {}
        self._held_rows = 0
        self.last: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._rows) + self._held_rows

    def note(self, event: TaskFailed | TaskRetried, name: str, queue: str, first_seen: float, now: Now) -> None:
        """Looks for a conflict in an event. ``first_seen``: when its node was, by the monitor's monotonic clock."""
        hostname = event.hostname
        if self._reports_itself(hostname):
            return
        conflict = _conflict_in(event)
        if conflict is None:
            return
        key = (hostname, queue, name, conflict.resource, conflict.kind, "event")
        deadline = first_seen + HOLD_SECONDS
        if now.monotonic >= deadline:
            self._count(key, 1, now.wall)
            return
        held = self._held.setdefault(hostname, _Held(deadline))
        if key not in held.counts and not self._admit():
            return
        self._held_rows += key not in held.counts
        held.counts[key] += 1
        held.last = now.wall

    def tick(self, now: Now) -> None:
        """Decides about what was held long enough."""
        for hostname, held in list(self._held.items()):
            reports_itself = self._reports_itself(hostname)
            if not reports_itself and now.monotonic < held.deadline:
                continue
            self._release(hostname)
            if not reports_itself:
                for key, amount in held.counts.items():
                    self._count(key, amount, held.last)

    def drop(self, hostnames: Collection[str]) -> None:
        """Forgets these hosts."""
        for hostname in hostnames:
            self.last.pop(hostname, None)
            self._release(hostname)
        for key in [key for key in self._rows if key[0] in hostnames]:
            del self._rows[key]

    def samples(self) -> Iterator[tuple[str, int]]:
        """Label text and value of each series of `catalogue.LOOP_CONFLICTS` with the source ``event``."""
        return ((row.text, row.count) for row in [*self._rows.values()])

    def created(self) -> Iterator[tuple[str, float]]:
        """Label text and birth, Unix time, of the same series."""
        return ((row.text, row.created) for row in self._rows.values())

    def _release(self, hostname: str) -> None:
        held = self._held.pop(hostname, None)
        if held is not None:
            self._held_rows -= len(held.counts)

    def _count(self, key: _Key, amount: int, wall: float) -> None:
        self.last[key[0]] = wall
        row = self._rows.get(key)
        if row is None:
            if not self._admit():
                return
            row = self._rows[key] = _Row(self._labels.text(catalogue.LOOP_CONFLICTS.labels, key), wall)
        row.count += amount

    def _admit(self) -> bool:
        if len(self) < self.limit:
            return True
        self._ledger.dropped[catalogue.LOOP_CONFLICTS.name] += 1
        return False


def shorten(event: TaskFailed | TaskRetried) -> None:
    """Leaves of its texts what is searched: they may be megabytes."""
    event.exception = _searched(event.exception) if event.exception else None
    event.traceback = _searched(event.traceback) if event.traceback else None


def _conflict_in(event: TaskFailed | TaskRetried) -> Conflict | None:
    # The traceback first: it holds the whole chain (a conflict behind a ConnectionError shows nowhere else) and the
    # file names that tell the resource.
    for text in (event.traceback, event.exception):
        conflict = classify(_searched(text)) if text else None
        if conflict is not None:
            return conflict
    return None


def _searched(text: str) -> str:
    return text if len(text) <= 2 * MAX_TEXT else f"{text[:MAX_TEXT]}\n{text[-MAX_TEXT:]}"
