"""A broker that goes away: survived with everything that was counted, and shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from app.demo.servers import Server, free_port
from tests.integration.monitor_process import MONITOR, Monitor, running_monitor, until


class Broker:
    """A Redis that a test may kill, freeze and start again, always on the same port."""

    def __init__(self, binary: Path, directory: Path) -> None:
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        self._binary = binary
        self._command = [
            "redis-server",
            "--bind",
            "127.0.0.1",
            "--port",
            str(port),
            "--save",
            "",
            "--dir",
            str(directory),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, executable=self._binary, stdout=subprocess.DEVNULL)
        until(self._answers, "redis")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def drop_subscribers(self) -> None:
        """What Redis does to a subscriber that is too slow."""
        with redis.Redis.from_url(self.url) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@pytest.fixture
def broker(redis_server: Server, tmp_path: Path) -> Iterator[Broker]:
    # The program that the shared server runs (which asks its own name what it is); that server itself must live.
    broker = Broker(Path(f"/proc/{redis_server.pid}/exe").resolve(), tmp_path)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def monitor(broker: Broker, tmp_path: Path) -> Iterator[Monitor]:
    with running_monitor(broker.url, tmp_path) as found:
        yield found


def emit(broker: Broker, number: int) -> None:
    """Sends task events as a worker does."""
    app = Celery(broker=broker.url, set_as_current=False)
    with app.connection_for_write() as connection, app.events.Dispatcher(connection, hostname="w@h") as dispatcher:
        for uuid in range(number):
            dispatcher.send("task-received", uuid=str(uuid), name="t")


def received(monitor: Monitor, number: int) -> None:
    until(lambda: monitor.value("celery_task_received_total") == number, f"{number} events")


def connected(monitor: Monitor, up: bool) -> None:
    until(lambda: monitor.value("loopwatch_monitor_broker_up") == up, f"broker_up {int(up)}")


def test_a_broker_that_is_not_there_at_the_start_is_one_line_and_exit_code_2() -> None:
    command = [*MONITOR, "--broker-url", f"redis://:secret@127.0.0.1:{free_port()}/0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "--broker-url" in line
    assert "Connection refused" in line
    assert "secret" not in line


def test_a_broker_that_is_killed_and_comes_back(broker: Broker, monitor: Monitor) -> None:
    emit(broker, 10)
    received(monitor, 10)
    assert monitor.value("loopwatch_monitor_reconnects_total") == 0
    broker.kill()
    connected(monitor, False)
    assert monitor.value("loopwatch_monitor_reconnects_total") == 1
    assert monitor.value("celery_task_received_total") == 10
    status, _, health = monitor.get("/health")
    assert (status, json.loads(health)["status"]) == (503, "unavailable")

    broker.start()
    connected(monitor, True)
    emit(broker, 5)
    received(monitor, 15)
    assert monitor.value("loopwatch_monitor_reconnects_total") == 1
    until(lambda: monitor.get("/health")[0] == 200, "health")


def test_a_broker_that_falls_silent_is_found(broker: Broker, monitor: Monitor) -> None:
    emit(broker, 1)
    received(monitor, 1)
    broker.signal(signal.SIGSTOP)
    connected(monitor, False)
    broker.signal(signal.SIGCONT)
    connected(monitor, True)
    emit(broker, 1)
    received(monitor, 2)


def test_a_subscription_that_redis_drops_is_made_anew_and_counted(broker: Broker, monitor: Monitor) -> None:
    broker.drop_subscribers()
    until(lambda: monitor.value("loopwatch_monitor_reconnects_total") == 1, "the loss to be counted")
    connected(monitor, True)
    emit(broker, 3)
    received(monitor, 3)
