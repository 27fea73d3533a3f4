"""The counters and histograms of Celery's tasks, one row a (name, hostname, queue_name).

A row's label text is rendered when the row is born. Only what ever happened is exposed: no series for a label set that
never was. Rows are bounded; what finds no room is counted by family.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator
from typing import Final

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.wire import Value
from loopwatch_monitor.state.labels import Labels, cut
from loopwatch_monitor.state.ledger import Ledger

__all__ = ["FAMILIES", "UNKNOWN", "Row", "TaskSeries", "exception_class"]

UNKNOWN: Final = "unknown"
MAX_ROWS = 50_000

_COUNTERS: Final = (
    catalogue.TASK_SENT,
    catalogue.TASK_RECEIVED,
    catalogue.TASK_STARTED,
    catalogue.TASK_SUCCEEDED,
    catalogue.TASK_REJECTED,
    catalogue.TASK_REVOKED,
    catalogue.TASK_RETRIED,
)
_SLOTS: Final = {metric: slot for slot, metric in enumerate(_COUNTERS)}
FAMILIES: Final = (*_COUNTERS, catalogue.TASK_FAILED, catalogue.TASK_RUNTIME, catalogue.TASK_QUEUE_WAIT)

# An exception's repr: `Err('x')`, `pkg.Err('x')`; `<Err: x>`, `<Err>`, `<pkg.Err object at 0x7f>`.
_CALL = re.compile(r"(?:\w+\.)*([^\W\d]\w*)\(")
_ANGLE = re.compile(r"<(?:\w+\.)*([^\W\d]\w*)(?:[:>]| object)")


def exception_class(text: str | None) -> str:
    """The class name in an exception's repr, or ``unknown``: "None" (a retry without a reason) has none."""
    head = (text or "")[:1000]
    found = _CALL.match(head) or _ANGLE.match(head)
    return cut(found[1]) if found else UNKNOWN


class Row:
    """The numbers of one label set. A histogram is its per-bucket counts, the last being ``+Inf``, followed by the
    sum, as on the wire; ``None`` until the first observation. ``created``: Unix time."""

    __slots__ = ("counts", "created", "failed", "key", "runtime", "text", "wait")

    def __init__(self, key: tuple[str, str, str], text: str, created: float) -> None:
        self.key = key
        self.text = text
        self.created = created
        self.counts = [0] * len(_COUNTERS)
        self.failed: dict[str, Failure] = {}
        self.runtime: list[float] | None = None
        self.wait: list[float] | None = None


class Failure:
    """Failures of one exception class in one row."""

    __slots__ = ("count", "created", "text")

    def __init__(self, text: str, created: float) -> None:
        self.text = text
        self.created = created
        self.count = 0


class TaskSeries:
    """All rows.

    Args:
        labels: renders label sets.
        ledger: where facts that found no room are counted.
        runtime_buckets, wait_buckets: upper bounds in seconds.
        limit: the most rows, and the most label sets of the failures.
    """

    def __init__(
        self,
        *,
        labels: Labels,
        ledger: Ledger,
        runtime_buckets: tuple[float, ...] = catalogue.TASK_RUNTIME.buckets,
        wait_buckets: tuple[float, ...] = catalogue.TASK_QUEUE_WAIT.buckets,
        limit: int = MAX_ROWS,
    ) -> None:
        self._labels = labels
        self._ledger = ledger
        self._runtime_buckets = runtime_buckets
        self._wait_buckets = wait_buckets
        self.limit = limit
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._failures = 0

    def __len__(self) -> int:
        return len(self._rows)

    def count(self, metric: Metric, name: str, hostname: str, queue: str) -> Row | None:
        """Adds one to a counter; the row, or ``None`` when there is no room for it."""
        row = self._rows.get((name, hostname, queue)) or self._row(metric, name, hostname, queue)
        if row is not None:
            row.counts[_SLOTS[metric]] += 1
        return row

    def fail(self, name: str, hostname: str, queue: str, exception: str) -> None:
        """Adds one to the failures of an exception class."""
        row = self._row(catalogue.TASK_FAILED, name, hostname, queue)
        if row is None:
            return
        failure = row.failed.get(exception)
        if failure is None:
            if self._failures >= self.limit:
                self._ledger.dropped[catalogue.TASK_FAILED.name] += 1
                return
            self._failures += 1
            text = self._labels.text(catalogue.TASK_FAILED.labels, (*row.key, exception))
            failure = row.failed[exception] = Failure(text, self._ledger.last_event)
        failure.count += 1

    def waited(self, row: Row, seconds: float) -> None:
        """Observes the time between sent and started."""
        row.wait = _observed(row.wait, self._wait_buckets, seconds)

    def ran(self, row: Row, seconds: float) -> None:
        """Observes a runtime."""
        row.runtime = _observed(row.runtime, self._runtime_buckets, seconds)

    def drop(self, hostnames: Collection[str]) -> None:
        """Forgets the series of these hosts."""
        for key in [key for key in self._rows if key[1] in hostnames]:
            self._failures -= len(self._rows.pop(key).failed)

    def samples(self, metric: Metric) -> Iterator[tuple[str, Value]]:
        """The label text and value of each series of one of `FAMILIES`. Events may be folded between two steps."""
        rows = [*self._rows.values()]
        if metric is catalogue.TASK_FAILED:
            for row in rows:
                for failure in [*row.failed.values()]:
                    yield failure.text, failure.count
        elif metric in _SLOTS:
            slot = _SLOTS[metric]
            yield from ((row.text, row.counts[slot]) for row in rows if row.counts[slot])
        else:
            for row in rows:
                histogram = row.wait if metric is catalogue.TASK_QUEUE_WAIT else row.runtime
                if histogram is not None:
                    yield row.text, histogram.copy()

    def created(self, metric: Metric) -> Iterator[tuple[str, float]]:
        """The label text and birth, Unix time, of each row that may have a series in one of `FAMILIES`."""
        if metric is catalogue.TASK_FAILED:
            return ((failure.text, failure.created) for row in self._rows.values() for failure in row.failed.values())
        return ((row.text, row.created) for row in self._rows.values())

    def _row(self, metric: Metric, name: str, hostname: str, queue: str) -> Row | None:
        key = (name, hostname, queue)
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= self.limit:
                self._ledger.dropped[metric.name] += 1
                return None
            row = self._rows[key] = Row(
                key, self._labels.text(catalogue.TASK_SENT.labels, key), self._ledger.last_event
            )
        return row


def _observed(histogram: list[float] | None, buckets: tuple[float, ...], seconds: float) -> list[float]:
    if histogram is None:
        histogram = [0] * (len(buckets) + 2)
    histogram[bisect_left(buckets, seconds)] += 1
    histogram[-1] += seconds
    return histogram
