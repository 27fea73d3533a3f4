"""The fold under random events, answers and time, out of order, twice or not at all: nothing is raised, no table passes
its bound, no counter falls, and the batches make no difference to snapshots either."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.wire import EVENT_TYPE, Value
from loopwatch_monitor.intake.batch import Batch
from loopwatch_monitor.intake.decode import decode
from loopwatch_monitor.state.queues import Depth
from loopwatch_monitor.state.samples import Samples
from loopwatch_monitor.state.workers import Answer
from tests.unit.monitor.monitored import Monitored
from tests.unit.monitor.test_fold_order import GOOD, page

HOSTS = st.sampled_from(["a@h", "b@h", "c@h", "d@h", "e@h", "x" * 300])
QUEUES = st.sampled_from(["q", "r", "s", "t", "", "y" * 300])
UUIDS = st.sampled_from([str(number) for number in range(8)])
LABEL = st.sampled_from(["main", "q", "z" * 300])
NUMBER = st.one_of(st.integers(-1, 9), st.floats(-1, 9))


def rows(metric: Metric) -> st.SearchStrategy[list[Any]]:
    """What its family says of them."""
    size = len(metric.own_labels)
    buckets = len(metric.buckets) + 2
    value: st.SearchStrategy[Any] = NUMBER
    if metric.kind == "histogram":
        value = st.lists(st.integers(0, 9), min_size=buckets, max_size=buckets)
    return st.lists(st.tuples(st.lists(LABEL, min_size=size, max_size=size), value), max_size=3)


ODD = st.lists(st.tuples(st.lists(LABEL, max_size=5), st.one_of(NUMBER, st.lists(NUMBER, max_size=3))), max_size=2)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        **{
            metric.wire_name: st.one_of(rows(metric), ODD)
            for metric in (
                *(catalogue.ENGINES_CREATED, catalogue.POOL_WAIT, catalogue.TASK_POOL_USES, catalogue.LOOP_CONFLICTS),
                *(catalogue.POOL_INFO, catalogue.POOL_CONNECTIONS_MAX, catalogue.POOL_CONNECTIONS_PEAK),
            )
        },
        "newer_total": ODD,
    },
)
SNAPSHOT = st.fixed_dictionaries(
    {
        "type": st.just(EVENT_TYPE),
        "hostname": HOSTS,
        "timestamp": st.floats(0, 2e9),
        "version": st.just(1),
        "boot": st.sampled_from(["1", "2", "3"]),
        "seq": st.integers(-1, 9),
        "interval": st.floats(-1, 1e9),
        "info": st.fixed_dictionaries(
            {},
            optional={
                "kind": st.sampled_from(["celery", "process"]),
                "queues": st.lists(QUEUES, max_size=3),
                "slots": st.integers(-1, 9),
            },
        ),
        "counters": ROWS,
        "gauges": st.dictionaries(st.sampled_from(["0", "1", "s" * 300]), ROWS, max_size=2),
    },
    optional={"stopping": st.booleans()},
)
TASK = st.builds(
    lambda event, more: event | more,
    GOOD,
    st.fixed_dictionaries(
        {"hostname": HOSTS, "uuid": UUIDS},
        optional={"queue": QUEUES, "eta": st.one_of(st.none(), st.text(max_size=3)), "processed": st.integers(-5, 50)},
    ),
)
EVENT = st.one_of(TASK, SNAPSHOT)
STEP = st.one_of(
    st.lists(EVENT, min_size=1, max_size=5),
    st.floats(0, 700),
    st.dictionaries(
        HOSTS,
        st.builds(
            Answer,
            st.one_of(st.none(), st.lists(QUEUES, max_size=3).map(tuple)),
            st.one_of(st.none(), st.integers(0, 9)),
            st.one_of(st.none(), st.integers(0, 99)),
        ),
        max_size=3,
    ),
    st.dictionaries(
        QUEUES, st.builds(Depth, st.integers(0, 9), st.one_of(st.none(), st.integers(0, 9))), max_size=3
    ).map(lambda depths: [*depths.items()]),
)
COUNTING = [metric for metric in catalogue.METRICS if metric.kind != "gauge"]


def tiny(purge: float) -> Monitored:
    """A fleet whose every table is soon full."""
    monitored = Monitored(max_tasks=3, purge=purge, worker_timeout=60, queues=("q",))
    fleet = monitored.fleet
    fleet.early.limit = fleet.series.limit = fleet.workers.limit = fleet.processes.limit = 3
    fleet.conflicts.limit = fleet.totals.limit = fleet.queues.limit = 2
    return monitored


def take(monitored: Monitored, step: Any) -> None:
    match step:
        case float():
            monitored.after(step)
        case dict():
            monitored.fleet.answered(step, monitored.clock)
        case [(_, Depth()), *_]:
            monitored.fleet.measured(dict(step), monitored.clock)
        case _:
            events = decode(json.dumps(step).encode(), monitored.fleet.ledger.malformed)
            assert len(events) == len(step)
            monitored.fold(*events)


def counters(monitored: Monitored) -> dict[tuple[str, str], Value]:
    return {
        (metric.name, text): [*value] if isinstance(value, list) else value
        for metric in COUNTING
        for text, value in monitored.series(metric).items()
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(STEP, max_size=12), st.data())
def test_whatever_comes_nothing_raises_bounds_hold_and_no_counter_falls(steps: list[Any], data: st.DataObject) -> None:
    # In any order, some twice, some never.
    order = data.draw(st.lists(st.integers(0, max(len(steps) - 1, 0)), max_size=2 * len(steps)))
    monitored = tiny(purge=0)
    tables = Samples(monitored.fleet, version="1").tables
    at_first = {*monitored.fleet.ledger.dropped}
    before: dict[tuple[str, str], Value] = {}
    for place in order:
        take(monitored, steps[place])
        for table, (entries, limit) in tables().items():
            assert entries <= limit, table
        processes = monitored.fleet.processes
        lives = [boot for node in processes.nodes.values() for boot in node.boots.values()]
        assert processes.rows == sum(len(boot.counters) for boot in lives)
        shown = [
            rows for node in processes.nodes.values() for gauges in node.shown.values() for rows in gauges.values()
        ]
        assert processes.gauges == sum(map(len, shown))
        assert monitored.fleet.ledger.dropped.keys() == at_first, "a drop may be the only one: its counter begins at 0"
        now = counters(monitored)
        for key, value in before.items():
            assert not fell(value, now[key]), key
        before = now
        for metric in catalogue.METRICS:
            series = monitored.series(metric)
            assert all(len(text) < 3_000 for text in series)


def fell(before: Value, now: Value) -> bool:
    if isinstance(before, list) and isinstance(now, list):
        return any(new < old for old, new in zip(before, now, strict=True))
    assert not isinstance(before, list)
    assert not isinstance(now, list)
    return now < before


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(STEP, max_size=12))
def test_once_all_are_silent_for_long_nothing_is_left_but_what_tells_no_host_apart(steps: list[Any]) -> None:
    monitored = tiny(purge=600)
    for step in steps:
        take(monitored, step)
    for _ in range(3):
        monitored.after(700)
    entries = {table: entries for table, (entries, _) in Samples(monitored.fleet, version="1").tables().items()}
    assert entries["hosts"] == entries["nodes"] == entries["task_series"] == entries["event_conflicts"] == 0
    for metric in catalogue.METRICS:
        if "hostname" in metric.labels:
            assert monitored.series(metric) == {}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(EVENT, max_size=15), st.data())
def test_how_snapshots_are_batched_makes_no_difference(stream: list[dict[str, Any]], data: st.DataObject) -> None:
    together, mixed = Batch(), []
    together.add(json.dumps(stream).encode(), "application/json")
    left = list(stream)
    while left:
        size = data.draw(st.integers(1, len(left)))
        mixed.append(Batch())
        mixed[-1].add(json.dumps(left[:size]).encode(), "application/json")
        left = left[size:]
    assert page([together]) == page(mixed)
