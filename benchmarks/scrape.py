"""What a scrape costs: processor time and size of a page of two fleets, by series, compressed or not.

`python -m benchmarks.scrape` prints it; `measure` and `measure_under_load` return it as plain numbers.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import statistics
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from time import perf_counter, process_time, sleep

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from loopwatch_monitor.addresses import Address
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.batch import Batch
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.negotiate import Format
from loopwatch_monitor.run import spare_the_intake
from loopwatch_monitor.scrape import Variant, render
from loopwatch_monitor.server import Server
from loopwatch_monitor.settings import Settings

__all__ = [
    "LARGE",
    "SMALL",
    "Fleet",
    "LoadedScrape",
    "Scrape",
    "life",
    "measure",
    "measure_under_load",
    "prometheus_client_seconds",
]

ROUNDS = 5
EVENTS_PER_SECOND = 10_000


@dataclass(frozen=True)
class Fleet:
    """Tasks, each of which runs on each worker; a worker consumes one of the queues."""

    tasks: int
    workers: int
    queues: int
    every_queue: bool = False
    """Whether each task runs from every queue on each worker, instead of from its own: so many times the series."""


SMALL = {
    "20 tasks x 8 workers x 3 queues": Fleet(20, 8, 3),
    "the same, each task from every queue": Fleet(20, 8, 3, every_queue=True),
}
LARGE = Fleet(500, 50, 3)


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


@dataclass(frozen=True)
class LoadedScrape:
    """Scrapes over HTTP (OpenMetrics, gzip) of a monitor that folds events meanwhile."""

    p50: float
    p99: float
    bytes: int
    events_per_second: float
    """What was folded: less than was asked for where the scrapes are in the way."""
    longest_message: float
    """Seconds, the longest that one message took to be taken in."""


def a_hub(fleet: Fleet) -> Hub:
    """A hub that has seen every task of the fleet run."""
    hub = Hub(Settings(broker_url="memory://"), status=BrokerStatus(up=True), version="0")
    queues = range(fleet.queues)
    for task in range(fleet.tasks):
        for worker in range(fleet.workers):
            for queue in queues if fleet.every_queue else [task % fleet.queues]:
                _receive(hub, json.dumps(life(task, worker, queue)).encode())
    return hub


def _receive(hub: Hub, body: bytes) -> None:
    batch = Batch()
    batch.add(body, "application/json")
    hub.receive(batch)


def life(task: int, worker: int, queue: int) -> list[dict[str, object]]:
    """The events of one run of a task."""
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


def measure_under_load(fleet: Fleet, *, scrapes: int = 200, pause: float = 0.05) -> LoadedScrape:
    """Scrapes a monitor in another process while events of its fleet flow into it, `EVENTS_PER_SECOND`."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_monitor, args=(theirs, fleet), daemon=True)
    process.start()
    theirs.close()  # so that its end is heard of
    port = ours.recv()
    client = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"}
    taken, size = [], 0
    for _ in range(scrapes):
        start = perf_counter()
        client.request("GET", "/metrics", headers=headers)
        size = len(client.getresponse().read())
        taken.append(perf_counter() - start)
        sleep(pause)
    client.close()
    ours.send("stop")
    rate, longest = ours.recv()
    process.join()
    taken.sort()
    return LoadedScrape(taken[len(taken) // 2], taken[int(len(taken) * 0.99) - 1], size, rate, longest)


def _monitor(parent: Connection, fleet: Fleet) -> None:
    spare_the_intake()
    asyncio.run(_serve(parent, fleet))


async def _serve(parent: Connection, fleet: Fleet) -> None:
    hub = a_hub(fleet)
    server = Server(pieces=hub.pieces, probe=lambda: None, status=BrokerStatus(up=True), version="0")
    (address,) = await server.start([Address("127.0.0.1")])
    feed = _Feed(hub, fleet)
    feed.start()
    parent.send(address.port)
    await asyncio.to_thread(parent.recv)
    parent.send(feed.stop())
    await server.close()


class _Feed(threading.Thread):
    """Hands lives of tasks to a hub, at a steady rate, as its intake's thread does."""

    def __init__(self, hub: Hub, fleet: Fleet) -> None:
        super().__init__(daemon=True)
        self._hub = hub
        self._bodies = cycle(
            json.dumps(life(task, worker, task % fleet.queues)).encode()
            for task in range(min(fleet.tasks, 100))
            for worker in range(fleet.workers)
        )
        self._stopping = threading.Event()
        self._messages = 0
        self._longest = 0.0
        self._began = perf_counter()

    def run(self) -> None:
        while not self._stopping.is_set():
            due = int((perf_counter() - self._began) * EVENTS_PER_SECOND / 4)
            while self._messages < due:
                start = perf_counter()
                _receive(self._hub, next(self._bodies))
                self._longest = max(self._longest, perf_counter() - start)
                self._messages += 1
            self._stopping.wait(0.001)

    def stop(self) -> tuple[float, float]:
        """Events a second, and the longest that one message took."""
        self._stopping.set()
        self.join()
        return self._messages * 4 / (perf_counter() - self._began), self._longest


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
    for title, fleet in {**SMALL, "500 tasks x 50 workers": LARGE}.items():
        for form in Format:
            found = measure(fleet, form=form)
            print(
                f"{title}, {form.name.lower()}: {found.series:,} series; "
                f"plain {found.seconds * 1e3:.1f} ms ({found.seconds / found.series * 1e8:.1f} ms a 100,000 series), "
                f"{found.plain_bytes / 1e6:.2f} MB; "
                f"gzip {found.gzip_seconds * 1e3:.1f} ms, {found.gzip_bytes / 1e6:.2f} MB",
                flush=True,
            )
        loaded = measure_under_load(fleet, scrapes=200 if fleet.tasks * fleet.workers < 1000 else 10)
        print(
            f"{title}, over HTTP while {loaded.events_per_second:,.0f} events/s flow: p50 {loaded.p50 * 1e3:.1f} ms, "
            f"p99 {loaded.p99 * 1e3:.1f} ms, {loaded.bytes / 1e6:.2f} MB; "
            f"longest message {loaded.longest_message * 1e3:.1f} ms",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
