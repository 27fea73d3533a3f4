"""The kombu intake on a real Redis: whatever is published, good events come through."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.wire import EVENT_TYPE, NodeInfo, NodeSnapshot, Table
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.kombu import BrokerUnreachableError, KombuIntake
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.settings import Settings
from tests.integration.monitor_process import until

GOOD = json.dumps({"type": "task-received", "hostname": "w@h", "timestamp": 1.0, "uuid": "1", "name": "t"}).encode()


@pytest.fixture
def hub(redis_url: str) -> Iterator[Hub]:
    status = BrokerStatus()
    hub = Hub(Settings(broker_url=redis_url), status=status, version="1")
    intake = KombuIntake(redis_url, sink=hub.receive, refused=hub.refuse, status=status)
    intake.start()
    until(lambda: status.up, "the connection")
    yield hub
    intake.close()
    assert not status.lost


class Publisher:
    """Publishes what a worker would, and what none would."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._channel = f"/{url.rpartition('/')[2]}.celeryev/task.multi"

    def raw(self, data: bytes) -> None:
        assert self._client.publish(self._channel, data) == 1

    def body(self, body: bytes, changes: dict[str, Any] | None = None) -> None:
        envelope = {
            "body": base64.b64encode(body).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {},
            "properties": {
                "delivery_mode": 1,
                "delivery_info": {"exchange": "celeryev", "routing_key": "task.multi"},
                "body_encoding": "base64",
                "delivery_tag": "1",
                "priority": 0,
            },
        }
        self.raw(json.dumps(envelope | (changes or {})).encode())

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def publisher(redis_url: str) -> Iterator[Publisher]:
    publisher = Publisher(redis_url)
    yield publisher
    publisher.close()


def counted(hub: Hub, name: str) -> float:
    """The sum of the samples that begin so, now."""
    hub.tick()
    lines = hub.page().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def malformed(hub: Hub, reason: str) -> float:
    return counted(hub, f'loopwatch_monitor_events_malformed_total{{reason="{reason}"}}')


def test_poison_on_the_wire_costs_no_good_event(hub: Hub, publisher: Publisher) -> None:
    bad: dict[str, dict[str, Any]] = {
        "bad base64": {"body": "A"},
        "no properties": {"properties": None},
        "a body that is a number": {"body": 42},
        "a body that does not decompress": {"headers": {"compression": "application/x-gzip"}},
        "a codec that nobody has": {"headers": {"compression": "nonsense"}},
    }
    for changes in bad.values():
        publisher.body(GOOD, changes)
        publisher.body(GOOD)
    publisher.body(b"")
    publisher.body(b"42")
    publisher.body(b"\x80\x04N.", {"content-type": "application/x-python-serialize"})
    publisher.body(b"[" + GOOD + b',{"type":"task-received"},' + GOOD + b"]")
    until(lambda: counted(hub, "celery_task_received_total{") == len(bad) + 2, "all good events")
    assert malformed(hub, "envelope") == len(bad)
    assert malformed(hub, "json") == 1
    assert malformed(hub, "shape") == 1
    assert malformed(hub, "content_type") == 1
    assert malformed(hub, "field") == 1


def test_what_is_not_even_an_envelope_is_skipped(hub: Hub, publisher: Publisher) -> None:
    for data in (b"not json", b"[]", b"\xff\xfe", b"42", b"{}"):
        publisher.raw(data)
        publisher.body(GOOD)
    until(lambda: counted(hub, "celery_task_received_total{") == 5, "all good events")


def test_a_nodes_snapshot_by_celerys_own_dispatcher(hub: Hub, redis_url: str) -> None:
    counters: Table = {catalogue.ENGINES_CREATED.wire_name: {("main",): 3}}
    gauges: dict[int, Table] = {0: {catalogue.LOOPS.wire_name: {(): 1}}}
    snapshot = NodeSnapshot("boot", 1, 5.0, NodeInfo(queues=["logs"]), counters, gauges)
    app = Celery(broker=redis_url, set_as_current=False)
    with app.connection_for_write() as connection, app.events.Dispatcher(connection, hostname="logs@h") as dispatcher:
        dispatcher.send(EVENT_TYPE, **snapshot.to_fields())
    until(lambda: counted(hub, "loopwatch_monitor_snapshots_total") == 1, "the snapshot")
    assert counted(hub, 'loopwatch_engines_created_total{hostname="logs@h",pool="main"}') == 3
    assert counted(hub, 'loopwatch_loops{hostname="logs@h",slot="0"}') == 1
    assert counted(hub, 'loopwatch_worker_queue{hostname="logs@h",queue_name="logs"}') == 1


def test_an_event_of_5_megabytes(hub: Hub, publisher: Publisher) -> None:
    event = {"type": "task-failed", "hostname": "w@h", "timestamp": 1.0, "uuid": "1"}
    publisher.body(json.dumps(event | {"exception": "Big(" + "x" * 5_000_000, "traceback": "y\n" * 2_500_000}).encode())
    until(lambda: counted(hub, "celery_task_failed_total{") == 1, "the failure")


def test_a_broker_that_is_not_redis() -> None:
    """kombu's in-memory one: like AMQP's, its event exchange is a topic."""
    status = BrokerStatus()
    hub = Hub(Settings(broker_url="memory://"), status=status, version="1")
    intake = KombuIntake("memory://", sink=hub.receive, refused=hub.refuse, status=status)
    intake.start()
    until(lambda: status.up, "the connection")
    app = Celery(broker="memory://", set_as_current=False)
    with app.connection_for_write() as connection, app.events.Dispatcher(connection, hostname="w@h") as dispatcher:
        dispatcher.send("task-received", uuid="1", name="t")
        dispatcher.send("worker-heartbeat", active=1)
    until(lambda: counted(hub, "celery_task_received_total{") == 1, "the event")
    until(lambda: counted(hub, "celery_worker_up{") == 1, "the heartbeat")
    intake.close()


def test_wrong_credentials_are_told_without_them(redis_url: str) -> None:
    head, _, tail = redis_url.partition("@")
    wrong = f"{head.rpartition(':')[0]}:not-the-password@{tail}"
    intake = KombuIntake(wrong, sink=lambda body, kind: None, refused=lambda reason: None, status=BrokerStatus())
    with pytest.raises(BrokerUnreachableError) as caught:
        intake.probe()
    assert "not-the-password" not in str(caught.value)
