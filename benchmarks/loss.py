"""What is lost: in a burst, also while a large page is scraped without pause; in a steady flow; and of the names and
queues of tasks in flight.

``python -m benchmarks.loss`` prints it.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

from app.demo.servers import ServerMissingError, start_redis
from benchmarks.consumers import Consumed
from benchmarks.intake import consumers, result, running
from benchmarks.publish import as_commands, command, to_rabbitmq, to_redis
from benchmarks.scrape import Fleet, life
from benchmarks.stream import in_flight
from tests.integration.monitor_hub import Consuming, Publisher, consuming, wrapped
from tests.integration.monitor_process import Monitor, running_monitor
from tests.rabbitmq import start_rabbitmq

__all__ = [
    "BURST_TASKS",
    "Flow",
    "ScrapedBurst",
    "burst",
    "burst_while_scraped",
    "on_rabbitmq",
    "steady",
    "wrong_in_flight",
]

BURST_TASKS = 50_000
"""Four events each, as everywhere."""
STEADY_TASKS, STEADY_RATE = 37_500, 15_000
"""Events a second: for long enough that what Flower leaves unread passes Redis' limit."""
RABBITMQ_TASKS, RABBITMQ_RATE = 25_000, 28_000
LARGE = Fleet(tasks=70, workers=40, queues=3)
"""Its page: 100,000 series, 15 MB."""
PATIENCE_SECONDS = 5.0
"""Without a new event for so long, it is over."""


@dataclass(frozen=True)
class Flow:
    """What was sent, in how many seconds, and what a consumer took of it."""

    sent: int
    seconds: float
    consumed: Consumed

    @property
    def lost(self) -> int:
        """Events that did not arrive."""
        return self.sent - self.consumed.events


@dataclass(frozen=True)
class ScrapedBurst:
    """What was sent, in how many seconds, what of it did not arrive; the page, and the longest that a scrape took."""

    sent: int
    seconds: float
    lost: int
    page_bytes: int
    longest_scrape: float


def burst(directory: Path, *, tasks: int = BURST_TASKS, consumer: str = "loopwatch") -> Flow:
    """The events as fast as Redis takes them, its buffer limits being its own."""
    server = start_redis(directory)
    try:
        commands = as_commands(tasks)
        return _flow(consumer, server.url, tasks, lambda: to_redis(server.url, commands))
    finally:
        server.close()


def steady(directory: Path, *, tasks: int = STEADY_TASKS, rate: int = STEADY_RATE) -> dict[str, Flow]:
    """So many events a second from Redis, by consumer; a receiver that does nothing loses nothing and is left out."""
    server = start_redis(directory)
    try:
        commands, seconds = as_commands(tasks), 4 * tasks / rate
        names = [name for name in consumers() if name != "EventReceiver"]
        return {
            name: _flow(name, server.url, tasks, lambda: to_redis(server.url, commands, seconds=seconds))
            for name in names
        }
    finally:
        server.close()


def on_rabbitmq(directory: Path, *, tasks: int = RABBITMQ_TASKS, rate: int = RABBITMQ_RATE) -> dict[str, Flow]:
    """So many events a second from RabbitMQ, by consumer."""
    server = start_rabbitmq(directory)
    try:
        url, seconds = server.url(), 4 * tasks / rate
        return {name: _flow(name, url, tasks, lambda: to_rabbitmq(url, tasks, seconds=seconds)) for name in consumers()}
    finally:
        server.close()


def _flow(consumer: str, broker: str, tasks: int, send: Callable[[], float]) -> Flow:
    with running(consumer, broker, 4 * tasks) as process:
        seconds = send()
        return Flow(4 * tasks, seconds, result(process))


def wrong_in_flight(directory: Path, *, tasks: int = 30_000) -> int:
    """Of so many tasks that are all under way at once, those that are not counted with their name and queue at their
    end."""
    server = start_redis(directory)
    try:
        with consuming(server.url) as monitor:
            publisher = Publisher(server.url)
            publisher.bodies([*in_flight(tasks)])
            publisher.close()
            _settled(monitor.hub.events, 4 * tasks)
            return tasks - sum(_right(monitor, tasks, name, queue) for name, queue in product(range(7), range(3)))
    finally:
        server.close()


def _right(monitor: Consuming, tasks: int, name: int, queue: int) -> int:
    labels = f'name="t{name}",hostname="w@h",queue_name="q{queue}"'
    expected = sum((number % 7, number % 3) == (name, queue) for number in range(tasks))
    return min(expected, int(monitor.counted(f"celery_task_succeeded_total{{{labels}}}")))


def burst_while_scraped(directory: Path, *, tasks: int = BURST_TASKS, fleet: Fleet = LARGE) -> ScrapedBurst:
    """The same burst into a whole monitor that knows a fleet, while its page (not compressed) is scraped all along."""
    server = start_redis(directory)
    commands = as_commands(tasks)
    known = [
        command(
            "PUBLISH", "/0.celeryev/task.multi", wrapped(json.dumps(life(task, worker, task % fleet.queues)).encode())
        )
        for task, worker in product(range(fleet.tasks), range(fleet.workers))
    ]
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    try:
        with running_monitor(server.url, directory) as monitor:
            to_redis(server.url, known)
            before = _settled(lambda: _events(monitor), 4 * len(known))
            scraper = spawn.Process(target=_scrape, args=(theirs, urlsplit(monitor.url).port), daemon=True)
            scraper.start()
            size, _ = ours.recv()
            seconds = to_redis(server.url, commands)
            seen = _settled(lambda: _events(monitor), before + 4 * tasks) - before
            scraper.kill()
            scraper.join()
            theirs.close()
            return ScrapedBurst(4 * tasks, seconds, 4 * tasks - seen, size, _longest(ours))
    finally:
        server.close()


def _events(monitor: Monitor) -> int:
    _, _, page = monitor.get("/metrics?name[]=loopwatch_monitor_events_total")
    return int(
        sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith("loopwatch_monitor"))
    )


def _settled(count: Callable[[], int], expected: int) -> int:
    """The count, once it is as expected or does not rise any more."""
    seen, since = count(), time.monotonic()
    while seen < expected and time.monotonic() - since < PATIENCE_SECONDS:
        time.sleep(0.1)
        if (now := count()) != seen:
            seen, since = now, time.monotonic()
    return seen


def _scrape(parent: Connection, port: int) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port)
    while True:
        start = perf_counter()
        client.request("GET", "/metrics")
        size = len(client.getresponse().read())
        parent.send((size, perf_counter() - start))


def _longest(scrapes: Connection) -> float:
    longest = 0.0
    while scrapes.poll():
        try:
            longest = max(longest, scrapes.recv()[1])
        except EOFError:
            break
    return longest


def main() -> int:
    """Prints everything; exit code 2 when there is no Redis or no RabbitMQ."""
    with tempfile.TemporaryDirectory(prefix="loopwatch-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        try:
            print("burst:", burst(directory / "burst"), flush=True)
            print("while scraped:", burst_while_scraped(directory / "scraped"), flush=True)
            for what, flows in (
                ("Redis", steady(directory / "steady")),
                ("RabbitMQ", on_rabbitmq(directory / "rabbitmq")),
            ):
                for consumer, flow in flows.items():
                    print(
                        f"{what}, {consumer}: lost {flow.lost:,} of {flow.sent:,} sent in {flow.seconds:.1f} s",
                        flush=True,
                    )
            print("in flight, wrong:", wrong_in_flight(directory / "in-flight"))
        except ServerMissingError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
