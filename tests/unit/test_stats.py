"""The numbers of a process: exact under threads, bounded, silent towards those who count."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import MAX_SERIES, Gauge, Stats


@pytest.fixture
def stats() -> Stats:
    return Stats()


def test_counts_of_many_threads_are_exact(stats: Stats) -> None:
    def work(_: int) -> None:
        for _ in range(2000):
            stats.count(catalogue.POOL_TIMEOUTS, ("logs", "main"))
            stats.observe(catalogue.POOL_WAIT, ("logs", "main"), 0.02)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert stats.value(catalogue.POOL_TIMEOUTS, ("logs", "main")) == 16_000
    assert stats.value(catalogue.POOL_WAIT, ("logs", "main")) == 16_000


def test_buckets_hold_their_upper_bound(stats: Stats) -> None:
    for seconds in (0.0, 0.001, 0.0011, 60.0, 61.0):
        stats.observe(catalogue.POOL_WAIT, ("", "main"), seconds)
    *buckets, total = stats.counters()["pool_wait_seconds"][("", "main")]  # type: ignore[misc]
    assert buckets == [2, 1, *[0] * 10, 1, 1]
    assert total == pytest.approx(121.0021)


def test_a_cell_is_part_of_the_counters_while_it_lives_and_after(stats: Stats) -> None:
    labels = ("logs", "main")
    stats.observe(catalogue.POOL_USE, labels, 2.0)
    cells = [stats.cell(catalogue.POOL_USE, labels), stats.cell(catalogue.POOL_USE, labels)]
    for cell in cells:
        cell[0] += 1
    assert stats.value(catalogue.POOL_USE, labels) == 3
    stats.fold(cells)
    assert stats.value(catalogue.POOL_USE, labels) == 3
    cells[0][0] += 1  # its owner is gone, so nobody counts this
    assert stats.value(catalogue.POOL_USE, labels) == 3


def test_after_a_fork_it_begins_anew_and_cells_stay_counted(stats: Stats) -> None:
    cell = stats.cell(catalogue.TASK_POOL_USES, ("logs", "store", "main"))
    cell[0] += 5
    stats.count(catalogue.NOTIFICATIONS, ("logs", "notify"))
    nonce = stats.nonce
    stats.reset()
    assert stats.nonce != nonce
    assert stats.value(catalogue.TASK_POOL_USES, ("logs", "store", "main")) == 0
    cell[0] += 2
    assert stats.counters() == {"task_pool_uses_total": {("logs", "store", "main"): 2}}


def test_series_are_bounded_and_what_is_dropped_is_counted(stats: Stats) -> None:
    for number in range(MAX_SERIES + 7):
        stats.count(catalogue.NOTIFICATIONS, ("logs", f"operation-{number}"))
    counters = stats.counters()
    assert len(counters["notifications_total"]) == MAX_SERIES
    assert counters["telemetry_dropped_total"] == {("series_limit",): 7}


def test_gauges_are_merged_as_their_family_says_and_a_faulty_source_costs_only_itself(stats: Stats) -> None:
    def source() -> Iterable[Gauge]:
        return [(catalogue.POOL_CONNECTIONS, ("main", "used"), 2), (catalogue.POOL_OLDEST_CHECKOUT, ("main",), 3.0)]

    def other() -> Iterable[Gauge]:
        return [(catalogue.POOL_CONNECTIONS, ("main", "used"), 1), (catalogue.POOL_OLDEST_CHECKOUT, ("main",), 9.0)]

    def faulty() -> Iterable[Gauge]:
        raise KeyError("pool")

    for each in (source, faulty, other):
        stats.add_source(each)
    assert stats.gauges() == {
        "pool_connections": {("main", "used"): 3},
        "pool_oldest_checkout_seconds": {("main",): 9.0},
    }
    assert stats.value(catalogue.TELEMETRY_DROPPED, ("error",)) == 1


def test_a_bound_source_does_not_keep_its_object(stats: Stats) -> None:
    class Pool:
        def gauges(self) -> Iterable[Gauge]:
            return [(catalogue.LOOPS, (), 1)]

    pool = Pool()
    stats.add_source(pool.gauges)
    assert stats.gauges() == {"loops": {(): 1}}
    del pool
    gc.collect()
    assert stats.gauges() == {}


def test_the_catalogue_is_sound() -> None:
    names = [metric.name for metric in catalogue.METRICS]
    assert len(names) == len(set(names))
    for metric in catalogue.METRICS:
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets)), metric.name
        assert metric.help.endswith("."), metric.name
        assert not {"type", "cluster", "env", "region", "job", "instance"} & set(metric.labels), metric.name
    exposed = list(catalogue.exposed_names())
    assert len(exposed) == len(set(exposed))
    assert "loopwatch_pool_wait_seconds_bucket" in exposed
    assert catalogue.by_name("celery_task_failed_total").labels == ("name", "hostname", "queue_name", "exception")


def test_a_source_that_another_thread_has_just_dropped_costs_nothing(stats: Stats) -> None:
    def gone() -> None:  # what two scrapes at once see of a pool that its owner has dropped
        stats._sources.remove(gone)

    stats._sources.append(gone)
    stats.add_source(lambda: [(catalogue.LOOPS, (), 2)])
    assert stats.gauges()["loops"] == {(): 2}
