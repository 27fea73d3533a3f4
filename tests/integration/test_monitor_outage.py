"""A broker that goes away: survived with everything that was counted, and shown."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from app.demo.servers import Server
from tests.integration.monitor_hub import emit
from tests.integration.monitor_process import MONITOR, Monitor, running_monitor, until
from tests.integration.redis_broker import Broker, running_broker
from tests.ports import refusing_port


@pytest.fixture
def broker(redis_server: Server, tmp_path: Path) -> Iterator[Broker]:
    with running_broker(redis_server, tmp_path) as broker:
        yield broker


@pytest.fixture
def monitor(broker: Broker, tmp_path: Path) -> Iterator[Monitor]:
    with running_monitor(broker.url, tmp_path) as found:
        yield found


def received(monitor: Monitor, number: int) -> None:
    until(lambda: monitor.value("celery_task_received_total") == number, f"{number} events")


def connected(monitor: Monitor, up: bool) -> None:
    until(lambda: monitor.value("loopwatch_monitor_broker_up") == up, f"broker_up {int(up)}")


def test_a_broker_that_is_not_there_at_the_start_is_one_line_and_exit_code_2() -> None:
    with refusing_port() as port:
        command = [*MONITOR, "--broker-url", f"redis://:secret@127.0.0.1:{port}/0"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "--broker-url" in line
    assert "Connection refused" in line
    assert "secret" not in line


def test_a_broker_that_is_killed_and_comes_back(broker: Broker, monitor: Monitor) -> None:
    emit(broker.url, 10)
    received(monitor, 10)
    assert monitor.value("loopwatch_monitor_reconnects_total") == 0
    broker.kill()
    connected(monitor, False)
    until(lambda: monitor.value("loopwatch_monitor_reconnects_total") == 1, "the loss to be counted")
    assert monitor.value("celery_task_received_total") == 10
    status, _, health = monitor.get("/health")
    assert (status, json.loads(health)["status"]) == (503, "unavailable")

    broker.start()
    connected(monitor, True)
    emit(broker.url, 5)
    received(monitor, 15)
    assert monitor.value("loopwatch_monitor_reconnects_total") == 1
    until(lambda: monitor.get("/health")[0] == 200, "health")


def test_a_broker_that_falls_silent_is_found(broker: Broker, monitor: Monitor) -> None:
    emit(broker.url, 1)
    received(monitor, 1)
    broker.signal(signal.SIGSTOP)
    connected(monitor, False)
    broker.signal(signal.SIGCONT)
    connected(monitor, True)
    emit(broker.url, 1)
    received(monitor, 2)


def test_a_subscription_that_redis_drops_is_made_anew_and_counted(broker: Broker, monitor: Monitor) -> None:
    broker.drop_subscribers()
    until(lambda: monitor.value("loopwatch_monitor_reconnects_total") == 1, "the loss to be counted")
    connected(monitor, True)
    emit(broker.url, 3)
    received(monitor, 3)


def test_a_password_that_changes_and_changes_back(redis_server: Server, tmp_path: Path) -> None:
    """Nobody can log in with the old one: what the monitor can do is to go on serving, and trying."""
    with running_broker(redis_server, tmp_path) as broker:
        broker.do("CONFIG", "SET", "requirepass", "first-secret")
        broker.url = broker.url.replace("//", "//:first-secret@")
        with running_monitor(broker.url, tmp_path) as monitor:
            emit(broker.url, 3)
            received(monitor, 3)
            broker.do("CONFIG", "SET", "requirepass", "second-secret")
            with redis.Redis.from_url(broker.url.replace("first", "second")) as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                connected(monitor, False)
                until(lambda: "WRONGPASS" in monitor.log.read_text(), "the refusal in the log")
                assert monitor.value("celery_task_received_total") == 3
                client.execute_command("CONFIG", "SET", "requirepass", "first-secret")
            connected(monitor, True)
            emit(broker.url, 2)
            received(monitor, 5)
            assert monitor.value("loopwatch_monitor_broker_down_seconds_total") > 0
            assert "secret" not in monitor.log.read_text()
            assert "secret" not in monitor.get("/metrics")[2] + monitor.get("/health")[2]


def test_a_message_that_is_cut_off_is_counted_as_lost(broker: Broker, monitor: Monitor) -> None:
    """Redis drops a subscriber in the middle of its messages when too much is left with it."""
    broker.do("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 60")
    emit(broker.url, 1)
    received(monitor, 1)
    monitor.process.send_signal(signal.SIGSTOP)
    with redis.Redis.from_url(broker.url) as client:
        while client.publish("/0.celeryev/task.multi", b"x" * 100_000):
            pass
    monitor.process.send_signal(signal.SIGCONT)
    until(lambda: monitor.value("loopwatch_monitor_reconnects_total") == 1, "the loss of the connection")
    connected(monitor, True)
    emit(broker.url, 2)
    received(monitor, 3)
    assert monitor.series("loopwatch_monitor_events_lost_total") == {("buffer_full",): 0, ("disconnected",): 1}
    assert monitor.series("loopwatch_monitor_events_malformed_total")["envelope",] > 0
    (told,) = [line for line in monitor.lines() if line["event"] == "events_lost_by_disconnection"]
    assert "client-output-buffer-limit" in str(told["fix"])
