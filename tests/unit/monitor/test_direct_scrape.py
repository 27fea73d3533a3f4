"""One process, told in both ways: a direct scrape and the monitor's page show the same names, types, labels, values."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from loopwatch.telemetry import catalogue, wire
from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.prometheus import Collector
from loopwatch.telemetry.reporter import Reporter
from loopwatch.telemetry.stats import STATS, Gauge
from loopwatch.telemetry.wire import NodeInfo
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.settings import Settings

NODE = "api@here"
PROCESS = [metric for metric in catalogue.METRICS if metric.origin == "process"]
Page = dict[str, tuple[str, dict[tuple[tuple[str, str], ...], float]]]


class _Nowhere:
    def publish(self, type: str, fields: dict[str, Any]) -> None:
        """Nothing: the test reads the snapshot itself."""

    def close(self) -> None:
        """Nothing."""


def _labels(metric: Metric) -> tuple[str, ...]:
    return tuple(f'{label} of "{metric.name}"\n' for label in metric.own_labels)


def _gauges() -> Iterator[Gauge]:
    yield from ((metric, _labels(metric), 2.5) for metric in PROCESS if metric.kind == "gauge")


def _parse(page: str) -> Page:
    """By family: its type, and its samples; without what the monitor tells about itself and its nodes."""
    return {
        family.name: (
            family.type,
            {
                (("", sample.name), *sorted(sample.labels.items())): sample.value
                for sample in family.samples
                if not sample.name.endswith("_created")
            },
        )
        for family in text_string_to_metric_families(page)
        if any(family.name == metric.name.removesuffix("_total") for metric in PROCESS)
    }


@pytest.fixture
def pages() -> Iterator[tuple[Page, Page]]:
    STATS.reset()  # what other tests have timed is rounded on one page only
    for metric in PROCESS:
        if metric.kind == "counter":
            STATS.count(metric, _labels(metric), 3)
        elif metric.kind == "histogram":
            for seconds in (0.0, metric.buckets[1], 1e6):
                STATS.observe(metric, _labels(metric), seconds)
    STATS.add_source(_gauges)
    info = NodeInfo(kind="process", start_time=time.time())
    fields = Reporter(_Nowhere(), interval=5, info=lambda: info).snapshot().to_fields()
    hub = Hub(Settings(broker_url="memory://"), status=BrokerStatus(), version="1")
    event = {"type": wire.EVENT_TYPE, "hostname": NODE, "timestamp": time.time(), **fields}
    hub.receive(json.dumps(event).encode(), "application/json")
    registry = CollectorRegistry()
    registry.register(Collector(hostname=NODE))
    yield _parse(generate_latest(registry).decode()), _parse(hub.page().decode())
    STATS._sources.pop()


def test_both_pages_say_the_same(pages: tuple[Page, Page]) -> None:
    scraped, monitored = pages
    assert scraped.keys() == {metric.name.removesuffix("_total") for metric in PROCESS}
    assert monitored.keys() == scraped.keys()
    for name, family in scraped.items():
        assert monitored[name] == family, name
