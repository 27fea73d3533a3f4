"""The monitor on a real RabbitMQ: exact counts, nothing left behind, outages survived."""

# kombu is typed in parts.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from amqp.exceptions import NotFound, ResourceLocked
from celery import Celery
from kombu import Connection, Exchange

from benchmarks.publish import to_rabbitmq
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.kombu import KombuIntake
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.polls.questions import make_questions
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.queues import Depth
from tests.integration.monitor_hub import consuming, emit
from tests.integration.monitor_process import MONITOR, running_monitor, running_worker, until
from tests.ports import refusing_port
from tests.rabbitmq import MONITOR as MONITOR_USER
from tests.rabbitmq import MONITORS_OWN, USER, RabbitMQ, start_rabbitmq
from tests.unit.monitor.poison import POISON


@pytest.fixture
def own_server(rabbitmq_server: RabbitMQ, tmp_path: Path) -> Iterator[RabbitMQ]:
    """One that the test may kill; asked for after the shared one, which skips where there is none."""
    server = start_rabbitmq(tmp_path / "rabbitmq")
    yield server
    server.close()


def test_every_task_of_a_worker_is_counted_by_queue(rabbitmq_url: str, tmp_path: Path) -> None:
    with (
        running_monitor(rabbitmq_url, tmp_path) as monitor,
        running_worker(rabbitmq_url, tmp_path, "w@here", "logs,content"),
    ):
        until(lambda: monitor.value("celery_worker_up") == 1, "the worker")
        with Celery(broker=rabbitmq_url, set_as_current=False) as app:
            app.conf.update(task_send_sent_event=True, task_ignore_result=True)
            for name, queue, number in (("ok", "logs", 40), ("ok", "content", 10), ("bad", "logs", 3)):
                for _ in range(number):
                    app.send_task(name, queue=queue)
        until(lambda: monitor.value("celery_task_succeeded_total") == 50, "the successes")
        until(lambda: monitor.value("celery_task_failed_total") == 3, "the failures")
        # Told by another connection than the end of the tasks: they may come in any order.
        until(lambda: monitor.value("celery_task_sent_total") == 53, "the sendings")
        assert monitor.series("celery_task_succeeded_total") == {
            ("ok", "w@here", "logs"): 40,
            ("ok", "w@here", "content"): 10,
        }
        assert monitor.series("celery_task_failed_total") == {("bad", "w@here", "logs", "KeyError"): 3}
        assert monitor.value("loopwatch_monitor_reconnects_total") == 0


def test_everything_over_tls(rabbitmq_server: RabbitMQ, rabbitmq_url: str, tmp_path: Path) -> None:
    """Events and both questions; the server is verified by default, and is refused where nobody vouches for it."""
    url = rabbitmq_server.tls_url(rabbitmq_url.rpartition("/")[2])
    with (
        running_worker(rabbitmq_url, tmp_path, "w@here", "logs"),
        running_monitor(url, tmp_path, "--broker-ssl-option", f"ca_certs={rabbitmq_server.certificate}") as monitor,
    ):
        with Celery(broker=rabbitmq_url, set_as_current=False) as app:
            app.send_task("ok", queue="logs")
        until(lambda: monitor.value("celery_task_succeeded_total") == 1, "the success")
        until(lambda: monitor.series("celery_active_process_count") == {("logs",): 2}, "the worker's answer", 150)
        until(lambda: monitor.series("celery_active_consumer_count") == {("logs",): 1}, "the queue's consumers")
    result = subprocess.run([*MONITOR, "--broker-url", url], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "certificate verify failed" in result.stderr


def test_the_event_queue_is_the_monitors_alone_and_goes_with_it(
    rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = uuid.UUID(int=1)
    monkeypatch.setattr(uuid, "uuid4", lambda: name)
    status = BrokerStatus()
    hub = Hub(Settings(broker_url=rabbitmq_url), status=status, version="1")
    intake = KombuIntake(rabbitmq_url, sink=hub.receive, status=status)
    intake.start()
    until(lambda: status.up, "the connection")
    with Connection(rabbitmq_url) as connection, pytest.raises(ResourceLocked):
        connection.channel().queue_declare(f"celeryev.{name}", passive=True)
    intake.close()

    def gone() -> bool:
        with Connection(rabbitmq_url) as connection:
            try:
                connection.channel().queue_declare(f"celeryev.{name}", passive=True)
            except NotFound:
                return True
            except ResourceLocked:
                return False
        return False

    until(gone, "the queue's end")


def test_a_broker_that_is_killed_and_comes_back(own_server: RabbitMQ, tmp_path: Path) -> None:
    with running_monitor(own_server.url(), tmp_path) as monitor:
        emit(own_server.url(), 10)
        until(lambda: monitor.value("celery_task_received_total") == 10, "10 events")
        own_server.kill()
        until(lambda: monitor.value("loopwatch_monitor_broker_up") == 0, "broker_up 0")
        until(lambda: monitor.value("loopwatch_monitor_reconnects_total") == 1, "the loss to be counted")
        assert monitor.value("celery_task_received_total") == 10
        own_server.start()
        until(lambda: monitor.value("loopwatch_monitor_broker_up") == 1, "broker_up 1")
        emit(own_server.url(), 5)
        until(lambda: monitor.value("celery_task_received_total") == 15, "15 events")
        assert monitor.value("loopwatch_monitor_reconnects_total") == 1
        assert own_server.password not in monitor.log.read_text()


def test_a_wrong_password_is_one_line_and_exit_code_2(rabbitmq_server: RabbitMQ, rabbitmq_url: str) -> None:
    command = [*MONITOR, "--broker-url", rabbitmq_url.replace(rabbitmq_server.password, "not-the-password")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "--broker-url" in line
    assert "not-the-password" not in line


def test_a_user_who_is_a_monitor_and_nothing_else(rabbitmq_url: str, tmp_path: Path) -> None:
    """With the rights that the documentation gives him."""
    assert f"own='{MONITORS_OWN}'\n" in (Path(__file__).parents[2] / "docs" / "monitor.md").read_text()
    url = rabbitmq_url.replace(f"//{USER}:", f"//{MONITOR_USER}:")
    with running_worker(rabbitmq_url, tmp_path, "w@here", "logs"), consuming(url) as monitor:
        emit(rabbitmq_url, 3)
        monitor.waits_for("celery_task_received_total{", 3)
        ask = make_questions(url, options={}, ssl_options={})
        assert ask.queues(["logs", "none"]) == {"logs": Depth(0, 1), "none": Depth(0, 0)}
        until(lambda: "w@here" in ask.workers(), "the worker's answer")


def test_of_several_servers_the_first_that_answers(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that hangs nor one that refuses keeps the monitor from the third."""
    monkeypatch.setattr("loopwatch_monitor.intake.kombu.CONNECT_TIMEOUT", 0.5)
    monkeypatch.setattr("loopwatch_monitor.polls.kombu.ANSWER_SECONDS", 0.5)
    with socket.socket() as silent, refusing_port() as refusing:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"amqp://127.0.0.1:{silent.getsockname()[1]}//;amqp://127.0.0.1:{refusing}//;{rabbitmq_url}"
        with consuming(url) as monitor:
            emit(rabbitmq_url, 3)
            monitor.waits_for("celery_task_received_total{", 3)
        assert make_questions(url, options={}, ssl_options={}).queues(["none"]) == {"none": Depth(0, 0)}


def test_whatever_is_published_good_events_come_through(rabbitmq_url: str) -> None:
    good = {"type": "task-received", "hostname": "w@h", "timestamp": 1.0, "uuid": "1", "name": "t"}
    with consuming(rabbitmq_url) as monitor, Connection(rabbitmq_url) as connection:
        producer = connection.Producer(exchange=Exchange("celeryev", type="topic"))

        def publish(body: bytes, content_type: str = "application/json", **more: Any) -> None:
            producer.publish(body, "task.multi", 1, content_type=content_type, content_encoding="utf-8", **more)
            producer.publish(json.dumps(good).encode(), "task.multi", 1, content_type="application/json")

        for body, _ in POISON.values():
            publish(f"[{json.dumps(good)},{body},{json.dumps(good)}]".encode())
        publish(b"")
        publish(b"\xff\xfe")
        publish(b"\x80\x04N.", "application/x-python-serialize")
        publish(b"not gzip", headers={"compression": "application/x-gzip"})
        monitor.waits_for("celery_task_received_total{", 3 * len(POISON) + 4)
        reasons = [reason for _, reason in POISON.values()]
        assert monitor.malformed("json") == reasons.count("json") + 2
        assert monitor.malformed("content_type") == 1
        assert monitor.malformed("envelope") == 1
        assert monitor.malformed("field") == reasons.count("field")


def test_a_stream_of_recorded_events_is_taken_in_whole(rabbitmq_url: str) -> None:
    """By what `make bench` publishes it with, as fast as it goes and evenly."""
    with consuming(rabbitmq_url) as monitor:
        to_rabbitmq(rabbitmq_url, 50)
        to_rabbitmq(rabbitmq_url, 50, seconds=0.1)
        monitor.waits_for("loopwatch_monitor_events_total{", 400)


def test_another_exchange_and_only_that(rabbitmq_url: str) -> None:
    with consuming(rabbitmq_url, event_exchange="mine") as monitor:
        emit(rabbitmq_url, 5)
        emit(rabbitmq_url, 3, event_exchange="mine")
        monitor.waits_for("celery_task_received_total{", 3)


def test_a_stall_of_ours_loses_nothing(own_server: RabbitMQ, tmp_path: Path) -> None:
    """It outlasts the five seconds that Celery's own event queues keep a message for."""
    with running_monitor(own_server.url(), tmp_path) as monitor:
        emit(own_server.url(), 1)
        until(lambda: monitor.value("celery_task_received_total") == 1, "an event")
        monitor.process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        # More than lies in the sockets, and at once: a stall of ours that lasts is taken for our end.
        event = {"type": "task-received", "hostname": "w@h", "timestamp": 1.0, "uuid": "1", "args": "x" * 500}
        with Connection(own_server.url()) as connection:
            producer = connection.Producer(exchange=Exchange("celeryev", type="topic"))
            for _ in range(200):
                producer.publish(
                    json.dumps([event] * 100).encode(),
                    "task.multi",
                    1,
                    content_type="application/json",
                    content_encoding="utf-8",
                )
        until(lambda: time.monotonic() > begun + 7, "the end of the stall")
        monitor.process.send_signal(signal.SIGCONT)
        until(lambda: monitor.value("celery_task_received_total") == 20_001, "all events")
        assert monitor.value("loopwatch_monitor_reconnects_total") == 0


def test_a_broker_that_is_frozen_is_found(own_server: RabbitMQ, tmp_path: Path) -> None:
    with running_monitor(own_server.url(), tmp_path) as monitor:
        emit(own_server.url(), 3)
        until(lambda: monitor.value("celery_task_received_total") == 3, "3 events")
        own_server.signal(signal.SIGSTOP)
        until(lambda: monitor.value("loopwatch_monitor_broker_up") == 0, "broker_up 0")
        assert monitor.value("celery_task_received_total") == 3
        own_server.signal(signal.SIGCONT)
        until(lambda: monitor.value("loopwatch_monitor_broker_up") == 1, "broker_up 1")
        emit(own_server.url(), 2)
        until(lambda: monitor.value("celery_task_received_total") == 5, "5 events")
        assert monitor.value("loopwatch_monitor_broker_down_seconds_total") > 0
