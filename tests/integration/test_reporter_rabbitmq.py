"""The reporter over AMQP: a RabbitMQ that is killed, frozen and started again, and a worker that lives through it."""

from __future__ import annotations

import gc
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

import loopwatch
from loopwatch.celery.publisher import EventPublisher
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS
from tests.acceptance.workers import DEADLINE, Listener, wait_until, worker
from tests.rabbitmq import RabbitMQ

NODE = f"script@{socket.gethostname()}"


@pytest.fixture
def broker(own_rabbitmq: RabbitMQ) -> RabbitMQ:
    return own_rabbitmq


@pytest.fixture
def app(broker: RabbitMQ) -> Iterator[Celery[Any]]:
    with Celery("app", broker=broker.url(), set_as_current=False) as app:
        yield app


def _dropped() -> float:
    return STATS.value(catalogue.TELEMETRY_DROPPED, ("broker",))


def _snapshot(listener: Listener) -> dict[str, Any]:
    wait_until(lambda: NODE in listener.snapshots)
    return listener.snapshots[NODE]


def _published(publisher: EventPublisher) -> bool:
    """Whether the broker took an event: one that has just been started, or frozen, may be slower than it may be."""
    try:
        publisher.publish("loopwatch-snapshot", {})
    except (OSError, OperationalError):
        return False
    return True


def _threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name == "loopwatch-reporter")


def _sockets() -> int:
    gc.collect()  # a client of an earlier test closes its socket when it is collected, whenever that is
    return sum("socket:" in str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())


def test_a_broker_that_is_killed_and_comes_back(broker: RabbitMQ, app: Celery[Any]) -> None:
    STATS.count(catalogue.NOTIFICATIONS, ("", "rabbit"), 3)
    with loopwatch.report(app, name="script", interval=0.1):
        with Listener(broker.url()) as listener:
            first = _snapshot(listener)
            told = listener.sum(NODE, catalogue.NOTIFICATIONS, "", "rabbit")
        before, sockets = _dropped(), _sockets()
        broker.kill()
        wait_until(lambda: _dropped() >= before + 20)
        STATS.count(catalogue.NOTIFICATIONS, ("", "rabbit"), 2)
        assert _sockets() <= sockets + 2
        broker.start()
        with Listener(broker.url()) as listener:
            last = _snapshot(listener)
            assert listener.sum(NODE, catalogue.NOTIFICATIONS, "", "rabbit") == told + 2
            assert listener.sum(NODE, catalogue.TELEMETRY_DROPPED, "broker") >= before + 20
        assert last["boot"] == first["boot"]
        # Each that did not arrive was counted, but for those that nobody listened for: one was written at most.
        assert last["seq"] > first["seq"] + 20
    wait_until(lambda: not _threads(), _threads)


def test_a_closed_connection_is_noticed_before_an_event_is_lost_on_it(broker: RabbitMQ, app: Celery[Any]) -> None:
    publisher = EventPublisher(app, NODE)
    wait_until(lambda: _published(publisher))
    broker.kill()
    broker.start()
    with pytest.raises(OSError):  # noqa: PT011  # amqp's kinds of it
        publisher.publish("loopwatch-snapshot", {})
    wait_until(lambda: _published(publisher))
    publisher.close()


def test_a_broker_that_hangs_holds_nobody_up_and_nothing_is_left(broker: RabbitMQ, app: Celery[Any]) -> None:
    sockets, before = _sockets(), _dropped()
    broker.signal(signal.SIGSTOP)
    try:
        # It accepts, in the kernel, and never answers.
        with loopwatch.report(app, name="script", interval=0.1):
            wait_until(lambda: _dropped() > before)
        wait_until(lambda: not _threads(), _threads)
        wait_until(lambda: _sockets() <= sockets, _sockets)
    finally:
        broker.signal(signal.SIGCONT)


def test_a_connection_is_closed_although_nobody_answers(broker: RabbitMQ, app: Celery[Any]) -> None:
    publisher = EventPublisher(app, NODE)
    sockets = _sockets()
    wait_until(lambda: _published(publisher))
    assert _sockets() == sockets + 1
    broker.signal(signal.SIGSTOP)
    try:
        publisher.close()
        assert _sockets() == sockets
    finally:
        broker.signal(signal.SIGCONT)


def test_a_broker_that_freezes_for_a_while_gets_the_rest_later(broker: RabbitMQ, app: Celery[Any]) -> None:
    with Listener(broker.url()) as listener, loopwatch.report(app, name="script", interval=0.1):
        newest = _snapshot(listener)["seq"]
        broker.signal(signal.SIGSTOP)
        frozen = threading.Event()
        threading.Timer(3, frozen.set).start()
        assert frozen.wait(DEADLINE)
        STATS.count(catalogue.NOTIFICATIONS, ("", "frozen"))
        broker.signal(signal.SIGCONT)
        wait_until(lambda: listener.sum(NODE, catalogue.NOTIFICATIONS, "", "frozen") == 1)
        assert listener.snapshots[NODE]["seq"] > newest


def test_a_worker_that_connects_again_has_one_reporter_and_counts_on(
    broker: RabbitMQ, redis_url: str, tmp_path: Path
) -> None:
    environment = {"RABBITMQ_URL": broker.url(), "REDIS_URL": redis_url}

    def send(listener: Listener, task: str) -> Any:
        return listener.app.send_task(f"tests.acceptance.worker_app.{task}").get(timeout=DEADLINE)

    with worker("w", tmp_path / "log", environment, "-c", "1", "-P", "solo") as running:
        with Listener(broker.url(), results=redis_url) as listener:
            send(listener, "notify")
            wait_until(lambda: listener.sum(running.node, catalogue.NOTIFICATIONS) == 1, lambda: listener.snapshots)
            before = listener.snapshots[running.node]
        broker.kill()
        wait_until(lambda: "onnection to broker lost" in running.log, lambda: running.log)
        broker.start()
        with Listener(broker.url(), results=redis_url) as listener:
            assert send(listener, "threads").count("loopwatch-reporter") == 1
            send(listener, "notify")
            # More than one more where the broker had lost an acknowledgement, and sent a task again.
            wait_until(lambda: listener.sum(running.node, catalogue.NOTIFICATIONS) >= 2, lambda: listener.snapshots)
            after = listener.snapshots[running.node]
            assert after["boot"] == before["boot"]
            assert after["seq"] > before["seq"]
