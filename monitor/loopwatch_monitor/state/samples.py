"""Reads the series of each metric family out of the state: what a scrape shows, as label texts and values."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.wire import Value
from loopwatch_monitor.state.fleet import Fleet
from loopwatch_monitor.state.labels import cut
from loopwatch_monitor.state.ledger import Now
from loopwatch_monitor.state.processes import Node
from loopwatch_monitor.state.queues import Depth
from loopwatch_monitor.state.series import FAMILIES
from loopwatch_monitor.state.workers import Host

__all__ = ["Sample", "Samples"]

Sample = tuple[str, Value]
"""A series: its label text, and a number or a histogram (per-bucket counts, then the sum)."""
_Series = Iterable[tuple[tuple[str, ...], Value]]


class Samples:
    """The reader of one fleet. ``version``: the monitor's own."""

    def __init__(self, fleet: Fleet, *, version: str) -> None:
        self._fleet = fleet
        self._version = version
        self._readers: dict[Metric, Callable[[Now], _Series]] = {
            catalogue.LOOP_CONFLICT_LAST: self._last_conflicts,
            catalogue.DATABASE_CONNECTIONS_POTENTIAL: lambda now: self._databases(0),
            catalogue.DATABASE_CONNECTIONS_USED: lambda now: self._databases(1),
            catalogue.WORKER_INFO: self._worker_info,
            catalogue.WORKER_QUEUE: self._worker_queues,
            catalogue.WORKER_SLOTS: lambda now: self._of_nodes(lambda node: node.info.slots, workers_only=True),
            catalogue.WORKER_START_TIME: lambda now: self._of_nodes(lambda node: node.info.start_time),
            catalogue.WORKER_SNAPSHOT_AGE: lambda now: self._of_nodes(lambda node: now.monotonic - node.seen),
            catalogue.WORKER_LOST: lambda now: self._of_workers(lambda host: int(host.lost)),
            catalogue.WORKER_EVENTS_ENABLED: self._events_enabled,
            catalogue.WORKER_UP: lambda now: self._of_workers(lambda host: int(host.up)),
            catalogue.WORKER_TASKS_ACTIVE: lambda now: self._of_workers(lambda host: host.active),
            catalogue.QUEUE_LENGTH: lambda now: self._depths(lambda depth: depth.length),
            catalogue.ACTIVE_CONSUMERS: lambda now: self._depths(lambda depth: depth.consumers),
            catalogue.ACTIVE_WORKERS: lambda now: self._consumption(lambda processes: 1),
            catalogue.ACTIVE_PROCESSES: lambda now: self._consumption(lambda processes: processes),
            catalogue.QUEUE_OLDEST_TASK: self._oldest_tasks,
            **self._about_ourselves(),
        }

    def read(self, metric: Metric, now: Now) -> Iterator[Sample]:
        """All series of a family. Events may be folded between two steps; what was handed out does not change."""
        fleet = self._fleet
        if metric in FAMILIES:
            yield from fleet.series.samples(metric)
        elif metric in self._readers:
            yield from [
                (fleet.labels.text(metric.labels, values), value) for values, value in self._readers[metric](now)
            ]
        elif metric.kind == "gauge":
            yield from fleet.processes.samples(metric)
        else:
            yield from fleet.totals.samples(metric)
            if metric is catalogue.LOOP_CONFLICTS:
                yield from fleet.conflicts.samples()

    def created(self, metric: Metric) -> dict[str, float]:
        """When the series of a counter or histogram began to count, Unix time, by label text. What the monitor counts
        of its own work is not there: that began with the monitor."""
        fleet = self._fleet
        if metric in FAMILIES:
            return dict(fleet.series.created(metric))
        born = dict(fleet.totals.created(metric))
        return dict(fleet.conflicts.created()) | born if metric is catalogue.LOOP_CONFLICTS else born

    # ------------------------------------------------------------------------------------------------ nodes
    def _speaking(self, *, workers_only: bool = False) -> Iterator[tuple[str, Node]]:
        """Nodes that did not say goodbye; the silent ones are shown too, as their age tells that they are silent."""
        for hostname, node in self._fleet.processes.nodes.items():
            if not node.stopped and (node.info.kind == "celery" or not workers_only):
                yield hostname, node

    def _of_nodes(self, value: Callable[[Node], float], *, workers_only: bool = False) -> _Series:
        return (((hostname,), value(node)) for hostname, node in self._speaking(workers_only=workers_only))

    def _worker_info(self, now: Now) -> _Series:
        for hostname, node in self._speaking(workers_only=True):
            info = node.info
            queues = ",".join(sorted(set(info.queues)))
            values = (hostname, queues, info.pool_type, info.celery_version, info.loopwatch_version, info.release)
            yield tuple(map(cut, values)), 1

    def _worker_queues(self, now: Now) -> _Series:
        for hostname, node in self._speaking(workers_only=True):
            yield from (((hostname, queue), 1) for queue in sorted({*node.info.queues}))

    def _last_conflicts(self, now: Now) -> _Series:
        last = {hostname: 0.0 for hostname, _ in self._fleet.workers.workers()}
        last |= {hostname: node.last_conflict for hostname, node in self._fleet.processes.nodes.items()}
        for hostname, wall in self._fleet.conflicts.last.items():
            last[hostname] = max(last.get(hostname, 0.0), wall)
        return (((hostname,), wall) for hostname, wall in last.items())

    def _databases(self, place: int) -> _Series:
        return (((database,), both[place]) for database, both in self._fleet.processes.databases().items())

    def _of_workers(self, value: Callable[[Host], float]) -> _Series:
        return (((hostname,), value(host)) for hostname, host in self._fleet.workers.workers())

    def _events_enabled(self, now: Now) -> _Series:
        for hostname, host in self._fleet.workers.workers():
            enabled = host.events_enabled(now)
            if enabled is not None:
                yield (hostname,), int(enabled)

    # ---------------------------------------------------------------------------------------------- queues
    def _depths(self, value: Callable[[Depth], float | None]) -> _Series:
        for name, queue in self._fleet.queues.known.items():
            number = value(queue.depth) if queue.depth is not None else None
            if number is not None:
                yield (name,), number

    def _consumption(self, value: Callable[[int], int]) -> _Series:
        known = self._fleet.queues.known
        # At 0, not gone, once its workers are.
        sums = Counter(dict.fromkeys(known, 0))
        for _, queues, processes in self._fleet.consumption():
            for name in known.keys() & set(queues):
                sums[name] += value(processes)
        return _by(sums)

    def _oldest_tasks(self, now: Now) -> _Series:
        """Of queues whose workers tell what they start: of the others nobody knows what waits."""
        hosts, silent = self._fleet.workers.hosts, set[str]()
        for hostname, queues, _ in self._fleet.consumption():
            host = hosts.get(hostname)
            if host is not None and host.events_enabled(now) is False:
                silent.update(queues)
        for name, queue in self._fleet.queues.known.items():
            if name not in silent:
                yield (name,), queue.oldest(now)

    # -------------------------------------------------------------------------------------------- ourselves
    def _about_ourselves(self) -> dict[Metric, Callable[[Now], _Series]]:
        ledger = self._fleet.ledger
        build = (self._version, platform.python_version())
        return {
            catalogue.MONITOR_EVENTS: lambda now: _by(ledger.events),
            catalogue.MONITOR_EVENTS_MALFORMED: lambda now: _by(ledger.malformed),
            catalogue.MONITOR_EVENTS_LOST: lambda now: _by(ledger.lost),
            catalogue.MONITOR_LAG: lambda now: [((), ledger.lag)],
            catalogue.MONITOR_LAST_EVENT: lambda now: [((), ledger.last_event)],
            catalogue.MONITOR_EVICTIONS: lambda now: _by(ledger.evictions),
            catalogue.MONITOR_TABLE_ENTRIES: lambda now: _by(
                {table: entries for table, (entries, _) in self.tables().items()}
            ),
            catalogue.MONITOR_TABLE_LIMIT: lambda now: _by(
                {table: limit for table, (_, limit) in self.tables().items()}
            ),
            catalogue.MONITOR_SERIES_DROPPED: lambda now: _by(ledger.dropped),
            catalogue.MONITOR_SNAPSHOTS: lambda now: [((), ledger.snapshots)],
            catalogue.MONITOR_SNAPSHOT_GAPS: lambda now: [((), ledger.gaps)],
            catalogue.MONITOR_DUPLICATE_NODENAMES: lambda now: [((), ledger.duplicates)],
            catalogue.MONITOR_POLL_AGE: lambda now: (((poll,), age) for poll, age in self._fleet.polls.ages(now)),
            catalogue.MONITOR_POLL_FAILURES: lambda now: _by(self._fleet.polls.failures),
            catalogue.MONITOR_BUILD_INFO: lambda now: [(build, 1)],
        }

    def tables(self) -> dict[str, tuple[int, int]]:
        """Of each table, its entries and the most that it may hold. A table of several families: the fullest one's."""
        fleet = self._fleet
        return {
            "tasks": (len(fleet.tasks), fleet.tasks.limit),
            "early_events": (len(fleet.early), fleet.early.limit),
            "task_series": (len(fleet.series), fleet.series.limit),
            "hosts": (len(fleet.workers.hosts), fleet.workers.limit),
            "nodes": (len(fleet.processes.nodes), fleet.processes.limit),
            "snapshot_series": (len(fleet.totals), fleet.totals.limit),
            "queues": (len(fleet.queues), fleet.queues.limit),
            "event_conflicts": (len(fleet.conflicts), fleet.conflicts.limit),
        }


def _by(counts: Mapping[str, float]) -> _Series:
    return (((label,), count) for label, count in counts.items())
