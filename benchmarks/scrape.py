"""What a scrape costs: processor time and size of a page of two fleets, by series, compressed or not.

`python -m benchmarks.scrape` prints it; `measure` returns it as plain numbers.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter, process_time

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.batch import Batch
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.negotiate import Format
from loopwatch_monitor.scrape import Variant, render
from loopwatch_monitor.settings import Settings

__all__ = ["FLEETS", "Fleet", "Scrape", "measure", "prometheus_client_seconds"]

ROUNDS = 5


@dataclass(frozen=True)
class Fleet:
    """Tasks, each of which runs on each worker; a worker consumes one of the queues."""

    tasks: int
    workers: int
    queues: int
    every_queue: bool = False
    """Whether each task runs from every queue on each worker (20 x 8 x 3), instead of from one (500 x 50)."""


FLEETS = {
    "20 tasks x 8 workers x 3 queues": Fleet(20, 8, 3, every_queue=True),
    "500 tasks x 50 workers": Fleet(500, 50, 3),
}


@dataclass(frozen=True)
class Scrape:
    """Medians of one page: processor and wall-clock seconds, series, and bytes."""

    seconds: float
    wall_seconds: float
    series: int
    plain_bytes: int
    gzip_bytes: int
    gzip_seconds: float
    """Processor seconds of the same page rendered and compressed."""


def a_hub(fleet: Fleet) -> Hub:
    """A hub that has seen every task of the fleet run."""
    hub = Hub(Settings(broker_url="memory://"), status=BrokerStatus(up=True), version="0")
    queues = range(fleet.queues)
    for task in range(fleet.tasks):
        for worker in range(fleet.workers):
            for queue in queues if fleet.every_queue else [task % fleet.queues]:
                batch = Batch()
                batch.add(json.dumps(_life(task, worker, queue)).encode(), "application/json")
                hub.receive(batch)
    return hub


def _life(task: int, worker: int, queue: int) -> list[dict[str, object]]:
    uuid, name = f"{task}-{worker}-{queue}", f"shop.module_{task % 40}.tasks.do_something_{task}"
    known = {"uuid": uuid, "utcoffset": 0, "pid": 1, "clock": 1}
    sender, hostname = known | {"hostname": "gen1@api"}, known | {"hostname": f"celery@worker-{worker}.example.org"}
    began = 1000.0 + task % 7
    return [
        sender | {"type": "task-sent", "timestamp": 1000.0, "name": name, "queue": f"queue-{queue}"},
        hostname | {"type": "task-received", "timestamp": 1000.5, "name": name},
        hostname | {"type": "task-started", "timestamp": began},
        hostname | {"type": "task-succeeded", "timestamp": began + 1, "runtime": 0.017 * (task % 300 + worker)},
    ]


def measure(fleet: Fleet, *, form: Format = Format.TEXT, rounds: int = ROUNDS) -> Scrape:
    """Renders the fleet's page ``rounds`` times, plain and compressed."""
    hub = a_hub(fleet)
    plain, compressed = Variant(form), Variant(form, gzip=True)
    page = b"".join(render(hub.pieces, plain))
    packed = b"".join(render(hub.pieces, compressed))
    seconds, wall = _medians(lambda: render(hub.pieces, plain), rounds)
    gzip_seconds, _ = _medians(lambda: render(hub.pieces, compressed), rounds)
    series = sum(1 for line in page.splitlines() if not line.startswith(b"#"))
    return Scrape(seconds, wall, series, len(page), len(packed), gzip_seconds)


def _medians(way: Callable[[], object], rounds: int) -> tuple[float, float]:
    taken = []
    for _ in range(rounds):
        start = process_time(), perf_counter()
        way()
        taken.append((process_time() - start[0], perf_counter() - start[1]))
    return statistics.median(one for one, _ in taken), statistics.median(one for _, one in taken)


def prometheus_client_seconds(series: int = 100_000) -> float:
    """Processor seconds that prometheus_client takes for as many series of three labels."""

    class Tasks(Collector):
        def collect(self) -> Iterable[CounterMetricFamily]:
            family = CounterMetricFamily("celery_task_sent", "Tasks.", labels=["name", "hostname", "queue_name"])
            for number in range(series):
                family.add_metric([f"shop.tasks.do_{number}", f"celery@worker-{number % 50}", "celery"], number)
            yield family

    registry = CollectorRegistry()
    registry.register(Tasks())
    return _medians(lambda: generate_latest(registry), 3)[0]


def main() -> int:
    """Prints the table."""
    print(f"prometheus_client, 100,000 series: {prometheus_client_seconds() * 1e3:.0f} ms of processor time")
    for title, fleet in FLEETS.items():
        for form in Format:
            found = measure(fleet, form=form)
            print(
                f"{title}, {form.name.lower()}: {found.series:,} series; "
                f"plain {found.seconds * 1e3:.1f} ms ({found.seconds / found.series * 1e8:.1f} ms a 100,000 series), "
                f"{found.plain_bytes / 1e6:.2f} MB; "
                f"gzip {found.gzip_seconds * 1e3:.1f} ms, {found.gzip_bytes / 1e6:.2f} MB",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
