"""The collector for a direct scrape: the monitor's names and labels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.prometheus import Collector
from loopwatch.telemetry.stats import STATS, Gauge


def _gauges() -> Iterator[Gauge]:
    yield catalogue.POOL_CONNECTIONS, ("main", "idle"), 2
    yield catalogue.POOL_INFO, ("main", "sqlalchemy", "db"), 1


@pytest.fixture
def page() -> Iterator[dict[str, list[tuple[dict[str, str], float]]]]:
    STATS.count(catalogue.NOTIFICATIONS, ("", "scraped"), 3)
    STATS.count(catalogue.TASK_POOL_USES, ("q", "task", "main"), 2)
    for seconds in (0.001, 0.02, 100.0):
        STATS.observe(catalogue.POOL_WAIT, ("q", "scraped"), seconds)
    STATS.add_source(_gauges)
    registry = CollectorRegistry()
    registry.register(Collector(hostname="api-1", slot=3))
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    yield samples
    STATS._sources.pop()


Page = dict[str, list[tuple[dict[str, str], float]]]


def test_counters_gauges_and_histograms(page: Page) -> None:
    dropped = page["loopwatch_telemetry_dropped_total"]
    assert {labels["reason"] for labels, _ in dropped} == {*catalogue.TELEMETRY_DROP_REASONS}
    assert ({"hostname": "api-1", "queue_name": "", "operation": "scraped"}, 3.0) in page[
        "loopwatch_notifications_total"
    ]
    assert page["loopwatch_task_pool_uses_total"][-1][0].keys() == {"queue_name", "name", "pool"}
    idle = {"hostname": "api-1", "slot": "3", "pool": "main", "state": "idle"}
    assert (idle, 2.0) in page["loopwatch_pool_connections"]
    info = {"hostname": "api-1", "pool": "main", "resource": "sqlalchemy", "database": "db"}
    assert (info, 1.0) in page["loopwatch_pool_info"]
    of = [
        (labels, value) for labels, value in page["loopwatch_pool_wait_seconds_bucket"] if labels["pool"] == "scraped"
    ]
    buckets = {labels["le"]: value for labels, value in of}
    assert buckets["0.001"] == 1.0
    assert buckets["0.05"] == 2.0
    assert buckets["60.0"] == 2.0
    assert buckets["+Inf"] == 3.0


def test_every_name_is_one_of_the_catalogue(page: Page) -> None:
    assert {name for name in page if not name.endswith("_created")} <= set(catalogue.exposed_names())


@pytest.mark.parametrize("metric", [metric for metric in catalogue.METRICS if metric.origin == "process"])
def test_every_family_can_be_described(metric: Metric) -> None:
    described = {sample for family in Collector().describe() for sample in (family.name, f"{family.name}_total")}
    assert metric.name in described


def test_it_registers_itself_nowhere() -> None:
    from prometheus_client import REGISTRY

    before = len(list(REGISTRY.collect()))
    Collector()
    assert len(list(REGISTRY.collect())) == before
