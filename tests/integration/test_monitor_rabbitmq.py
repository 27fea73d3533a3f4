"""The monitor on a real RabbitMQ: exact counts, nothing left behind, outages survived."""

# kombu is typed in parts.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from amqp.exceptions import NotFound, ResourceLocked
from celery import Celery
from kombu import Connection

from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.kombu import KombuIntake
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.settings import Settings
from tests.integration.monitor_process import MONITOR, running_monitor, running_worker, until
from tests.rabbitmq import RabbitMQ, start_rabbitmq


@pytest.fixture
def own_server(rabbitmq_server: RabbitMQ, tmp_path: Path) -> Iterator[RabbitMQ]:
    """One that the test may kill; asked for after the shared one, which skips where there is none."""
    server = start_rabbitmq(tmp_path / "rabbitmq")
    yield server
    server.close()


def emit(url: str, number: int) -> None:
    """Sends task events as a worker does."""
    app = Celery(broker=url, set_as_current=False)
    with app.connection_for_write() as connection, app.events.Dispatcher(connection, hostname="w@h") as dispatcher:
        for uuid in range(number):
            dispatcher.send("task-received", uuid=str(uuid), name="t")


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
        assert monitor.series("celery_task_succeeded_total") == {
            ("ok", "w@here", "logs"): 40,
            ("ok", "w@here", "content"): 10,
        }
        assert monitor.series("celery_task_failed_total") == {("bad", "w@here", "logs", "KeyError"): 3}
        assert monitor.value("celery_task_sent_total") == 53
        assert monitor.value("loopwatch_monitor_reconnects_total") == 0


def test_the_event_queue_is_the_monitors_alone_and_goes_with_it(
    rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = uuid.UUID(int=1)
    monkeypatch.setattr(uuid, "uuid4", lambda: name)
    status = BrokerStatus()
    hub = Hub(Settings(broker_url=rabbitmq_url), status=status, version="1")
    intake = KombuIntake(rabbitmq_url, sink=hub.receive, refused=hub.refuse, status=status)
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
        assert monitor.value("loopwatch_monitor_reconnects_total") == 1
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
