"""What a node's children told: sums that only grow, and the gauges of those that live. No I/O."""

from __future__ import annotations

from loopwatch.telemetry import catalogue, wire
from loopwatch.telemetry.wire import Assembler, ChildSnapshot, Table

__all__ = ["Children", "forget_unused_pools", "gather_gauges", "merge_gauges"]

MAX_DEAD_SERIES = 2000
"""Label sets that are kept of dead children: twice what one process may have. Recycled ones bring new ones for ever."""

Key = tuple[int, str]


class Children:
    """What the children of a node told, alive and dead. No I/O."""

    def __init__(self) -> None:
        self._live: dict[Key, ChildSnapshot] = {}
        self._assemblers: dict[Key, Assembler] = {}
        self._dead: Table = {}
        self._dead_series = 0

    def add(self, datagram: bytes) -> None:
        """Takes one datagram; raises `ValueError` when it is malformed."""
        part = wire.decode_child(datagram)
        key = (part.snapshot.pid, part.snapshot.nonce)
        snapshot = self._assemblers.setdefault(key, Assembler()).add(part)
        if snapshot is None:
            return
        known = self._live.get(key)
        if known is None or snapshot.seq > known.seq:
            self._live[key] = snapshot

    def pids(self) -> set[int]:
        """The pids of the children that are not known to be dead."""
        return {pid for pid, _ in self._assemblers}

    def bury(self, pids: set[int]) -> int:
        """Folds the sums of dead children and drops their gauges; how many label sets found no room."""
        lost = 0
        for key in [key for key in self._assemblers if key[0] in pids]:
            del self._assemblers[key]
            if snapshot := self._live.pop(key, None):
                lost += self._fold(snapshot.counters)
        return lost

    def _fold(self, counters: Table) -> int:
        lost = 0
        for family, rows in counters.items():
            known = self._dead.setdefault(family, {})
            new = [labels for labels in rows if labels not in known]
            for labels in new[max(MAX_DEAD_SERIES - self._dead_series, 0) :]:
                del rows[labels]
                lost += 1
            self._dead_series += sum(labels in rows for labels in new)
        wire.add_tables(self._dead, counters)
        return lost

    def counters(self) -> Table:
        """The sums of all children ever."""
        total: Table = {}
        wire.add_tables(total, self._dead)
        for snapshot in self._live.values():
            wire.add_tables(total, snapshot.counters)
        return total

    def gauges(self) -> dict[int, Table]:
        """The live children's gauges, by slot; one that exits and the one that takes its place may share theirs."""
        gauges: dict[int, Table] = {}
        for snapshot in self._live.values():
            merge_gauges(gauges.setdefault(snapshot.slot, {}), snapshot.gauges)
        return gauges


def merge_gauges(into: Table, table: Table) -> None:
    """Adds a second process's gauges to those of a slot: sum or maximum, as the family says."""
    for family, rows in table.items():
        metric = catalogue.by_wire_name(family)
        target = into.setdefault(family, {})
        for labels, value in rows.items():
            known = target.get(labels)
            if known is None:
                target[labels] = value
            elif metric is not None and metric.merge == "max":
                target[labels] = max(known, value)
            else:
                target[labels] = wire.add_value(known, value)


def gather_gauges(gauges: dict[int, Table], slot: int) -> None:
    """Moves what is not told by slot to one slot, merged as readers would merge it: said once, not once a child."""
    gathered: Table = {}
    for table in gauges.values():
        for family in list(table):
            metric = catalogue.by_wire_name(family)
            if metric is not None and "slot" not in metric.labels:
                merge_gauges(gathered, {family: table.pop(family)})
    merge_gauges(gauges.setdefault(slot, {}), gathered)


def forget_unused_pools(gauges: Table) -> None:
    """A pool's parent runs no tasks: what its copy of an engine might open, the fleet need not reckon with."""
    opened = gauges.get(catalogue.POOL_CONNECTIONS.wire_name, {})
    used = {pool for (pool, _), value in opened.items() if value}
    limits = gauges.get(catalogue.POOL_CONNECTIONS_MAX.wire_name, {})
    for labels in [labels for labels in limits if labels[0] not in used]:
        del limits[labels]
