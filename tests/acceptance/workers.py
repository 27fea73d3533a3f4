"""Real Celery workers for the tests: subprocesses, and a listener for the events that they publish."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

from celery import Celery

from loopwatch.telemetry import catalogue, wire
from loopwatch.telemetry.catalogue import Metric
from tests.acceptance.patience import DEADLINE
from tests.acceptance.process_groups import descendants

__all__ = ["DEADLINE", "ROOT", "WORKER_APP", "Listener", "Worker", "wait_until", "worker"]

ROOT = Path(__file__).resolve().parents[2]
WORKER_APP = "tests.acceptance.worker_app"
T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: Callable[[], object] = lambda: "") -> T:
    """The condition's first true value."""
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"in vain for {DEADLINE} s; last: {what()}"
        time.sleep(0.02)
    return value


class Listener:
    """The newest snapshot of each node and the conflicts that were reported whole, from the broker's events."""

    def __init__(self, url: str, *, results: str | None = None) -> None:
        self.app = Celery("listener", broker=url, backend=results or url)
        self.snapshots: dict[str, dict[str, Any]] = {}
        self.conflicts: list[dict[str, Any]] = []
        self.types: list[str] = []
        self._receiver: Any = None
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Listener:
        self._thread.start()
        assert self._listening.wait(DEADLINE)
        wait_until(self._hears)
        return self

    def __exit__(self, *_: object) -> None:
        self._receiver.should_stop = True
        self._thread.join()
        self.app.close()

    def _listen(self) -> None:
        with self.app.connection_for_read() as connection:
            self._receiver = self.app.events.Receiver(connection, handlers={"*": self._take})
            self._receiver.on_consume_ready = lambda *_, **__: self._listening.set()
            self._receiver.capture(wakeup=False)

    def _hears(self) -> bool:
        """Whether an event of our own arrives: of Redis they are asked a little after the receiver says it is ready."""
        if not any(name.startswith("mark-") for name in self.types):
            self._send_mark()
        return any(name.startswith("mark-") for name in self.types)

    def _send_mark(self) -> str:
        mark = f"mark-{uuid4()}"
        with self.app.connection_for_write() as connection:
            self.app.events.Dispatcher(connection, groups=["mark"]).send(mark)
        return mark

    def _take(self, event: dict[str, Any]) -> None:
        self.types.append(event["type"])
        if event["type"] == wire.EVENT_TYPE:
            self.snapshots[event["hostname"]] = event
        elif event["type"] == wire.CONFLICT_TYPE:
            self.conflicts.append(event)

    def last(self, node: str) -> dict[str, Any]:
        """Waits for the snapshot of the node's end, the last one; returns it."""

        def ended() -> dict[str, Any] | None:
            snapshot = self.snapshots.get(node)
            return snapshot if snapshot and snapshot["stopping"] else None

        return cast("dict[str, Any]", wait_until(ended, lambda: self.snapshots))

    def wait_for_control(self, node: str) -> None:
        """Waits until the node takes commands: it is ready a little sooner, and Redis keeps none for it."""
        wait_until(lambda: self.app.control.ping(destination=[node]))

    def wait_until_active(self, node: str, tasks: set[str]) -> None:
        """Waits until the worker's parent knows that these tasks have begun, and no others: what they do is seen
        sooner, and so are their results."""
        inspect = self.app.control.inspect(destination=[node])

        def active() -> set[str] | None:
            found = (inspect.active() or {}).get(node)
            return None if found is None else {task["id"] for task in found}

        wait_until(lambda: active() == tasks, active)

    def wait_for_all_sent(self) -> None:
        """Waits for an event of our own: whatever was published before it has arrived by then."""
        mark = self._send_mark()
        wait_until(lambda: mark in self.types)

    def sum(self, node: str, metric: Metric, *labels: str) -> float:
        """A counter in the node's newest snapshot, summed over the series whose labels begin with these."""
        rows = self._rows(node, metric)
        return float(sum(value for own, value in rows if tuple(own[: len(labels)]) == labels))

    def dropped(self, node: str) -> dict[str, float]:
        """What the node has dropped, by reason, a full channel aside: the next snapshot makes up for that."""
        rows = self._rows(node, catalogue.TELEMETRY_DROPPED)
        return {reason: value for [reason], value in rows if value and reason != "channel_full"}

    def _rows(self, node: str, metric: Metric) -> list[Any]:
        rows: list[Any] = self.snapshots.get(node, {}).get("counters", {}).get(metric.wire_name, [])
        return rows


class Worker:
    """A worker process and its log."""

    def __init__(
        self,
        node: str,
        log: Path,
        environment: dict[str, str],
        *options: str,
        app: str = WORKER_APP,
    ) -> None:
        self.node = f"{node}@test"
        self._log = log
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-l", "INFO"]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*command, "-n", self.node, "--without-mingle", "--without-gossip", *options],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(lambda: " ready." in self.log or self.process.poll() is not None, lambda: self.log)
            assert self.process.poll() is None, self.log
        except BaseException:
            self.process.kill()
            raise

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def children(self) -> set[int]:
        """The pids of the pool's children, whichever of its threads forked them."""
        return set(descendants(self.process.pid)) - {self.process.pid}

    def stop(self) -> None:
        """A warm shutdown."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()


@contextmanager
def worker(node: str, log: Path, environment: dict[str, str], *options: str, app: str = WORKER_APP) -> Iterator[Worker]:
    """Runs a worker; stops it warmly. No receiver of Celery's signals may have raised meanwhile."""
    running = Worker(node, log, environment, *options, app=app)
    try:
        yield running
    finally:
        running.stop()
    assert "Signal handler" not in running.log, running.log
