"""One consumer of events in a process of its own: ``python -m benchmarks.consumers NAME BROKER EVENTS TTL``.

It prints a line ``ready`` when it is subscribed, and at the end (all events came, or none any more) a `Consumed` as
JSON. Nothing is imported here that our consumer does not need: what it takes up in memory is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["CONSUMERS", "Consumed"]

QUIET_SECONDS = 5.0
"""Without an event for so long after the first, it is over."""
FIRST_SECONDS = 60.0
"""Without any event for so long, too."""
SUBSCRIBE_SECONDS = 3.0
"""Those that do not tell when they are subscribed are, after this."""
_Count = Callable[[], int]
_Start = Callable[[str, float], _Count]
"""Starts to consume from a broker, and counts from then on. The second argument is Celery's ``event_queue_ttl``, which
ours does not heed."""


@dataclass(frozen=True)
class Consumed:
    """What a consumer did. ``cpu_seconds``: of its whole process, from ready to the end; memory: resident, in bytes,
    at its highest and at the end."""

    events: int
    cpu_seconds: float
    peak_bytes: int
    end_bytes: int

    @property
    def rate(self) -> float:
        """Events a CPU-second."""
        return self.events / self.cpu_seconds


def _loopwatch(broker: str, ttl: float) -> _Count:
    """The monitor without its web server: intake, fold, counters."""
    from loopwatch_monitor.hub import Hub
    from loopwatch_monitor.intake.status import BrokerStatus
    from loopwatch_monitor.run import make_intake, spare_the_intake
    from loopwatch_monitor.settings import Settings

    settings, status = Settings(broker_url=broker), BrokerStatus()
    hub = Hub(settings, status=status, version="benchmark")
    spare_the_intake()
    make_intake(settings, hub, status).start()
    while not status.up:
        time.sleep(0.01)
    return hub.events


def _receiver(broker: str, ttl: float) -> _Count:
    """Celery's own EventReceiver with a handler that does nothing but count."""
    count = [0]

    def handler(event: object) -> None:
        count[0] += 1

    def consume() -> None:
        app = _app(broker, ttl)
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": handler})
            receiver.capture(limit=None, timeout=None, wakeup=False)

    threading.Thread(target=consume, daemon=True).start()
    time.sleep(SUBSCRIBE_SECONDS)
    return lambda: count[0]


def _flower(broker: str, ttl: float) -> _Count:
    """Flower's event consumer and its state, metrics included, on tornado's loop as Flower runs them."""
    from flower.events import Events  # type: ignore[import-untyped,import-not-found,unused-ignore]
    from flower.options import default_options  # type: ignore[import-untyped,import-not-found,unused-ignore]
    from tornado.ioloop import IOLoop  # type: ignore[import-not-found,unused-ignore]

    loops: list[IOLoop] = []
    running = threading.Event()

    def serve() -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())
        loops.append(IOLoop.current())
        loops[0].add_callback(running.set)
        loops[0].start()

    threading.Thread(target=serve, daemon=True).start()
    running.wait()
    tasks = default_options.max_tasks
    events = Events(_app(broker, ttl), loops[0], enable_events=False, max_tasks_in_memory=tasks)
    events.start()
    time.sleep(SUBSCRIBE_SECONDS)
    return lambda: sum(sum(kinds.values()) for kinds in list(events.state.counter.values()))


CONSUMERS: dict[str, _Start] = {
    "loopwatch": _loopwatch,
    "EventReceiver": _receiver,
    "flower": _flower,
}


def _app(broker: str, ttl: float) -> Celery:
    from celery import Celery

    app = Celery(broker=broker, set_as_current=False)
    app.conf.event_queue_ttl = ttl
    return app


def _memory(field: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024


def main(name: str, broker: str, expected: int, ttl: float) -> None:
    """Consumes and reports."""
    count = CONSUMERS[name](broker, ttl)
    print("ready", flush=True)
    start, seen, quiet = time.process_time(), 0, time.monotonic()
    while seen < expected:
        time.sleep(0.05)
        now = count()
        if now != seen:
            seen, quiet = now, time.monotonic()
        elif time.monotonic() - quiet > (QUIET_SECONDS if seen else FIRST_SECONDS):
            break
    consumed = Consumed(seen, time.process_time() - start, _memory("VmHWM"), _memory("VmRSS"))
    print(json.dumps(asdict(consumed)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
