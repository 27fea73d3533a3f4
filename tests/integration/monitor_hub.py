"""The monitor's intake and state in this process, on a real broker, and who publishes to them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery

from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.run import make_intake
from loopwatch_monitor.settings import Settings
from tests.integration.monitor_process import until


class Consuming:
    """A hub that an intake feeds."""

    def __init__(self, hub: Hub, status: BrokerStatus) -> None:
        self.hub = hub
        self.status = status

    def counted(self, name: str) -> float:
        """The sum of the samples that begin so, now."""
        self.hub.tick()
        lines = self.hub.page().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def malformed(self, reason: str) -> float:
        """Events that could not be read for this reason."""
        return self.counted(f'loopwatch_monitor_events_malformed_total{{reason="{reason}"}}')

    def waits_for(self, name: str, value: float) -> None:
        """Waits until the sum of these samples is so much, and stays no less."""
        until(lambda: self.counted(name) >= value, f"{name} to be {value}")
        assert self.counted(name) == value


@contextmanager
def consuming(broker: str, **settings: Any) -> Iterator[Consuming]:
    """The intake that the monitor takes for this broker, connected."""
    chosen, status = Settings(broker_url=broker, **settings), BrokerStatus()
    hub = Hub(chosen, status=status, version="1")
    intake = make_intake(chosen, hub, status)
    intake.probe()
    intake.start()
    try:
        until(lambda: status.up, "the connection")
        yield Consuming(hub, status)
    finally:
        intake.close()


def emit(broker: str, number: int = 1, **conf: Any) -> None:
    """Sends task events as a worker does; ``conf``: Celery's settings."""
    with Celery(broker=broker, set_as_current=False) as app:
        app.conf.update(conf)
        with app.connection_for_write() as connection, app.events.Dispatcher(connection, hostname="w@h") as dispatcher:
            for uuid in range(number):
                dispatcher.send("task-received", uuid=str(uuid), name="t")


class Publisher:
    """Publishes to Redis what a worker would, and what none would."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._channel = f"/{url.rpartition('/')[2]}.celeryev/task.multi"

    def raw(self, data: bytes) -> None:
        """A message as it is."""
        assert self._client.publish(self._channel, data) == 1

    def body(self, body: bytes) -> None:
        """A message of this body."""
        self.raw(wrapped(body))

    def bodies(self, bodies: list[bytes]) -> None:
        """Many messages, as fast as it goes."""
        for start in range(0, len(bodies), 1000):
            pipeline = self._client.pipeline(transaction=False)
            for body in bodies[start : start + 1000]:
                pipeline.publish(self._channel, wrapped(body))
            assert set(pipeline.execute()) == {1}

    def close(self) -> None:
        """Lets go of the connection."""
        self._client.close()


def wrapped(body: bytes) -> bytes:
    """kombu's envelope."""
    envelope = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {},
        "properties": {
            "delivery_mode": 1,
            "delivery_info": {"exchange": "celeryev", "routing_key": "task.multi"},
            "body_encoding": "base64",
            "delivery_tag": "1",
            "priority": 0,
        },
    }
    return json.dumps(envelope).encode()
