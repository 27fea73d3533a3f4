"""Counters and histograms of the fleet's snapshots, as exposed: they only grow."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.wire import Labels as Values
from loopwatch.telemetry.wire import Value, add_value
from loopwatch_monitor.state.labels import Labels, cut
from loopwatch_monitor.state.ledger import Ledger

__all__ = ["Totals", "full_labels", "grown", "highest"]

MAX_ROWS = 50_000


def full_labels(metric: Metric, own: list[str], hostname: str, slot: str = "") -> Values:
    """The values of all the family's labels, from those that the process knows and those that its node adds."""
    rest = iter(own)
    return tuple(
        hostname if label == "hostname" else slot if label == "slot" else cut(next(rest)) for label in metric.labels
    )


def grown(before: Value | None, now: Value) -> Value:
    """How much a cumulative value has grown; a fall reads as nothing."""
    if isinstance(now, list):
        known = before if isinstance(before, list) else [0] * len(now)
        return [max(new - old, 0) for old, new in zip(known, now, strict=True)]
    return max(now - (before if before is not None and not isinstance(before, list) else 0), 0)


def highest(before: Value | None, now: Value) -> Value:
    """The higher of two cumulative values, number by number."""
    if isinstance(now, list) and isinstance(before, list):
        return [max(old, new) for old, new in zip(before, now, strict=True)]
    return now if before is None or isinstance(before, list) or isinstance(now, list) else max(before, now)


@dataclass(slots=True)
class _Row:
    text: str
    value: Value
    created: float


class Totals:
    """Rows by family and label values.

    Args:
        labels: renders label sets.
        ledger: where facts that found no room are counted.
        limit: the most label sets of one family.
    """

    def __init__(self, *, labels: Labels, ledger: Ledger, limit: int = MAX_ROWS) -> None:
        self._labels = labels
        self._ledger = ledger
        self.limit = limit
        self._families: dict[Metric, dict[Values, _Row]] = {}

    def __len__(self) -> int:
        """The label sets of the family that has most."""
        return max(map(len, self._families.values()), default=0)

    def add(self, metric: Metric, values: Values, amount: Value) -> None:
        """Adds to a row. An amount of nothing makes the row exist: some series are born at 0."""
        rows = self._families.setdefault(metric, {})
        row = rows.get(values)
        if row is not None:
            row.value = add_value(row.value, amount)
        elif len(rows) < self.limit:
            rows[values] = _Row(self._labels.text(metric.labels, values), amount, self._ledger.last_event)
        else:
            self._ledger.dropped[metric.name] += 1

    def drop(self, hostnames: Collection[str]) -> None:
        """Forgets the rows of these hosts. Families without the label ``hostname`` keep what they counted."""
        for metric, rows in self._families.items():
            if "hostname" in metric.labels:
                place = metric.labels.index("hostname")
                for values in [values for values in rows if values[place] in hostnames]:
                    del rows[values]

    def samples(self, metric: Metric) -> Iterator[tuple[str, Value]]:
        """Label text and value of each series of a family. Events may be folded between two steps."""
        for row in [*self._families.get(metric, {}).values()]:
            yield row.text, row.value

    def created(self, metric: Metric) -> Iterator[tuple[str, float]]:
        """Label text and birth, Unix time, of each series of a family."""
        return ((row.text, row.created) for row in self._families.get(metric, {}).values())
