"""The snapshot as bytes: what a pool child sends to its parent, and what a node's Celery event holds.

JSON, because Celery's events are JSON and because a format that executes nothing when it is read (never pickle) is
worth more here than a few microseconds. Every number is cumulative since the process (or node) started, so a lost
snapshot costs freshness and never truth.

A **table** is ``{family: {labels: value}}``. The family is ``Metric.wire_name``; ``labels`` are the values of
``Metric.own_labels`` in order; ``value`` is a number, or for a histogram the list of per-bucket counts (not
cumulative over the bounds, the last one being ``+Inf``) followed by the sum. In JSON a table is
``{family: [[[label, ...], value], ...]}``, as JSON has no tuples for keys.

A **child snapshot** is one process's tables. Above `MAX_DATAGRAM` bytes it is split; `Assembler` joins the parts.
A **node event** (type `EVENT_TYPE`) holds the sums of all children ever, and each live child's gauges by slot.
A **conflict report** (type `CONFLICT_TYPE`) is one loop conflict: `loopwatch.telemetry.conflict_reports`.
Unknown families and fields are skipped by readers, so that versions can be mixed in one fleet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "CONFLICT_TYPE",
    "EVENT_TYPE",
    "MAX_DATAGRAM",
    "VERSION",
    "Assembler",
    "ChildSnapshot",
    "NodeInfo",
    "NodeSnapshot",
    "Table",
    "Value",
    "add_tables",
    "add_value",
    "decode_child",
    "decode_table",
    "encode_child",
    "encode_table",
    "from_json",
]

VERSION = 1
EVENT_TYPE = "loopwatch-snapshot"
CONFLICT_TYPE = "loopwatch-conflict"
MAX_DATAGRAM = 16_000
"""Bytes. A socket pair's buffer takes about 26 datagrams of 4 kB before a send is refused (measured on Linux)."""

MAX_PID = 2**31 - 1
"""No system has higher ones, and asking for one would fail."""

# A third less time than json.dumps: made once, and a table cannot hold itself.
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

Labels = tuple[str, ...]
Value = float | list[float]
Table = dict[str, dict[Labels, Value]]
Rows = list[tuple[list[str], Value]]


def from_json(data: bytes) -> Any:
    """What a datagram holds; raises `ValueError` when that is not JSON, or so deep that no reader follows."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("not a loopwatch datagram: nested too deeply") from error


def encode_table(table: Mapping[str, Mapping[Labels, Value]]) -> dict[str, Rows]:
    """A table as JSON can hold it. Seconds to the microsecond: the other digits are noise, and half of the bytes."""
    return {
        family: [(list(labels), value if type(value) is int else _rounded(value)) for labels, value in rows.items()]
        for family, rows in table.items()
        if rows
    }


def _rounded(value: Value) -> Value:
    if isinstance(value, list):
        return [*value[:-1], round(value[-1], 6)]
    return round(value, 6)


def decode_table(rows_by_family: Mapping[str, Iterable[tuple[list[str], Value]]]) -> Table:
    """The reverse of `encode_table`; raises `ValueError` or `TypeError` when the shape is not a table's."""
    table: Table = {}
    for family, rows in rows_by_family.items():
        table[family] = {_labels(labels): _value(value) for labels, value in rows}
    return table


def _labels(labels: object) -> Labels:
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"labels must be a list of strings, not {labels!r:.80}")
    return tuple(labels)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"a number was expected, not {value!r:.80}")
    return value


def _value(value: object) -> Value:
    return [_number(item) for item in value] if isinstance(value, list) else _number(value)


def add_value(left: Value, right: Value) -> Value:
    """The sum of two values of one family. Histograms of different lengths (other buckets): the right one wins."""
    if isinstance(left, list) and isinstance(right, list):
        return [a + b for a, b in zip(left, right, strict=True)] if len(left) == len(right) else list(right)
    if isinstance(left, list) or isinstance(right, list):
        return right
    return left + right


def add_tables(into: Table, table: Table) -> None:
    """Adds every value of ``table`` to ``into``, in place."""
    for family, rows in table.items():
        target = into.setdefault(family, {})
        for labels, value in rows.items():
            known = target.get(labels)
            target[labels] = (list(value) if isinstance(value, list) else value) if known is None else add_value(
                known, value
            )  # fmt: skip


@dataclass(slots=True)
class ChildSnapshot:
    """One process's numbers.

    ``(pid, nonce)`` names the process for ever: a pid alone is used again. ``slot`` is its index in the pool.
    """

    pid: int
    nonce: str
    slot: int
    seq: int
    counters: Table = field(default_factory=dict)
    gauges: Table = field(default_factory=dict)


def encode_child(snapshot: ChildSnapshot, limit: int = MAX_DATAGRAM) -> list[bytes]:
    """The snapshot as datagrams of at most ``limit`` bytes each (one row longer than that is sent by itself)."""
    whole = _dump(snapshot, 0, 1, encode_table(snapshot.counters), encode_table(snapshot.gauges))
    if len(whole) <= limit:
        return [whole]
    parts: list[tuple[dict[str, Rows], dict[str, Rows]]] = []
    room = 0
    for kind, family, row in _rows(snapshot):
        size = len(json.dumps(row)) + len(json.dumps(family)) + 6
        if size > room:
            parts.append(({}, {}))
            room = limit - 200  # the head: pid, nonce, slot, sequence, part numbers
        parts[-1][kind].setdefault(family, []).append(row)
        room -= size
    return [_dump(snapshot, index, len(parts), *tables) for index, tables in enumerate(parts)]


def _rows(snapshot: ChildSnapshot) -> Iterator[tuple[int, str, tuple[list[str], Value]]]:
    for kind, table in enumerate((snapshot.counters, snapshot.gauges)):
        for family, rows in encode_table(table).items():
            for row in rows:
                yield kind, family, row


def _dump(snapshot: ChildSnapshot, part: int, parts: int, counters: dict[str, Rows], gauges: dict[str, Rows]) -> bytes:
    head = [VERSION, snapshot.pid, snapshot.nonce, snapshot.slot, snapshot.seq, part, parts]
    return _to_json([*head, counters, gauges]).encode()


@dataclass(slots=True)
class Part:
    """One datagram, decoded."""

    snapshot: ChildSnapshot
    part: int
    parts: int


def decode_child(data: bytes) -> Part:
    """One datagram; raises `ValueError` (JSON errors are one) when it is not one of ours."""
    fields = from_json(data)
    if not isinstance(fields, list) or len(fields) < 9 or fields[0] != VERSION:
        raise ValueError("not a loopwatch datagram of this version")
    _, pid, nonce, slot, seq, part, parts, counters, gauges = fields[:9]
    whole = all(isinstance(item, int) for item in (pid, slot, seq, part, parts))
    if not isinstance(nonce, str) or not whole or not 0 < pid <= MAX_PID:
        raise ValueError("a loopwatch datagram with a malformed head")
    try:
        snapshot = ChildSnapshot(pid, nonce, slot, seq, decode_table(counters), decode_table(gauges))
    except (TypeError, AttributeError) as error:
        raise ValueError(f"a loopwatch datagram with a malformed table: {error}") from error
    return Part(snapshot, part, parts)


class Assembler:
    """Joins the parts of one child's snapshots. Parts come in order; one that was dropped voids its snapshot."""

    def __init__(self) -> None:
        self._pending: ChildSnapshot | None = None
        self._next = 0

    def add(self, part: Part) -> ChildSnapshot | None:
        """The whole snapshot when this was its last part, else ``None``."""
        if part.parts == 1:
            self._pending = None
            return part.snapshot
        if part.part == 0:
            self._pending, self._next = part.snapshot, 1
            return None
        pending = self._pending
        if pending is None or pending.seq != part.snapshot.seq or part.part != self._next:
            self._pending = None
            return None
        for target, table in ((pending.counters, part.snapshot.counters), (pending.gauges, part.snapshot.gauges)):
            for family, rows in table.items():
                target.setdefault(family, {}).update(rows)
        self._next += 1
        if self._next < part.parts:
            return None
        self._pending = None
        return pending


@dataclass(slots=True)
class NodeInfo:
    """What a node is. ``kind``: ``celery`` (a worker) or ``process`` (an API, a script)."""

    kind: str = "celery"
    pool_type: str = ""
    queues: list[str] = field(default_factory=list)
    slots: int = 1
    start_time: float = 0.0
    celery_version: str = ""
    loopwatch_version: str = ""
    release: str = ""


@dataclass(slots=True)
class NodeSnapshot:
    """A node's event, without what Celery adds (``hostname``, ``timestamp``, ...).

    ``boot`` names this life of the node; ``seq`` counts its snapshots from 1; ``interval`` (seconds) is how often
    they come; ``counters`` are sums over all its processes, dead ones included; ``gauges`` are by slot;
    ``stopping`` is true in the last one.
    """

    boot: str
    seq: int
    interval: float
    info: NodeInfo
    counters: Table
    gauges: dict[int, Table]
    stopping: bool = False

    def to_fields(self) -> dict[str, Any]:
        """The fields of the Celery event (JSON types only). ``pid`` is not among them: Celery reserves it."""
        info = self.info
        return {
            "version": VERSION,
            "boot": self.boot,
            "seq": self.seq,
            "interval": self.interval,
            "stopping": self.stopping,
            "info": {
                "kind": info.kind,
                "pool_type": info.pool_type,
                "queues": info.queues,
                "slots": info.slots,
                "start_time": info.start_time,
                "celery_version": info.celery_version,
                "loopwatch_version": info.loopwatch_version,
                "release": info.release,
            },
            "counters": encode_table(self.counters),
            "gauges": {str(slot): encode_table(table) for slot, table in self.gauges.items()},
        }
