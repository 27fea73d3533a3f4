"""Bytes on the way: a child's snapshot, a node's event, and what happens above the cap. Sizes are no timing."""

from __future__ import annotations

import pytest
from kombu.serialization import dumps

from loopwatch.telemetry import catalogue, wire
from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.children import gather_gauges
from loopwatch.telemetry.stats import MAX_LABEL, Stats
from loopwatch.telemetry.wire import Assembler, ChildSnapshot, Labels, NodeInfo, NodeSnapshot, Table, Value

QUEUES = ("logs", "content", "roadmap_workflow")
DATABASES = ("main", "replica")
CLIENTS = ("redis", "llm")


def _histogram(metric: Metric) -> Value:
    return [1234, 567, 89, 12, 3, *[0] * (len(metric.buckets) - 4), 1234.567890123]


def _counters(pools: tuple[str, ...]) -> Table:
    """All that a child can have counted: each queue on each pool, notifications and conflicts in each."""
    table: Table = {}

    def add(metric: Metric, labels: Labels, value: Value) -> None:
        table.setdefault(metric.wire_name, {})[labels] = value

    for pool in pools:
        add(catalogue.ENGINES_CREATED, (pool,), 12)
        add(catalogue.ENGINES_DISPOSED, (pool, "loop_end"), 11)
        add(catalogue.POOL_CREATE, (pool,), _histogram(catalogue.POOL_CREATE))
        add(catalogue.POOL_INVALIDATED, (pool,), 1)
        for queue in QUEUES:
            task = (queue, f"app.tasks.{queue}.generate", pool)
            for histogram in (catalogue.POOL_WAIT, catalogue.POOL_USE):
                add(histogram, (queue, pool), _histogram(histogram))
            add(catalogue.POOL_TIMEOUTS, (queue, pool), 0)
            add(catalogue.TASK_POOL_USES, task, 1234)
            add(catalogue.TASK_POOL_WAIT, task, 12.345678901234)
    for queue in QUEUES:
        add(catalogue.NOTIFICATIONS, (queue, "notify"), 1200)
        add(catalogue.LOOP_CONFLICTS, (queue, f"app.tasks.{queue}.generate", "asyncpg", "cross_loop", "guard"), 3)
        for reason in ("timeout", "loop_conflict", "error"):
            add(catalogue.NOTIFICATION_FAILURES, (queue, "notify", reason), 0)
    return table


def _gauges(pools: tuple[str, ...]) -> Table:
    table: Table = {catalogue.LOOPS.wire_name: {(): 1}}

    def add(metric: Metric, labels: Labels, value: Value) -> None:
        table.setdefault(metric.wire_name, {})[labels] = value

    for pool in pools:
        add(catalogue.POOL_INFO, (pool, "sqlalchemy", f"db.example.internal:5432/{pool}"), 1)
        add(catalogue.POOL_CONNECTIONS, (pool, "idle"), 2)
        add(catalogue.POOL_CONNECTIONS, (pool, "used"), 3)
        add(catalogue.POOL_OLDEST_CHECKOUT, (pool,), 0.123456789012)
        add(catalogue.POOL_CHECKED_OUT, (QUEUES[0], pool), 3)
        for metric in (
            catalogue.ENGINES,
            catalogue.ENGINES_ORPHANED,
            catalogue.POOL_CONNECTIONS_MAX,
            catalogue.POOL_CONNECTIONS_PEAK,
            catalogue.POOL_PENDING_REQUESTS,
        ):
            add(metric, (pool,), 15)
    for queue in QUEUES:
        add(catalogue.TASK_OLDEST_RUNNING, (queue,), 12.345678901234)
    return table


def _child(pools: tuple[str, ...]) -> ChildSnapshot:
    return ChildSnapshot(123456, "abcdef01", 15, 86400, _counters(pools), _gauges(pools))


def test_a_childs_snapshot_of_3_queues_and_2_pools_is_4_kb() -> None:
    (datagram,) = wire.encode_child(_child(DATABASES))
    assert len(datagram) <= 4_000


def test_a_nodes_event_of_16_slots_3_queues_and_4_pools_is_under_32_kb() -> None:
    pools = DATABASES + CLIENTS
    info = NodeInfo("celery", "prefork", list(QUEUES), 16, 1795533737.422458, "5.7.0", "0.1.0", "1.2.3")
    gauges = {slot: _gauges(pools) for slot in range(16)}
    whole = len(dumps(NodeSnapshot("f" * 16, 86400, 5.0, info, _counters(pools), gauges).to_fields())[2])
    gather_gauges(gauges, 0)
    _, _, body = dumps(NodeSnapshot("f" * 16, 86400, 5.0, info, _counters(pools), gauges).to_fields())
    assert len(body) <= 24_000
    assert whole > len(body) + 4_000  # what is told once, not once a slot


def test_above_the_cap_a_snapshot_is_split_and_nothing_is_lost() -> None:
    snapshot = _child(tuple(f"database_{number}" for number in range(20)))
    datagrams = wire.encode_child(snapshot)
    assert len(datagrams) > 1
    assert max(map(len, datagrams)) <= wire.MAX_DATAGRAM
    assembler = Assembler()
    *before, whole = [assembler.add(wire.decode_child(datagram)) for datagram in datagrams]
    assert before == [None] * len(before)
    assert whole is not None
    assert whole.counters == wire.decode_table(_as_json(snapshot.counters))
    assert whole.gauges == wire.decode_table(_as_json(snapshot.gauges))


def _as_json(table: Table) -> dict[str, list[tuple[list[str], Value]]]:
    return {
        family: [(list(labels), value) for labels, value in rows] for family, rows in wire.encode_table(table).items()
    }


@pytest.mark.parametrize("character", ["a", "ü", "\N{SNAKE}"])
def test_no_label_can_make_a_datagram_that_the_parent_cannot_take(character: str) -> None:
    stats = Stats()
    longest = character * MAX_LABEL
    stats.count(catalogue.LOOP_CONFLICTS, (longest,) * 5)
    stats.count(catalogue.NOTIFICATIONS, (longest, longest + character))
    stats.observe(catalogue.POOL_WAIT, (longest + character, longest), 1.0)
    assert stats.value(catalogue.TELEMETRY_DROPPED, ("series_limit",)) == 2
    datagrams = wire.encode_child(ChildSnapshot(1, "a", 0, 1, stats.counters()))
    # What `Channel` reads at once. A character beyond the basic plane takes 12 bytes.
    assert max(map(len, datagrams)) <= 2 * wire.MAX_DATAGRAM
