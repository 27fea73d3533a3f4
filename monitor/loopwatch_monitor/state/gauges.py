"""The gauges in one node's snapshot: by slot, or merged over the slots where the family has no label ``slot``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeVar

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.wire import Labels as Values
from loopwatch_monitor.intake.events import Snapshot
from loopwatch_monitor.state.labels import cut
from loopwatch_monitor.state.ledger import Ledger
from loopwatch_monitor.state.totals import full_labels

__all__ = ["Databases", "Gauges", "databases", "merge_gauges", "merge_rows", "read_gauges"]

Key = TypeVar("Key")
Gauges = dict[Metric, dict[Values, float]]
Databases = dict[str, tuple[float, float]]
"""By database: connections that may be opened, and connections that are open."""

ALL_SLOTS = "all"
MAX_ROWS = 20_000
"""Gauges of one process."""
# The connections that two slots use at their busiest, they did not use at the same time.
_HIGHEST = frozenset({catalogue.POOL_CONNECTIONS_PEAK})


def read_gauges(snapshot: Snapshot, ledger: Ledger, *, slots: bool = True, room: int = MAX_ROWS) -> Gauges:
    """All gauges of families that we know, or as many as there is ``room`` for; a row that is not what its family says
    is counted and left out. Without ``slots``, all slots are one: the sum, or the highest, of each."""
    gauges: Gauges = {}
    rest = max(min(room, MAX_ROWS), 0)
    for slot, table in snapshot.gauges.items():
        place = cut(slot) if slots else ALL_SLOTS
        for family, rows in table.items():
            metric = catalogue.by_wire_name(family)
            if metric is None:
                continue
            target = gauges.setdefault(metric, {})
            if len(rows) > rest:
                ledger.dropped[metric.name] += len(rows) - rest
            for own, value in rows[:rest]:
                if metric.kind != "gauge" or isinstance(value, list) or len(own) != len(metric.own_labels):
                    ledger.malformed["snapshot"] += 1
                    continue
                _add(target, metric, full_labels(metric, own, snapshot.hostname, place), value)
            rest -= len(rows[:rest])
    return gauges


def merge_gauges(processes: Iterable[Gauges]) -> Gauges:
    """The gauges of several processes that share a node name: their slots differ, what has no slot is merged."""
    merged: Gauges = {}
    for gauges in processes:
        for metric, rows in gauges.items():
            target = merged.setdefault(metric, {})
            for values, value in rows.items():
                _add(target, metric, values, value)
    return merged


def merge_rows(metric: Metric, rows: Iterable[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    """The series of several nodes, where those that have one label text become one."""
    merged: dict[str, float] = {}
    for text, value in rows:
        _add(merged, metric, text, value)
    return iter(merged.items())


def _add(rows: dict[Key, float], metric: Metric, values: Key, value: float) -> None:
    known = rows.get(values)
    if known is not None:
        value = max(known, value) if metric.merge == "max" or metric in _HIGHEST else known + value
    rows[values] = value


def databases(gauges: Gauges) -> Databases:
    """Connections by database, by way of `catalogue.POOL_INFO`: only it knows where a pool goes."""
    database_of = {}
    for values in gauges.get(catalogue.POOL_INFO, ()):
        _, pool, _, database = values
        if database:
            database_of[pool] = database
    potential: defaultdict[str, float] = defaultdict(float)
    used: defaultdict[str, float] = defaultdict(float)
    for metric, sums in ((catalogue.POOL_CONNECTIONS_MAX, potential), (catalogue.POOL_CONNECTIONS, used)):
        place = metric.labels.index("pool")
        for values, value in gauges.get(metric, {}).items():
            if values[place] in database_of:
                sums[database_of[values[place]]] += value
    return {database: (potential[database], used[database]) for database in dict.fromkeys(database_of.values())}
