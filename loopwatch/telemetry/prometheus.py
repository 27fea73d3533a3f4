"""`Collector`: this process's numbers for a prometheus_client registry, where the process itself is scraped.

The names and labels are those of the monitor's page. A process reports by events or is scraped, never both: its
numbers would count twice.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector as Base
from prometheus_client.utils import floatToGoString

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.stats import STATS
from loopwatch.telemetry.wire import Labels, Table, Value

__all__ = ["Collector"]


class Collector(Base):
    """A collector for a registry of prometheus_client; registers itself with none.

    >>> from prometheus_client import CollectorRegistry
    >>> registry = CollectorRegistry()
    >>> registry.register(Collector())

    Args:
        hostname: the label of that name; by default this machine's.
        slot: the label of that name, for several processes that are scraped one by one.
    """

    def __init__(self, *, hostname: str | None = None, slot: int = 0) -> None:
        self._node = {"hostname": hostname or socket.gethostname(), "slot": str(slot)}

    def describe(self) -> Iterator[Family]:
        """The families without samples: the registry checks their names when the collector is registered."""
        yield from (_family(metric) for metric in catalogue.METRICS if metric.origin == "process")

    def collect(self) -> Iterator[Family]:
        """The families that have samples now."""
        gauges = STATS.gauges()  # first: a source that fails is counted
        for name, rows in {**_counters(), **gauges}.items():
            metric = catalogue.by_wire_name(name)
            if metric is None:
                continue
            family = _family(metric)
            for own, value in rows.items():
                _add(family, metric, self._labels(metric, own), value)
            yield family

    def _labels(self, metric: Metric, own: Labels) -> list[str]:
        mine = iter(own)
        return [self._node.get(label) or next(mine) for label in metric.labels]


def _counters() -> Table:
    """All of them; what was dropped stands at 0 where it was nothing, as on the monitor's page."""
    table = STATS.counters()
    dropped = table.setdefault(catalogue.TELEMETRY_DROPPED.wire_name, {})
    for reason in catalogue.TELEMETRY_DROP_REASONS:
        dropped.setdefault((reason,), 0)
    return table


def _family(metric: Metric) -> Family:
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    if metric.kind == "gauge":
        return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)


def _add(family: Family, metric: Metric, labels: list[str], value: Value) -> None:
    if isinstance(family, HistogramMetricFamily) and isinstance(value, list):
        bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(value[:-1]), strict=True)), value[-1])
    elif isinstance(family, (CounterMetricFamily, GaugeMetricFamily)) and not isinstance(value, list):
        family.add_metric(labels, value)
