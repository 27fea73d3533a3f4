"""A stream of events such as Celery's workers send, made of genuine recorded ones, for the benchmarks of the intake.

Each task is sent by a client (`task-sent`, a message of its own), received, started, and ends. A worker's events come
in `task.multi` messages as prefork workers batch them: some tasks' in one, most tasks' in two. That makes 1.57 events
a message and 0.72 kB an event on the wire, as recorded.
"""

from __future__ import annotations

import base64
import json
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kombu.utils.json import dumps

__all__ = ["TASK_NAMES", "envelopes", "in_flight", "messages"]

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "tests" / "data" / "celery-events.json").read_text(encoding="utf-8")
)
TASK_NAMES, WORKERS, QUEUES = 20, 8, 3
SPLIT = 0.55
"""Share of the tasks whose worker's events come in two messages."""
FAILED, RETRIED = 0.01, 0.01

_Message = tuple[str, list[dict[str, Any]]]
"""A routing key and the events; what is not `task.multi` holds one."""


def messages(tasks: int, *, seed: int = 1) -> Iterator[_Message]:
    """The messages of so many tasks; every event has its own task id, host, queue and time."""
    source = random.Random(seed)
    for number in range(tasks):
        about = {
            "uuid": str(uuid.UUID(int=source.getrandbits(128), version=4)),
            "timestamp": 1_700_000_000.0 + number / 1000,
        }
        name, queue = f"app.tasks.job_{source.randrange(TASK_NAMES)}", f"queue{source.randrange(QUEUES)}"
        worker = {**about, "hostname": f"worker{source.randrange(WORKERS)}@host"}
        sent = _event("task-sent", about, name=name, queue=queue, routing_key=queue, root_id=about["uuid"])
        yield "task.sent", [sent]
        received = _event("task-received", worker, name=name, root_id=about["uuid"])
        started = _event("task-started", worker)
        end = _event(_end(source.random()), worker)
        if source.random() < SPLIT:
            yield "task.multi", [received, started]
            yield "task.multi", [end]
        else:
            yield "task.multi", [received, started, end]


def envelopes(tasks: int, *, seed: int = 1) -> Iterator[tuple[str, bytes]]:
    """The same as kombu's Redis transport publishes them: channel and envelope."""
    source = random.Random(seed)
    template = RECORDED["__multi__"]["envelope"]
    for routing_key, events in messages(tasks, seed=seed):
        body = dumps(events if routing_key == "task.multi" else events[0]).encode()
        properties = {
            **template["properties"],
            "delivery_info": {"exchange": "celeryev", "routing_key": routing_key},
            "delivery_tag": str(uuid.UUID(int=source.getrandbits(128), version=4)),
        }
        envelope = {**template, "body": base64.b64encode(body).decode(), "properties": properties}
        yield f"/0.celeryev/{routing_key}", dumps(envelope).encode()


def in_flight(tasks: int) -> Iterator[bytes]:
    """Bodies of messages: all of the tasks are sent, received and started before the first of them ends. Task ``n`` has
    the name ``t{n % 7}`` and the queue ``q{n % 3}``, which only the event of its sending tells."""

    def event(kind: str, number: int, hostname: str, **more: object) -> dict[str, object]:
        return {"type": kind, "hostname": hostname, "timestamp": 1.0, "uuid": f"task-{number}"} | more

    for number in range(tasks):
        yield dumps(event("task-sent", number, "gen1@h", name=f"t{number % 7}", queue=f"q{number % 3}")).encode()
    for number in range(tasks):
        received = event("task-received", number, "w@h", name=f"t{number % 7}")
        yield dumps([received, event("task-started", number, "w@h")]).encode()
    for number in range(tasks):
        yield dumps(event("task-succeeded", number, "w@h", runtime=1.0)).encode()


def _event(kind: str, about: dict[str, Any], **changes: Any) -> dict[str, Any]:
    recorded: dict[str, Any] = RECORDED[kind]["event"]
    return {**recorded, **about, **changes}


def _end(chance: float) -> str:
    if chance < FAILED:
        return "task-failed"
    return "task-retried" if chance < FAILED + RETRIED else "task-succeeded"
