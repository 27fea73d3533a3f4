"""The intake on a real Redis: whatever is published, good events come through."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from celery import Celery

from benchmarks.stream import in_flight
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.wire import EVENT_TYPE, NodeInfo, NodeSnapshot, Table
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.kombu import KombuIntake
from loopwatch_monitor.intake.redis import RedisIntake
from loopwatch_monitor.intake.status import BrokerStatus, BrokerUnreachableError
from loopwatch_monitor.settings import Settings
from tests.integration.monitor_hub import Consuming, Publisher, consuming
from tests.integration.monitor_process import until
from tests.unit.monitor.poison import GENUINE, POISON, POISONED_ENVELOPES

GOOD = json.dumps({"type": "task-received", "hostname": "w@h", "timestamp": 1.0, "uuid": "1", "name": "t"}).encode()
RECEIVED = "celery_task_received_total{"


@pytest.fixture
def monitor(redis_url: str) -> Iterator[Consuming]:
    with consuming(redis_url) as found:
        yield found
        assert not found.status.lost


@pytest.fixture
def publisher(redis_url: str) -> Iterator[Publisher]:
    publisher = Publisher(redis_url)
    yield publisher
    publisher.close()


def test_a_poisoned_event_costs_no_good_one(monitor: Consuming, publisher: Publisher) -> None:
    """Alone, and in a `task.multi` between two good ones."""
    every = "loopwatch_monitor_events_malformed_total{"
    for number, (name, (body, reason)) in enumerate(POISON.items(), 1):
        before = monitor.malformed(reason)
        publisher.body(body.encode())
        publisher.body(b"[" + GOOD + b"," + body.encode() + b"," + GOOD + b"]")
        publisher.body(GOOD)
        until(lambda number=number: monitor.counted(every) >= 2 * number, name)  # type: ignore[misc]
        assert monitor.malformed(reason) == before + 2, name
    monitor.waits_for(RECEIVED, 3 * len(POISON))
    assert monitor.counted(every) == 2 * len(POISON)


def test_a_poisoned_message_costs_no_good_one(monitor: Consuming, publisher: Publisher) -> None:
    expected = dict.fromkeys(("envelope", "content_type", "json"), 0)
    for data, reason in POISONED_ENVELOPES.values():
        publisher.raw(data if isinstance(data, bytes) else json.dumps(data).encode())
        publisher.body(GOOD)
        expected[reason] += 1
    for body in (b"", b"{", b"not json"):
        publisher.body(body)
        publisher.body(GOOD)
        expected["json"] += 1
    monitor.waits_for(RECEIVED, len(POISONED_ENVELOPES) + 3)
    assert {reason: monitor.malformed(reason) for reason in expected} == expected


def test_genuine_messages_are_read(monitor: Consuming, publisher: Publisher) -> None:
    publisher.raw(json.dumps(GENUINE).encode())
    until(lambda: monitor.counted("loopwatch_monitor_events_total{") > 0, "the events")
    assert monitor.counted("loopwatch_monitor_events_malformed_total{") == 0


def test_a_nodes_snapshot_by_celerys_own_dispatcher(monitor: Consuming, redis_url: str) -> None:
    counters: Table = {catalogue.ENGINES_CREATED.wire_name: {("main",): 3}}
    gauges: dict[int, Table] = {0: {catalogue.LOOPS.wire_name: {(): 1}}}
    snapshot = NodeSnapshot("boot", 1, 5.0, NodeInfo(queues=["logs"]), counters, gauges)
    app = Celery(broker=redis_url, set_as_current=False)
    with app.connection_for_write() as connection, app.events.Dispatcher(connection, hostname="logs@h") as dispatcher:
        dispatcher.send(EVENT_TYPE, **snapshot.to_fields())
    monitor.waits_for("loopwatch_monitor_snapshots_total", 1)
    assert monitor.counted('loopwatch_engines_created_total{hostname="logs@h",pool="main"}') == 3
    assert monitor.counted('loopwatch_loops{hostname="logs@h",slot="0"}') == 1
    assert monitor.counted('loopwatch_worker_queue{hostname="logs@h",queue_name="logs"}') == 1


def test_an_event_of_5_megabytes(monitor: Consuming, publisher: Publisher) -> None:
    event = {"type": "task-failed", "hostname": "w@h", "timestamp": 1.0, "uuid": "1"}
    publisher.body(json.dumps(event | {"exception": "Big(" + "x" * 5_000_000, "traceback": "y\n" * 2_500_000}).encode())
    monitor.waits_for("celery_task_failed_total{", 1)


def test_30_000_tasks_in_flight_keep_their_names_and_queues(monitor: Consuming, publisher: Publisher) -> None:
    """All are sent and received before the first of them ends: what a table of 10,000 forgets."""
    tasks = 30_000
    bodies = [*in_flight(tasks)]
    # A third at a time, or Redis might throw a subscriber out that a loaded machine keeps from reading.
    for third, events in enumerate((1, 3, 4)):
        publisher.bodies(bodies[third * tasks : (third + 1) * tasks])
        monitor.waits_for("loopwatch_monitor_events_total{", events * tasks)
    monitor.waits_for("celery_task_succeeded_total{", tasks)
    for number in range(21):
        labels = f'{{name="t{number % 7}",hostname="w@h",queue_name="q{number % 3}"}}'
        expected = len(range(number, tasks, 21))
        for family in ("celery_task_received_total", "celery_task_started_total", "celery_task_succeeded_total"):
            assert monitor.counted(family + labels) == expected
    assert monitor.counted('loopwatch_monitor_table_entries{table="tasks"}') == 0


def test_a_broker_that_is_not_redis() -> None:
    """kombu's in-memory one: like AMQP's, its event exchange is a topic."""
    with consuming("memory://") as monitor:
        app = Celery(broker="memory://", set_as_current=False)
        with app.connection_for_write() as connection, app.events.Dispatcher(connection, hostname="w@h") as dispatcher:
            dispatcher.send("task-received", uuid="1", name="t")
            dispatcher.send("worker-heartbeat", active=1)
        monitor.waits_for(RECEIVED, 1)
        monitor.waits_for("celery_worker_up{", 1)


@pytest.mark.parametrize("intake", [RedisIntake, KombuIntake])
def test_wrong_credentials_are_told_without_them(redis_url: str, intake: type[RedisIntake] | type[KombuIntake]) -> None:
    head, _, tail = redis_url.partition("@")
    wrong = f"{head.rpartition(':')[0]}:not-the-password@{tail}"
    hub = Hub(Settings(broker_url=wrong), status=BrokerStatus(), version="1")
    with pytest.raises(BrokerUnreachableError, match=r"WRONGPASS|invalid") as caught:
        intake(wrong, sink=hub.receive, status=BrokerStatus()).probe()
    assert "not-the-password" not in str(caught.value)
