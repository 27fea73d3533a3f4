"""Nodes that send snapshots: their counters, their gauges, and what they are.

A snapshot's counters are cumulative since the node's start, so what is added to an exposed counter is the difference
from the snapshot before of the same life (boot) of the node, and never less than nothing. That keeps every exposed
counter from falling: over a restart (a new boot begins at nothing), a lost snapshot (the next one holds more) and a
sender's mistake. Two live boots under one worker's name add up, and are counted as duplicates. Several processes of an
API share a name by design (their slots differ): they add up too, and the gauges of all are shown.

Gauges live as long as their node speaks: they go after three silent intervals, or when it says goodbye. Counters stay
until the purge.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.wire import Labels as Values
from loopwatch.telemetry.wire import Value
from loopwatch_monitor.intake.events import Snapshot, SnapshotInfo
from loopwatch_monitor.state.gauges import Databases, Gauges, databases, merge_gauges, merge_rows, read_gauges
from loopwatch_monitor.state.labels import Labels, cut
from loopwatch_monitor.state.ledger import Ledger, Now
from loopwatch_monitor.state.totals import Totals, full_labels, grown, highest

__all__ = ["Node", "Processes"]

MAX_NODES = 2_000
MAX_GAUGES = 50_000
MAX_BOOTS = 64
"""Lives of one node name that are remembered: restarts, and an API's processes."""
MAX_BOOT_ROWS = 20_000
MAX_ROWS = 1_000_000
"""Counters, and gauges, of all lives that are remembered. A life takes a few hundred; anybody may make them up."""
BOOT_SECONDS = 600.0
"""A life that was silent for so long is over, and takes no more room: what it counted is in the totals."""
MAX_FORGOTTEN = 1_000
MAX_QUEUES = 100
MAX_INTERVAL = 60.0
"""Seconds: the longest interval that a node is believed; three of them without a word end its gauges."""
YOUNG_SECONDS = 60.0
"""A node that is first met when it is older than this may bring conflicts of long ago (the monitor was restarted):
they are counted, but not dated to now."""


@dataclass(slots=True)
class Boot:
    """One life of a node: its last snapshot."""

    seq: int = 0
    seen: float = 0.0
    counters: dict[tuple[Metric, Values], Value] = field(default_factory=dict)


@dataclass(slots=True)
class Node:
    """What snapshots told about one node name. Times by the monitor's monotonic clock, but ``last_conflict``: Unix.

    ``shown`` are the lives that speak, with their gauges: a worker's newest one, or all processes of an API. ``boot``
    is the one whose description is shown; ``stopped`` once the last of them said goodbye.
    """

    info: SnapshotInfo
    boot: str = ""
    seen: float = 0.0
    interval: float = 5.0
    stopped: bool = False
    duplicated: bool = False
    last_conflict: float = 0.0
    boots: dict[str, Boot] = field(default_factory=dict)
    shown: dict[str, Gauges] = field(default_factory=dict)
    gauges: dict[Metric, list[tuple[str, float]]] = field(default_factory=dict)
    databases: Databases = field(default_factory=dict)


class Processes:
    """All nodes that send snapshots.

    Args:
        labels: renders label sets.
        ledger: where snapshots, gaps, duplicates and what found no room are counted.
        totals: where counters are added up.
        purge: seconds of silence after which a node is forgotten; 0 = never.
        on_duplicate: told the node name when two live nodes are found under it.
        slots: whether the slots of a node are told apart.
        limit: the most nodes.

    Attributes:
        rows, gauges: counters and gauges of all lives that are remembered; ``rows_limit``: the most of each.
    """

    def __init__(
        self,
        *,
        labels: Labels,
        ledger: Ledger,
        totals: Totals,
        purge: float,
        on_duplicate: Callable[[str], None] = lambda hostname: None,
        slots: bool = True,
        limit: int = MAX_NODES,
    ) -> None:
        self._labels = labels
        self._ledger = ledger
        self._totals = totals
        self._purge = purge
        self._on_duplicate = on_duplicate
        self._slots = slots
        self.limit = limit
        self.rows, self.gauges, self.rows_limit = 0, 0, MAX_ROWS
        self.nodes: dict[str, Node] = {}
        self._gauge_rows: Counter[Metric] = Counter()
        self._consumed = 0
        self._forgotten: deque[str] = deque(maxlen=MAX_FORGOTTEN)

    def reports_itself(self, hostname: str) -> bool:
        """Whether this node sends snapshots."""
        return hostname in self.nodes

    def fold(self, event: Snapshot, now: Now) -> None:
        """Takes in a snapshot, unless a newer one of the same boot came before."""
        node = self.nodes.get(event.hostname)
        if node is None:
            if len(self.nodes) >= self.limit:
                self._ledger.dropped[catalogue.WORKER_INFO.name] += 1
                return
            node = self.nodes[event.hostname] = Node(SnapshotInfo())
            for reason in catalogue.TELEMETRY_DROP_REASONS:
                self._totals.add(catalogue.TELEMETRY_DROPPED, (event.hostname, reason), 0)
        boot = node.boots.get(event.boot)
        if boot is not None and event.seq <= boot.seq:
            return
        self._ledger.snapshots += 1
        if boot is not None:
            self._ledger.gaps += event.seq - boot.seq - 1
            self._note_duplicate(node, event)
        else:
            boot = self._begin(node, event)
        boot.seq, boot.seen = event.seq, now.monotonic
        if self._add_counters(boot, event):
            node.last_conflict = now.wall
        if event.info.kind == "process" or event.boot == node.boot or not node.shown:
            self._describe(node, event, now)

    def excuse(self, seconds: float, now: Now) -> None:
        """So long nobody could be heard."""
        for node in self.nodes.values():
            for boot in node.boots.values():
                boot.seen = min(boot.seen + seconds, now.monotonic)

    def tick(self, now: Now, *, purge: bool = True) -> set[str]:
        """Ends the gauges of silent nodes; forgets nodes that were silent for long and returns their names."""
        purged = set()
        for hostname, node in self.nodes.items():
            patience = 3 * node.interval
            silent = [name for name in node.shown if now.monotonic - node.boots[name].seen >= patience]
            if silent:
                for name in silent:
                    self._hide(node, name)
                self._show(node)
            others = (boot.seen for name, boot in node.boots.items() if name != node.boot)
            node.duplicated = node.duplicated and now.monotonic - max(others, default=-patience) < patience
            if not purge:
                continue
            if self._purge and now.monotonic - max(boot.seen for boot in node.boots.values()) >= self._purge:
                purged.add(hostname)
            for name in [name for name, boot in node.boots.items() if now.monotonic - boot.seen >= BOOT_SECONDS]:
                if name != node.boot:
                    self._forget(node, name)
        for hostname in purged:
            node = self.nodes.pop(hostname)
            for name in [*node.boots]:
                self._forget(node, name)
            self._show(node)
            self._consumed -= len(node.info.queues)
        self._totals.drop(purged)
        return purged

    def samples(self, metric: Metric) -> Iterator[tuple[str, float]]:
        """Label text and value of each series of a gauge that processes report."""
        rows = (row for node in [*self.nodes.values()] for row in node.gauges.get(metric, ()))
        # Where no label tells the nodes apart, they speak of the same thing: one series.
        return rows if "hostname" in metric.labels else merge_rows(metric, rows)

    def databases(self) -> Databases:
        """The fleet's connections by database."""
        sums: Databases = {}
        for node in self.nodes.values():
            for database, (potential, used) in node.databases.items():
                before = sums.get(database, (0.0, 0.0))
                sums[database] = (before[0] + potential, before[1] + used)
        return sums

    def _begin(self, node: Node, event: Snapshot) -> Boot:
        boot = Boot()
        if event.boot in self._forgotten:
            # What it had counted before is in the totals: what it counted since is lost, rather than all counted twice.
            boot.counters = {(metric, values): value for metric, values, value in self._rows(event)}
            self.rows += len(boot.counters)
        if not event.stopping and event.info.kind != "process":
            for name in [*node.shown]:
                self._hide(node, name)  # the newest life is the one to show
        node.boots[event.boot] = boot
        if len(node.boots) > MAX_BOOTS:
            oldest = min(node.boots, key=lambda name: node.boots[name].seen if name != event.boot else float("inf"))
            self._forget(node, oldest)
        return boot

    def _forget(self, node: Node, name: str) -> None:
        """Ends a life for good."""
        self.rows -= len(node.boots.pop(name).counters)
        self._hide(node, name)
        self._forgotten.append(name)

    def _hide(self, node: Node, name: str) -> None:
        """Ends a life's gauges."""
        self.gauges -= sum(map(len, node.shown.pop(name, {}).values()))

    def _note_duplicate(self, node: Node, event: Snapshot) -> None:
        """An older life that goes on speaking while a newer one does is a second process under one name."""
        several = event.boot != node.boot and node.shown and event.info.kind != "process"
        if several and not event.stopping and not node.duplicated:
            node.duplicated = True
            self._ledger.duplicates += 1
            self._on_duplicate(event.hostname)

    def _add_counters(self, boot: Boot, event: Snapshot) -> bool:
        """Adds what has grown; says whether there was a loop conflict just now."""
        dated = bool(boot.counters) or event.seq * event.interval < YOUNG_SECONDS
        conflict = False
        for metric, values, value in self._rows(event):
            before = boot.counters.get((metric, values))
            if before is None:
                if len(boot.counters) >= MAX_BOOT_ROWS or self.rows >= self.rows_limit:
                    self._ledger.dropped[metric.name] += 1
                    continue
                self.rows += 1
            amount = grown(before, value)
            boot.counters[metric, values] = highest(before, value)
            self._totals.add(metric, values, amount)
            conflict = conflict or (metric is catalogue.LOOP_CONFLICTS and bool(amount))
        return conflict and dated

    def _rows(self, event: Snapshot) -> Iterator[tuple[Metric, Values, Value]]:
        for family, rows in event.counters.items():
            metric = catalogue.by_wire_name(family)
            if metric is None:
                continue  # a newer sender knows more than we do
            for own, value in rows:
                if _fits(metric, own, value):
                    yield metric, full_labels(metric, own, event.hostname), value
                else:
                    self._ledger.malformed["snapshot"] += 1

    def _describe(self, node: Node, event: Snapshot, now: Now) -> None:
        self._consumed -= len(node.info.queues)
        node.info, node.boot, node.seen = event.info, event.boot, now.monotonic
        self._bound_queues(node.info.queues)
        _cut_texts(node.info)
        node.interval = min(max(event.interval, 1.0), MAX_INTERVAL)
        self._hide(node, event.boot)
        if not event.stopping:
            room = self.rows_limit - self.gauges
            node.shown[event.boot] = gauges = read_gauges(event, self._ledger, slots=self._slots, room=room)
            self.gauges += sum(map(len, gauges.values()))
        node.stopped = event.stopping and not node.shown
        self._show(node)

    def _bound_queues(self, queues: list[str]) -> None:
        room = max(min(MAX_QUEUES, MAX_GAUGES - self._consumed), 0)
        if len(queues) > room:
            self._ledger.dropped[catalogue.WORKER_QUEUE.name] += len(queues) - room
            del queues[room:]
        self._consumed += len(queues)

    def _show(self, node: Node) -> None:
        """Renders the gauges of the lives that are shown."""
        for metric, rows in node.gauges.items():
            self._gauge_rows[metric] -= len(rows)
        merged = merge_gauges(node.shown.values())
        node.gauges = {}
        for metric, values in merged.items():
            if self._gauge_rows[metric] + len(values) > MAX_GAUGES:
                self._ledger.dropped[metric.name] += len(values)
                continue
            self._gauge_rows[metric] += len(values)
            node.gauges[metric] = [(self._labels.text(metric.labels, own), value) for own, value in values.items()]
        # Of what found room, or as many databases as all nodes together can name would be shown.
        node.databases = databases({metric: values for metric, values in merged.items() if metric in node.gauges})


def _cut_texts(info: SnapshotInfo) -> None:
    info.queues = [*map(cut, info.queues)]
    for name in ("kind", "pool_type", "celery_version", "loopwatch_version", "release"):
        setattr(info, name, cut(getattr(info, name)))


def _fits(metric: Metric, own: list[str], value: Value) -> bool:
    """Whether a row is what its family says: as many labels, and a number or that many buckets, none below 0."""
    if len(own) != len(metric.own_labels):
        return False
    if metric.kind == "histogram":
        return isinstance(value, list) and len(value) == len(metric.buckets) + 2 and min(value) >= 0
    return metric.kind == "counter" and not isinstance(value, list) and value >= 0
